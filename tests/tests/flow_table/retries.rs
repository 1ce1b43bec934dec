//! SYNs that are refused or not answered, lost backends, and RSTs: what they do to the flow, its books and the counters.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use lb_agent::model::HealthState;
use lb_common::flow::State;
use lb_common::reason::Reason;
use lb_common::stats::{REFUSED, UNANSWERED};
use lb_common::tcp::{ACK, SYN};
use lb_tests::packet::world::{BACKENDS, Family, VIP};
use lb_tests::packet::{Packet, tcp, verify};
use lb_tests::require_data_path;

use crate::cpus::on_each_cpu;
use crate::table::{BACKEND_ISN, CLIENT_ISN, Conn, Table, client, ends};

const XDP_DROP: u32 = 1;

/// Longer than the data path waits for an answer to a SYN.
const PATIENCE: Duration = Duration::from_millis(910);

fn with_retries(retries: u8) -> Table {
    Table::with(512, |world| world.services.iter_mut().for_each(|s| s.policy.retries = retries))
}

fn refusal(conn: &Conn) -> Packet {
    conn.of_backend().rst().seq(0).ack(CLIENT_ISN + 1)
}

/// Sends a packet that becomes a SYN to another backend, from the same port; the flow as it is then.
#[track_caller]
fn moved(table: &Table, conn: &Conn, packet: &Packet) -> Conn {
    let frame = table.pass(packet).unwrap_or_else(|| panic!("dropped: {conn:?}"));
    verify(&frame).unwrap();
    let (snat, to) = ends(&frame);
    let backend = BACKENDS.into_iter().find(|b| b.socket(conn.family) == to).expect("to a backend");
    assert!(snat == conn.snat && backend != conn.backend, "{conn:?} to {to}");
    table.check_books();
    assert_eq!(table.state(conn), State::Syn);
    Conn { backend, ..*conn }
}

fn syn(conn: &Conn) -> Packet {
    conn.of_client().tcp_flags(SYN).seq(CLIENT_ISN).syn_options()
}

#[test]
fn refusals_are_counted_where_they_happened() {
    require_data_path!("refusals_are_counted_where_they_happened");
    let table = with_retries(2);
    for (n, family) in (0..).zip(Family::BOTH) {
        let first = table.syn_of(client(n), family).unwrap();
        let second = moved(&table, &first, &refusal(&first));
        let third = moved(&table, &second, &refusal(&second));
        table.reply(&third, refusal(&third));
        assert_eq!(table.state(&third), State::Closed);
        for (conn, was_moved) in [(first, 1), (second, 1), (third, 0)] {
            let (stats, load) = (table.backend(conn.backend, family), table.load(conn.backend, family));
            assert_eq!((stats.new_flows, stats.refused, stats.moved), (1, 1, was_moved), "{conn:?}");
            assert_eq!((stats.unanswered, load.flows, load.failures), (0, 0, REFUSED), "{conn:?}");
        }
        assert_eq!(table.service(family).new_flows, 1, "one flow, wherever it went");
    }
    assert_eq!(table.counted(Reason::SynRetried), 4);
    table.check_books();
}

/// Failures are counted in a row: an answer ends it.
#[test]
fn an_answer_ends_a_row_of_failures() {
    require_data_path!("an_answer_ends_a_row_of_failures");
    let mut table = with_retries(0);
    table.serve_by(&BACKENDS[..1]);
    for n in 0..3 {
        let conn = table.syn(client(n)).unwrap();
        table.reply(&conn, refusal(&conn));
        assert_eq!(table.load(BACKENDS[0], Family::V4).refused(), n + 1);
    }
    table.establish(client(9));
    assert_eq!(table.load(BACKENDS[0], Family::V4).failures, 0);
    assert_eq!(table.backend(BACKENDS[0], Family::V4).refused, 3);
    table.check_books();
}

/// What the first backend says late reaches nobody; its flow is the second's.
#[test]
fn a_moved_flow_belongs_to_its_second_backend() {
    require_data_path!("a_moved_flow_belongs_to_its_second_backend");
    let table = with_retries(2);
    let first = table.syn(client(0)).unwrap();
    let second = moved(&table, &first, &refusal(&first));
    let late = first.of_backend().syn().seq(9).ack(CLIENT_ISN + 1);
    assert_eq!(table.pass(&late), None);
    assert_eq!(table.pass(&refusal(&first)), None);
    assert_eq!(table.state(&second), State::Syn);
    table.answer(&second);
    table.send(&second, second.of_client().payload(b"request"));
    assert!(table.ctrl(&second).is_waiting());
    assert_eq!(table.load(second.backend, Family::V4).waiting, 1);
    table.reply(&second, second.of_backend().payload(b"answer"));
    assert_eq!(table.backend(second.backend, Family::V4).responses, 1);
    table.check_books();
}

/// A SYN that comes again soon goes to the same backend, after a second's silence to another. It does not matter which
/// number it has.
#[test]
fn an_unanswered_syn_is_sent_to_another_backend() {
    require_data_path!("an_unanswered_syn_is_sent_to_another_backend");
    let table = with_retries(2);
    let mut conns: Vec<Conn> =
        (0..).zip(Family::BOTH).map(|(n, family)| table.syn_of(client(n), family).unwrap()).collect();
    conns.iter().for_each(|conn| table.send(conn, syn(conn)));
    let first = conns.clone();
    for _ in 0..2 {
        table.wait(PATIENCE);
        for conn in &mut conns {
            *conn = moved(&table, conn, &syn(conn));
            table.send(conn, syn(conn));
        }
    }
    for (first, third) in first.iter().zip(&conns) {
        assert!(first.backend != third.backend, "never the same twice");
        let (stats, load) =
            (table.backend(first.backend, first.family), table.load(first.backend, first.family));
        assert_eq!((stats.unanswered, stats.moved, stats.refused, load.failures), (1, 1, 0, UNANSWERED));
    }
    table.wait(PATIENCE);
    for conn in &conns {
        table.send(conn, syn(conn));
        let stats = table.backend(conn.backend, conn.family);
        assert_eq!((stats.unanswered, stats.moved), (1, 0), "there is no fourth");
        table.answer(conn);
        table.send(conn, conn.of_client());
        assert_eq!(table.state(conn), State::Established);
    }
    table.check_books();
}

/// Silence is counted whether there is somewhere else to go or not.
#[test]
fn silence_is_counted_without_retries() {
    require_data_path!("silence_is_counted_without_retries");
    let table = with_retries(0);
    let conn = table.syn(client(0)).unwrap();
    table.wait(PATIENCE);
    table.send(&conn, syn(&conn));
    let stats = table.backend(conn.backend, Family::V4);
    assert_eq!((stats.unanswered, stats.moved), (1, 0));
    assert_eq!(table.load(conn.backend, Family::V4).failures, UNANSWERED);
}

/// A dead backend's flow ends once, however often its client asks.
#[test]
fn a_dead_backends_flow_leaves_the_books_once() {
    require_data_path!("a_dead_backends_flow_leaves_the_books_once");
    let mut table = Table::new(64);
    let conn = table.establish(client(0));
    table.send(&conn, conn.of_client().payload(b"request"));
    table.declare(conn.backend, HealthState::Dead);
    assert_eq!(table.load(conn.backend, Family::V4).waiting, 1);
    for _ in 0..3 {
        assert!(table.refuses(&conn, Reason::BackendDead));
        assert_eq!(table.state(&conn), State::Closed);
        let load = table.load(conn.backend, Family::V4);
        assert_eq!((load.flows, load.waiting), (0, 0));
    }
    table.reply(&conn, conn.of_backend().payload(b"what was on its way"));
    table.check_books();
}

/// A SYN to a backend that has died since goes elsewhere: the flow ends, and another begins in its slot.
#[test]
fn an_embryonic_flow_of_a_dead_backend_begins_anew() {
    require_data_path!("an_embryonic_flow_of_a_dead_backend_begins_anew");
    let mut table = with_retries(0);
    let conn = table.syn(client(0)).unwrap();
    table.declare(conn.backend, HealthState::Dead);
    let again = moved(&table, &conn, &syn(&conn));
    assert_eq!(table.load(conn.backend, Family::V4).flows, 0);
    assert_eq!(table.load(again.backend, Family::V4).flows, 1);
    assert_eq!(table.counted(Reason::BackendDead), 0);
    table.answer(&again);
    table.send(&again, again.of_client());
    assert_eq!(table.state(&again), State::Established);
}

/// A CPU sends as many RSTs at once as it may in a second, and counts the others.
#[test]
fn resets_are_limited() {
    require_data_path!("resets_are_limited");
    for rate in [0, 5] {
        let table = Table::with(64, |world| world.node.reset_rate = rate);
        on_each_cpu(|cpu| {
            if cpu == 0 {
                let stray = tcp(Family::V4).from(client(0)).to(VIP).tcp_flags(ACK);
                let start = table.now();
                let sent = (0..50).filter(|_| table.pass(&stray).is_some()).count() as u64;
                let passed = u64::from(table.now().wrapping_sub(start));
                // What came in while it ran, on a machine that is busy.
                let more = passed * u64::from(rate) / u64::from(lb_common::abi::ticks_of_seconds(1));
                let allowed = u64::from(rate)..=u64::from(rate) + more;
                assert!(allowed.contains(&sent), "{sent} of {allowed:?}");
                assert_eq!(table.counted(Reason::FlowUnknown), sent);
                assert_eq!(table.counted(Reason::ResetLimited), 50 - sent);
            }
        });
    }
}

/// However little of the ring the others have, one of them is found.
#[test]
fn a_light_backend_is_found_when_a_heavy_one_refuses() {
    require_data_path!("a_light_backend_is_found_when_a_heavy_one_refuses");
    let (heavy, light) = (BACKENDS[0], BACKENDS[1]);
    let table = Table::with(2048, |world| {
        world.services.iter_mut().for_each(|s| {
            s.policy.retries = 1;
            s.backends.retain(|b| {
                Family::BOTH.iter().any(|f| [heavy, light].map(|e| e.socket(*f)).contains(&b.address))
            });
            s.backends
                .iter_mut()
                .for_each(|b| b.weight = if b.address.ip() == light.ip(Family::V4) { 1 } else { 10 });
        });
    });
    let mut refused = 0;
    for n in 0..400 {
        let conn = table.syn(client(n)).unwrap();
        if conn.backend == heavy {
            let frame = table.pass(&refusal(&conn)).expect("the other backend");
            assert_eq!(ends(&frame), (conn.snat, light.socket(Family::V4)));
            refused += 1;
        }
    }
    assert!(refused > 300, "{refused}");
    table.check_books();
}

/// A backend that is not there acknowledges what came with the SYN (RFC 7413), as far as it has got it.
#[test]
fn a_syn_with_data_is_refused_as_well() {
    require_data_path!("a_syn_with_data_is_refused_as_well");
    let table = with_retries(1);
    let open = |n, data: &[u8]| {
        let syn = tcp(Family::V4).from(client(n)).to(VIP).syn().seq(CLIENT_ISN).syn_options().payload(data);
        let (snat, backend) = ends(&table.pass(&syn).unwrap());
        let backend = BACKENDS.into_iter().find(|b| b.socket(Family::V4) == backend).unwrap();
        Conn { client: client(n), family: Family::V4, snat, backend }
    };
    let refuses = |conn: &Conn, ahead: i32| {
        let ack = (CLIENT_ISN + 1).wrapping_add_signed(ahead);
        let frame = table.pass(&conn.of_backend().rst().seq(0).ack(ack)).unwrap();
        ends(&frame).0 == conn.snat
    };
    for (n, (data, ahead, refused)) in (0..).zip([
        (&b""[..], 0, true),
        (b"", 1, false),
        (b"", -1, false),
        (b"GET /", 0, true),
        (b"GET /", 5, true),
        (b"GET /", -1, false),
        (b"GET /", 1 << 16, false),
    ]) {
        let conn = open(n, data);
        assert_eq!(refuses(&conn, ahead), refused, "{data:?}, {ahead} ahead");
        assert_eq!(table.state(&conn), State::Syn);
    }
    table.check_books();
}

/// A backend answers a SYN while the agent has its flow closed: whoever is first, the flow's numbers are right.
#[test]
fn an_answer_and_an_end_at_once_leave_no_flow_without_its_number() {
    require_data_path!("an_answer_and_an_end_at_once_leave_no_flow_without_its_number");
    let mut table = with_retries(0);
    let conns: Vec<Conn> = (0..200).map(|n| table.syn(client(n)).unwrap()).collect();
    let slots: Vec<u32> = conns.iter().map(|conn| table.index(conn)).collect();
    table.declare(BACKENDS[0], HealthState::Dead);
    let step = crate::cpus::Step::default();
    on_each_cpu(|cpu| {
        for (conn, slot) in conns.iter().zip(&slots) {
            step.meet(cpu);
            if cpu == 0 {
                table.expire(&[*slot]);
            } else {
                table.pass(&conn.of_backend().syn().seq(BACKEND_ISN).ack(CLIENT_ISN + 1));
            }
        }
    });
    for conn in &conns {
        let (ctrl, slot) = (table.ctrl(conn), table.slot(conn));
        assert!(ctrl.is_unheard() || slot.backend_next == BACKEND_ISN + 1, "{conn:?}: {slot:?}");
        assert!(conn.backend == BACKENDS[0] || ctrl.state() == State::Answered);
    }
    table.check_books();
}

/// Both CPUs get the refusal of the same SYN, or its answer and its refusal: the flow is one backend's, and is counted once.
#[test]
fn two_cpus_move_a_flow_once() {
    require_data_path!("two_cpus_move_a_flow_once");
    let table = with_retries(2);
    let step = crate::cpus::Step::default();
    let conns: Vec<Conn> = (0..200).map(|n| table.syn(client(n)).unwrap()).collect();
    let offers: Vec<_> = conns.iter().map(|conn| table.slot(conn).offer().options()).collect();
    let dropped = AtomicU64::new(0);
    let before = table.drops();
    on_each_cpu(|cpu| {
        for (n, conn) in conns.iter().enumerate() {
            let answers = n % 2 == 0 && cpu == 1;
            let answer = conn.of_backend().syn().seq(BACKEND_ISN).ack(CLIENT_ISN + 1);
            let packet = if answers { answer } else { refusal(conn) };
            step.meet(cpu);
            let trial = table.lb.dataplane().trial(&packet.build()).unwrap();
            dropped.fetch_add(u64::from(trial.verdict == XDP_DROP), Relaxed);
        }
    });
    table.check_books();
    assert_eq!(table.drops() - before, dropped.into_inner(), "nothing is dropped without a reason");
    for (conn, offer) in conns.iter().zip(offers) {
        let (ctrl, slot) = (table.ctrl(conn), table.slot(conn));
        if !ctrl.is_unheard() {
            assert_eq!(slot.backend_next, BACKEND_ISN + 1, "{conn:?}");
        } else {
            assert_eq!(slot.offer().options(), offer, "{conn:?}: {ctrl:?}");
            assert!(slot.offer().tried().iter().all(|id| usize::from(*id) <= 2 * BACKENDS.len()), "{slot:?}");
        }
    }
    let sum = |f: fn(&lb_common::stats::BackendStats) -> u64| {
        BACKENDS.iter().map(|b| f(&table.backend(*b, Family::V4))).sum::<u64>()
    };
    assert_eq!(sum(|s| s.new_flows), 200 + sum(|s| s.moved));
    assert_eq!(sum(|s| s.moved), table.counted(Reason::SynRetried));
    assert!(sum(|s| s.moved) >= 100);
}
