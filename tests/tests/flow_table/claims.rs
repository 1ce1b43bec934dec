//! Which slot a new flow takes.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::{Duration, Instant};

use lb_common::flow::State;
use lb_common::hint::{Hint, age};
use lb_common::reason::Reason;
use lb_tests::harness::Maps;
use lb_tests::packet::world::{BACKENDS, Endpoint, Family};
use lb_tests::require_data_path;

use crate::table::{Conn, HOUR, Table, client};

const A: Endpoint = BACKENDS[0];
const B: Endpoint = BACKENDS[1];

/// One bucket: both places of every flow are the same eight slots.
const BUCKET: u16 = 8;

#[test]
fn unused_slots_come_first() {
    require_data_path!("unused_slots_come_first");
    let mut table = Table::new(BUCKET);
    table.serve_by(&[A]);
    let first = table.closed(client(0));
    table.serve_by(&[B]);
    let ports: BTreeSet<u16> = (1..8).map(|n| table.syn(client(n)).unwrap().snat.port()).collect();
    assert_eq!(ports.len(), 7);
    assert!(!ports.contains(&first.snat.port()), "a closed slot was taken while there were unused ones");
    assert_eq!(table.service(Family::V4).reused_unrested, 0);
    table.check_books();
}

#[test]
fn a_closed_slot_rests_for_its_backend() {
    require_data_path!("a_closed_slot_rests_for_its_backend");
    let mut table = Table::new(BUCKET);
    table.serve_by(&[A]);
    establish(&table, 0..6);
    let own = table.closed(client(6));
    table.serve_by(&[B]);
    let other = table.closed(client(7));

    table.serve_by(&[A]);
    let new = table.establish(client(8));
    assert_eq!(new.snat, other.snat, "the slot of another backend may be taken at once");
    assert_eq!(table.service(Family::V4).reused_unrested, 0);

    let last = table.establish(client(9));
    assert_eq!(last.snat, own.snat, "only an unrested slot is left");
    let service = table.service(Family::V4);
    assert_eq!((service.reused_unrested, service.recycled_embryonic), (1, 0), "and that is counted");
    table.check_books();
}

#[test]
fn a_rested_slot_is_taken_without_a_note() {
    require_data_path!("a_rested_slot_is_taken_without_a_note");
    let mut table = Table::new(BUCKET);
    table.serve_by(&[A]);
    establish(&table, 0..7);
    let closed = table.closed(client(7));
    let rest = Duration::from_millis(50);
    table.set_times(rest, HOUR);
    table.wait(rest);
    assert_eq!(table.syn(client(8)).unwrap().snat, closed.snat);
    assert_eq!(table.service(Family::V4).reused_unrested, 0);
}

/// The last packets of a closed flow keep its slot busy.
#[test]
fn rest_begins_with_the_last_packet() {
    require_data_path!("rest_begins_with_the_last_packet");
    let mut table = Table::new(BUCKET);
    table.serve_by(&[A]);
    establish(&table, 0..7);
    let closed = table.closed(client(7));
    let rest = Duration::from_secs(2);
    table.set_times(rest, HOUR);
    table.wait(rest);
    table.reply(&closed, closed.of_backend());
    assert_eq!(table.syn(client(8)).unwrap().snat, closed.snat);
    assert_eq!(table.service(Family::V4).reused_unrested, 1);
}

#[test]
fn the_longest_rested_slot_comes_first() {
    require_data_path!("the_longest_rested_slot_comes_first");
    let mut table = Table::new(BUCKET);
    table.serve_by(&[A]);
    let conns = establish(&table, 0..8);
    let oldest = conns[5];
    table.close(&oldest);
    await_next_age(&table);
    for conn in &conns {
        if *conn != oldest {
            table.close(conn);
        }
    }
    table.serve_by(&[B]);
    assert_eq!(table.syn(client(8)).unwrap().snat, oldest.snat);
}

/// A handshake under way is not disturbed while there are slots of flows that are over, however the hints order them.
#[test]
fn closed_slots_come_before_embryonic_ones() {
    require_data_path!("closed_slots_come_before_embryonic_ones");
    let mut table = Table::new(BUCKET);
    table.serve_by(&[A]);
    let embryonic = table.answered(client(0));
    let conns = establish(&table, 1..8);
    conns.iter().for_each(|conn| table.close(conn));
    table.serve_by(&[B]);
    for n in 8..15 {
        let new = table.establish(client(n));
        assert_ne!(new.snat, embryonic.snat, "flow {n}");
    }
    assert!(table.holds(&embryonic));
    assert_eq!(table.service(Family::V4).recycled_embryonic, 0);
    table.check_books();
}

#[test]
fn embryonic_slots_come_before_unrested_ones() {
    require_data_path!("embryonic_slots_come_before_unrested_ones");
    let mut table = Table::new(BUCKET);
    table.serve_by(&[A]);
    let unrested = table.closed(client(0));
    let established = establish(&table, 1..5);
    let embryonic: Vec<Conn> = (5..8).map(|n| table.answered(client(n))).collect();
    for n in 8..40 {
        let new = table.answered(client(n));
        assert!(embryonic.iter().any(|conn| conn.snat == new.snat), "flow {n}");
    }
    let service = table.service(Family::V4);
    assert_eq!((service.recycled_embryonic, service.reused_unrested), (32, 0));
    assert!(table.holds(&unrested) && established.iter().all(|conn| table.holds(conn)));
    table.check_books();
}

#[test]
fn the_oldest_embryonic_slot_comes_first() {
    require_data_path!("the_oldest_embryonic_slot_comes_first");
    let mut table = Table::new(BUCKET);
    table.serve_by(&[A]);
    let oldest = table.answered(client(0));
    await_next_age(&table);
    (1..8).for_each(|n| assert_ne!(table.answered(client(n)).snat, oldest.snat));
    assert_eq!(table.syn(client(8)).unwrap().snat, oldest.snat);
}

/// The backend that an embryonic slot was made for may still remember its port.
#[test]
fn embryonic_slots_of_other_backends_come_first() {
    require_data_path!("embryonic_slots_of_other_backends_come_first");
    let mut table = Table::new(BUCKET);
    table.serve_by(&[A]);
    (0..2).for_each(|n| assert!(table.syn(client(n)).is_some()));
    establish(&table, 2..6);
    table.serve_by(&[B]);
    let other = [table.answered(client(6)), table.answered(client(7))];
    table.serve_by(&[A]);
    for n in 8..10 {
        let new = table.establish(client(n));
        assert!(other.iter().any(|conn| conn.snat == new.snat), "flow {n}");
    }
}

#[test]
fn a_table_of_established_flows_is_full() {
    require_data_path!("a_table_of_established_flows_is_full");
    let table = Table::new(BUCKET);
    let conns = establish(&table, 0..8);
    let before = table.counted(Reason::TableFull);
    for n in 8..40 {
        assert_eq!(table.syn(client(n)), None);
    }
    assert_eq!(table.counted(Reason::TableFull), before + 32);
    assert_eq!(table.service(Family::V4).table_full, 32);
    assert_eq!(table.service(Family::V4).new_flows, 8);
    for conn in &conns {
        table.send(conn, conn.of_client());
        table.reply(conn, conn.of_backend());
        assert_eq!(table.state(conn), State::Established);
    }
    table.check_books();
}

#[test]
fn idle_flows_make_room_and_waiting_ones_do_not() {
    require_data_path!("idle_flows_make_room_and_waiting_ones_do_not");
    let mut table = Table::new(BUCKET);
    let waiting = establish(&table, 0..3);
    for conn in &waiting {
        table.send(conn, conn.of_client().payload(b"SELECT"));
    }
    let idle = establish(&table, 3..8);
    assert_eq!(table.syn(client(8)), None, "nothing is idle yet");
    let time = Duration::from_millis(300);
    table.set_times(HOUR, time);
    table.wait(time);
    // Idle, but spoke again.
    table.reply(&idle[0], idle[0].of_backend());
    for n in 8..12 {
        let new = table.establish(client(n));
        assert!(idle[1..].iter().any(|conn| conn.snat == new.snat), "flow {n}");
    }
    assert_eq!(table.syn(client(12)), None, "all others are in use");
    assert!(table.holds(&idle[0]) && waiting.iter().all(|conn| table.holds(conn)));
    table.check_books();
}

/// Two CPUs may leave a hint behind that protects a slot whose flow is over. It is found for want of a better one.
#[test]
fn a_slot_that_is_protected_by_mistake_is_not_lost() {
    require_data_path!("a_slot_that_is_protected_by_mistake_is_not_lost");
    let table = Table::new(BUCKET);
    let conns = establish(&table, 0..8);
    let maps = Maps::of(table.lb.dataplane());
    let bucket = table.index(&conns[3]) / 8;
    let protected: Hint = maps.get("HINTS", bucket);
    table.close(&conns[3]);
    maps.set("HINTS", bucket, protected);
    assert_eq!(table.establish(client(8)).snat, conns[3].snat);
    assert_eq!(table.syn(client(9)), None);
    table.check_books();
}

/// A tuple never has two slots.
#[test]
fn a_new_connection_takes_the_slot_of_the_old_one() {
    require_data_path!("a_new_connection_takes_the_slot_of_the_old_one");
    let table = Table::new(64);
    let old = table.closed(client(0));
    let new = table.establish(client(0));
    assert_eq!(new, old);
    assert_eq!(table.used().len(), 1);
    let service = table.service(Family::V4);
    assert_eq!((service.new_flows, service.reused_unrested), (2, 0));
    table.check_books();
}

#[test]
fn families_have_tables_of_their_own() {
    require_data_path!("families_have_tables_of_their_own");
    let table = Table::new(BUCKET);
    establish(&table, 0..8);
    assert_eq!(table.syn(client(8)), None);
    for n in 0..8 {
        let conn = table.syn_of(client(n), Family::V6).unwrap();
        assert!(conn.snat.is_ipv6() && BACKENDS.contains(&conn.backend));
    }
    assert_eq!(table.used().len(), 16);
    assert!(BACKENDS.iter().any(|b| table.backend(*b, Family::V6).new_flows > 0));
    table.check_books();
}

/// Opens flows of these clients.
fn establish(table: &Table, clients: Range<u32>) -> Vec<Conn> {
    clients.map(|n| table.establish(client(n))).collect()
}

/// Waits until hints that are written now differ in age from those before.
fn await_next_age(table: &Table) {
    let start = age(table.now());
    let deadline = Instant::now() + Duration::from_secs(6);
    while age(table.now()) == start {
        assert!(Instant::now() < deadline, "the clock stands still");
        std::thread::sleep(Duration::from_millis(10));
    }
}
