//! Which packets begin to wait for an answer, and which backend gets a flow when others wait.

use std::sync::Arc;

use lb_agent::dataplane::{Op, RingKey};
use lb_agent::model::Scheduler;
use lb_common::ring::NO_BACKEND;
use lb_common::service::{SERVICE_NEAR, SPILL_ONE};
use lb_common::tcp::{ACK, SYN};
use lb_tests::packet::world::{BACKENDS, Endpoint, Family, VIP};
use lb_tests::packet::{Packet, tcp};
use lb_tests::require_data_path;

use crate::table::{BACKEND_ISN, CLIENT_ISN, Conn, Table, client};

const CLIENT: u32 = CLIENT_ISN + 1;
const BACKEND: u32 = BACKEND_ISN + 1;

/// Sends each packet and compares the waiting mark after it.
#[track_caller]
fn check(table: &Table, conn: &Conn, steps: Vec<(&str, Packet, bool)>) {
    for (about, packet, waits) in steps {
        table.pass(&packet).unwrap_or_else(|| panic!("{about} was dropped"));
        assert_eq!(table.ctrl(conn).is_waiting(), waits, "after {about}");
        table.check_books();
    }
}

#[test]
fn requests_in_any_order_wait() {
    require_data_path!("requests_in_any_order_wait");
    let table = Table::new(64);
    let conn = table.establish(client(0));
    let up = |seq, data: &[u8]| conn.of_client().seq(seq).payload(data);
    let down = |seq, data: &[u8]| conn.of_backend().seq(seq).payload(data);
    check(
        &table,
        &conn,
        vec![
            ("two requests at once", up(CLIENT, b"12345"), true),
            ("the second of them", up(CLIENT + 5, b"67890"), true),
            ("the first answer", down(BACKEND, b"1"), false),
            ("the rest of it, out of order", up(CLIENT + 15, b"fghij"), true),
            ("its beginning", up(CLIENT + 10, b"abcde"), true),
            ("its answer", down(BACKEND + 1, b"2"), false),
            ("what was out of order, again", up(CLIENT + 10, b"abcde"), false),
            ("a keepalive probe", up(CLIENT + 19, b""), false),
            ("a keepalive probe with a byte", up(CLIENT + 19, b"j"), false),
            ("FIN without data", up(CLIENT + 20, b"").fin(), false),
        ],
    );
}

/// A client that has no more to say still waits for what it has asked.
#[test]
fn half_closed_flows_wait() {
    require_data_path!("half_closed_flows_wait");
    let table = Table::new(64);
    let conn = table.establish(client(0));
    check(
        &table,
        &conn,
        vec![
            ("a request with FIN", conn.of_client().payload(b"GET").fin(), true),
            ("its acknowledgement", conn.of_backend().ack(CLIENT + 4), true),
            ("the answer", conn.of_backend().ack(CLIENT + 4).payload(b"200"), false),
            ("FIN", conn.of_backend().seq(BACKEND + 3).ack(CLIENT + 4).fin(), false),
        ],
    );
    assert!(!table.ctrl(&conn).is_open());
}

/// A reset by the backend cuts something off unless one side had closed before. The client's own resets are its business.
#[test]
fn what_a_backend_cuts_off_is_counted() {
    require_data_path!("what_a_backend_cuts_off_is_counted");
    let table = Table::new(64);
    let [asks, answers, closes] = [0, 1, 2];
    for (n, (about, steps, by_backend, counts)) in (0..).zip([
        ("before the answer", &[asks][..], true, true),
        ("in the middle of it", &[asks, answers], true, true),
        ("between two requests", &[], true, true),
        ("after its own FIN", &[asks, answers, closes], true, false),
        ("while the client waits", &[asks], false, false),
    ]) {
        let conn = table.establish(client(n));
        for step in steps {
            match *step {
                0 => table.send(&conn, conn.of_client().payload(b"GET")),
                1 => table.reply(&conn, conn.of_backend().payload(b"200")),
                _ => table.reply(&conn, conn.of_backend().seq(BACKEND + 3).fin()),
            }
        }
        let resets = || {
            let (stats, load) =
                (table.backend(conn.backend, Family::V4), table.load(conn.backend, Family::V4));
            assert_eq!(stats.resets, load.resets);
            load.resets
        };
        let before = resets();
        match by_backend {
            true => table.reply(&conn, conn.of_backend().seq(BACKEND + 3).rst()),
            false => table.send(&conn, conn.of_client().rst()),
        }
        assert!(!table.ctrl(&conn).is_open());
        assert_eq!(resets() - before, u64::from(counts), "{about}");
    }
    let gone = table.establish(client(99));
    table.send(&gone, gone.of_client().payload(b"GET").fin());
    let before = table.load(gone.backend, Family::V4).resets;
    table.reply(&gone, gone.of_backend().seq(BACKEND).rst());
    assert_eq!(table.load(gone.backend, Family::V4).resets, before, "after the client's FIN");
    table.check_books();
}

/// Where sequence numbers begin anew nothing else does.
#[test]
fn sequence_numbers_wrap() {
    require_data_path!("sequence_numbers_wrap");
    let table = Table::new(64);
    let isn = u32::MAX - 2;
    let from = client(0);
    let segment = || tcp(Family::V4).from(from).to(VIP);
    let conn = table.syn(from).unwrap();
    table.send(&conn, segment().tcp_flags(SYN).seq(isn));
    table.reply(&conn, conn.of_backend().syn().seq(isn).ack(isn.wrapping_add(1)));
    let up = |seq: u32, data: &[u8]| segment().seq(seq).ack(isn.wrapping_add(1)).tcp_flags(ACK).payload(data);
    let down = |seq: u32, data: &[u8]| conn.of_backend().seq(seq).payload(data);
    check(
        &table,
        &conn,
        vec![
            ("ACK", up(isn.wrapping_add(1), b""), false),
            ("a request over the end", up(isn.wrapping_add(1), b"12345"), true),
            ("an answer over the end", down(isn.wrapping_add(1), b"12345"), false),
            ("the request again", up(isn.wrapping_add(1), b"12345"), false),
            ("a keepalive probe", up(2, b"5"), false),
            ("another request", up(3, b"6"), true),
            ("the first answer again", down(isn.wrapping_add(1), b"12345"), true),
            ("another answer", down(3, b"6"), false),
        ],
    );
}

/// Data in a SYN may never arrive. Its client sends it again if it did not, and that is a request.
#[test]
fn data_in_a_syn_is_no_request() {
    require_data_path!("data_in_a_syn_is_no_request");
    let table = Table::new(64);
    let conn = table.syn(client(0)).unwrap();
    let syn = conn.of_client().tcp_flags(SYN).seq(CLIENT_ISN).payload(b"GET");
    check(
        &table,
        &conn,
        vec![
            ("SYN with data", syn, false),
            ("SYN+ACK", conn.of_backend().syn().seq(BACKEND_ISN).ack(CLIENT), false),
            ("ACK", conn.of_client(), false),
            ("the data", conn.of_client().payload(b"GET"), true),
            ("the answer", conn.of_backend().payload(b"200"), false),
        ],
    );
}

#[test]
fn services_without_requests_never_wait() {
    require_data_path!("services_without_requests_never_wait");
    let table = Table::with(64, |world| world.services.iter_mut().for_each(|s| s.requests = false));
    let conn = table.establish(client(0));
    check(
        &table,
        &conn,
        vec![
            ("data", conn.of_client().payload(b"1"), false),
            ("data", conn.of_backend().payload(b"2"), false),
            ("data", conn.of_client().seq(CLIENT + 1).payload(b"3"), false),
        ],
    );
    assert_eq!(table.backend(conn.backend, Family::V4).responses, 0);
}

fn least_waiting(backends: usize) -> Table {
    Table::with(4096, |world| {
        for service in &mut world.services {
            service.scheduler = Scheduler::LeastWaiting;
            service.backends.truncate(backends);
        }
    })
}

/// Flows of these clients, of which so many go to a backend.
fn taken(table: &Table, clients: std::ops::Range<u32>, by: Endpoint) -> usize {
    clients.filter(|n| table.establish(client(*n)).backend == by).count()
}

/// A backend with more waiting work gets nothing, wherever the hashes of a flow fall: it may hang. When nobody waits, fewer
/// flows decide.
#[test]
fn least_waiting_prefers_who_waits_for_less() {
    require_data_path!("least_waiting_prefers_who_waits_for_less");
    let table = least_waiting(2);
    let even = taken(&table, 0..200, BACKENDS[0]);
    assert!((95..=105).contains(&even), "{even} of 200: as many flows each");
    let busy = table.establish(client(1000));
    table.send(&busy, busy.of_client().payload(b"SELECT"));
    let taken_by_busy = taken(&table, 1001..1401, busy.backend);
    assert_eq!(taken_by_busy, 0, "of 400 to the one that waits");
    table.reply(&busy, busy.of_backend().payload(b"rows"));
    let back = taken(&table, 2000..2380, busy.backend);
    assert_eq!(back, 380, "to the one with fewer flows");
    table.check_books();
}

/// Near backends serve while they have no more than `spill` times the waiting work of another.
#[test]
fn near_backends_serve_until_they_spill() {
    require_data_path!("near_backends_serve_until_they_spill");
    let mut table = least_waiting(3);
    let (id, near) = (table.service_id(Family::V4), table.backend_id(BACKENDS[0], Family::V4));
    let mut ring = *table.lb.plan().tables.rings[&RingKey::All(id)];
    ring.slots.iter_mut().filter(|slot| **slot != NO_BACKEND).for_each(|slot| *slot = near);
    ring.backends = 1;
    table.lb.apply(&Op::SetRing(RingKey::Near(id), Arc::new(ring)));
    let mut service = table.lb.plan().tables.services[&id];
    (service.flags, service.spill) = (service.flags | SERVICE_NEAR, 2 * SPILL_ONE);
    table.lb.apply(&Op::SetService(id, service));

    let mut next = 0;
    for (waiting, spills) in [(0, false), (1, false), (2, true)] {
        let others = (0..60).filter(|n| table.establish(client(next + n)).backend != BACKENDS[0]).count();
        next += 100;
        assert_eq!(others, if spills { 60 } else { 0 }, "of 60 leave when {waiting} wait");
        if spills {
            break;
        }
        let near = (0..50).map(|n| table.establish(client(next + n))).find(|c| c.backend == BACKENDS[0]);
        let near = near.expect("a flow of the near backend");
        table.send(&near, near.of_client().payload(b"SELECT"));
        assert_eq!(table.load(BACKENDS[0], Family::V4).waiting, waiting + 1);
        next += 100;
    }
    table.check_books();
}
