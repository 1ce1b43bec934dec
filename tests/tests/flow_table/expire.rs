//! Closing flows on request, and flows whose backend is gone.

use std::collections::BTreeMap;
use std::time::Duration;

use lb_agent::model::HealthState;
use lb_agent::net::reset::Reset;
use lb_common::flow::{Ctrl, Slot, State};
use lb_common::reason::Reason;
use lb_common::tcp::{ACK, RST};
use lb_tests::packet::world::{BACKENDS, Endpoint, Family};
use lb_tests::packet::{Packet, verify};
use lb_tests::require_data_path;

use crate::table::{BACKEND_ISN, CLIENT_ISN, Conn, HOUR, Table, backend_key, client};

#[test]
fn only_stale_flows_are_closed() {
    require_data_path!("only_stale_flows_are_closed");
    let mut table = Table::new(64);
    let embryonic = [table.syn(client(0)).unwrap(), table.answered(client(1))];
    let waiting = table.establish(client(2));
    table.send(&waiting, waiting.of_client().payload(b"SELECT"));
    let idle = table.establish(client(3));
    let busy = [table.establish(client(4)), table.establish(client(5))];
    let closed = table.closed(client(6));
    assert_eq!(table.expire_all(), 0, "nothing is stale yet");

    let time = Duration::from_secs(1);
    table.set_times(HOUR, time);
    table.wait(time);
    table.send(&busy[0], busy[0].of_client());
    table.reply(&busy[1], busy[1].of_backend());
    assert_eq!(table.expire_all(), 1);
    assert_eq!(table.state(&idle), State::Closed);
    assert!(busy.iter().chain([&waiting]).all(|conn| table.state(conn) == State::Established));
    assert!(embryonic.iter().all(|conn| table.ctrl(conn).is_embryonic()));
    table.check_books();

    table.set_times(time, HOUR);
    table.wait(time);
    assert_eq!(table.expire_all(), 2);
    assert!(embryonic.iter().all(|conn| table.state(conn) == State::Closed));
    assert_eq!((table.state(&waiting), table.state(&closed)), (State::Established, State::Closed));
    assert_eq!(table.expire_all(), 0);
    table.check_books();
}

/// Slots that a request should not have named.
#[test]
fn odd_requests_close_nothing() {
    require_data_path!("odd_requests_close_nothing");
    let table = Table::new(64);
    let conn = table.establish(client(0));
    let index = table.index(&conn);
    let odd = [index, index, 1 << 30, u32::MAX, table.lb.dataplane().flows().len()];
    assert_eq!(table.expire(&odd), []);
    assert_eq!(table.expire(&[]), []);
    assert_eq!(table.state(&conn), State::Established);
}

/// A stale flow's slot is of use again.
#[test]
fn an_expired_slot_is_claimed() {
    require_data_path!("an_expired_slot_is_claimed");
    let mut table = Table::new(8);
    let conns: Vec<Conn> = (0..8).map(|n| table.establish(client(n))).collect();
    let time = Duration::from_millis(300);
    table.set_times(HOUR, time);
    table.wait(time);
    conns[1..].iter().for_each(|conn| table.reply(conn, conn.of_backend()));
    assert_eq!(table.expire_all(), 1);
    table.set_times(HOUR, HOUR);
    assert_eq!(table.establish(client(8)).snat, conns[0].snat);
    assert_eq!(table.syn(client(9)), None);
    table.check_books();
}

#[test]
fn flows_of_a_removed_backend_are_told_apart_and_closed() {
    require_data_path!("flows_of_a_removed_backend_are_told_apart_and_closed");
    let mut table = Table::new(512);
    let conns: Vec<Conn> = (0..60).map(|n| table.establish(client(n))).collect();
    let gone = conns[0].backend;
    table.send(&conns[0], conns[0].of_client().payload(b"SELECT"));
    remove(&mut table, gone);
    let (told, silent) = conns.split_at(30);
    check_removed(&table, told, gone);

    // The id is given to another backend: what is left of the old flows is not its business.
    let replacement = lb_tests::packet::world::backend(7);
    table.lb.change(|world| {
        world.add_hop(replacement, lb_tests::harness::FRONT, &[]);
        for family in Family::BOTH {
            let service = lb_tests::harness::service(family, lb_tests::packet::world::VIP, &[replacement]);
            let known = world.services.iter_mut().find(|s| s.vip == service.vip).unwrap();
            known.backends.extend(service.backends);
            world.health.insert(backend_key(replacement, family), HealthState::Healthy);
        }
    });
    check_removed(&table, told, gone);
    table.check_books();

    let orphans = silent.iter().filter(|conn| conn.backend == gone).count();
    assert!(orphans > 0);
    assert_eq!(table.expire_all(), orphans);
    for conn in &conns {
        let state = if conn.backend == gone { State::Closed } else { State::Established };
        assert_eq!(table.state(conn), state);
    }
    table.check_books();
}

/// The flows of this backend meet `backend-gone`, its replies are nobody's, and all other flows go on.
fn check_removed(table: &Table, conns: &[Conn], gone: Endpoint) {
    for conn in conns {
        if conn.backend == gone {
            assert!(table.refuses(conn, Reason::BackendGone));
            assert_eq!(table.pass(&conn.of_backend()), None);
        } else {
            table.send(conn, conn.of_client());
            table.reply(conn, conn.of_backend());
        }
    }
}

/// Whoever is to be told of a dead backend is told only of flows that were closed: the ones that wait, the idle ones
/// and the unfinished, each once, with what their clients expect next; nothing of another backend's, and nothing more
/// once the backend is alive.
#[test]
fn flows_of_a_dead_backend_are_closed_and_given_back() {
    require_data_path!("flows_of_a_dead_backend_are_closed_and_given_back");
    let mut table = Table::new(512);
    let conns: Vec<Conn> = (0..60).map(|n| table.establish(client(n))).collect();
    let syns: Vec<Conn> = (60..90).map(|n| table.syn(client(n)).unwrap()).collect();
    let dead = conns[0].backend;
    let (its, others): (Vec<Conn>, Vec<Conn>) =
        conns.iter().chain(&syns).copied().partition(|conn| conn.backend == dead);
    for conn in conns.iter().step_by(2) {
        table.send(conn, conn.of_client().payload(b"SELECT"));
        table.reply(conn, conn.of_backend().payload(b"some"));
        table.send(conn, conn.of_client().seq(CLIENT_ISN + 7).payload(b"more"));
    }
    let before: BTreeMap<u32, Slot> = table.used().into_iter().collect();
    for state in [HealthState::Suspect, HealthState::Dead, HealthState::Healthy] {
        table.declare(dead, state);
        let slots: Vec<u32> = (0..table.lb.dataplane().flows().len()).collect();
        let closed = table.expire(&slots);
        let mut want: Vec<Slot> = its.iter().map(|conn| before[&table.index(conn)]).collect();
        want.sort_by_key(|slot| (slot.client, slot.client_port));
        if state != HealthState::Dead {
            want.clear();
        }
        let mut closed: Vec<Slot> = closed;
        closed.sort_by_key(|slot| (slot.client, slot.client_port));
        assert_eq!(closed, want, "{state:?}");
        assert!(others.iter().all(|conn| table.ctrl(conn).is_open()));
        table.check_books();
    }
    assert!(its.iter().all(|conn| table.state(conn) == State::Closed));
    assert!(before.values().any(|slot| slot.backend_next == BACKEND_ISN + 5 && Ctrl(slot.ctrl).is_waiting()));
}

/// The agent's RST is the data path's own, but for the acknowledgement: a client may send nothing that the data path could
/// answer, and is told all the same.
#[test]
fn a_client_is_told_alike_by_the_agent_and_by_the_data_path() {
    require_data_path!("a_client_is_told_alike_by_the_agent_and_by_the_data_path");
    for (n, family) in (0..).zip(Family::BOTH) {
        for tags in [&[][..], &[100], &[100, 20]] {
            let mut table = Table::new(64);
            let tagged = |packet: Packet| tags.iter().fold(packet, |p, tag| p.vlan(*tag));
            let conn = table.syn_of(client(n), family).unwrap();
            table.answer(&conn);
            table.reply(&conn, conn.of_backend().payload(b"some"));
            let last = tagged(conn.of_client().ack(BACKEND_ISN + 5));
            table.pass(&last).unwrap();
            table.declare(conn.backend, HealthState::Dead);
            let closed = table.expire(&[table.index(&conn)]);
            let by_agent = Reset::of(&closed[0], &table.lb.plan().tables).unwrap().frame();
            let by_data_path = table.pass(&last).unwrap();
            verify(&by_agent).unwrap();
            verify(&by_data_path).unwrap();
            let tcp_at = by_agent.len() - 20;
            assert_eq!(by_agent[..tcp_at], by_data_path[..tcp_at], "{family:?} {tags:?}");
            let (agents, own) = (&by_agent[tcp_at..], &by_data_path[tcp_at..tcp_at + 20]);
            assert_eq!(agents[..8], own[..8], "ports and sequence number");
            assert_eq!(agents[8..14], [0, 0, 3, 0xe9, 5 << 4, RST | ACK], "it acknowledges the SYN");
            assert_eq!(table.counted(Reason::BackendDead), 1);
        }
    }
}

fn remove(table: &mut Table, gone: Endpoint) {
    assert!(BACKENDS.contains(&gone));
    table.lb.change(|world| {
        for service in &mut world.services {
            service.backends.retain(|b| b.address.ip() != gone.v4 && b.address.ip() != gone.v6);
        }
    });
}

/// A flow of a backend that is only unhealthy goes on.
#[test]
fn flows_of_an_unhealthy_backend_stay() {
    require_data_path!("flows_of_an_unhealthy_backend_stay");
    let mut table = Table::new(64);
    let conn = table.establish(client(0));
    let others: Vec<Endpoint> = BACKENDS.into_iter().filter(|b| *b != conn.backend).collect();
    table.serve_by(&others);
    table.send(&conn, conn.of_client().seq(CLIENT_ISN + 1).payload(b"x"));
    table.reply(&conn, conn.of_backend());
    assert_eq!(table.expire_all(), 0);
    assert!((1..40).all(|n| table.establish(client(n)).backend != conn.backend));
    table.check_books();
}
