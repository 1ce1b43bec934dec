//! The books after many flows that end in every way there is.

use std::time::Duration;

use lb_common::flow::{Ctrl, State};
use lb_common::reason::Reason;
use lb_common::stats::BackendStats;
use lb_common::tcp::SYN;
use lb_tests::packet::world::{BACKENDS, Family};
use lb_tests::require_data_path;

use crate::table::{BACKEND_ISN, CLIENT_ISN, Conn, HOUR, Table, client, ends};

/// Flows at a time, and how often.
const FLOWS: u32 = 500;
const ROUNDS: u32 = 60;

/// Numbers that look random and are the same in each run (Knuth's MMIX generator).
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(self.0 >> 33).expect("31 bits") % sides
    }
}

/// Refuses a SYN; the flow at its next backend, or `None` when its client was told.
fn refuse(table: &Table, conn: &Conn) -> Option<Conn> {
    let frame = table.pass(&conn.of_backend().rst().seq(0).ack(CLIENT_ISN + 1)).expect("sent on");
    let (_, to) = ends(&frame);
    let backend = BACKENDS.into_iter().find(|b| b.socket(conn.family) == to)?;
    Some(Conn { backend, ..*conn })
}

/// A life with retransmissions. Whether the flow is still open is the table's to say.
fn live(table: &Table, dice: &mut Dice, conn: Conn) {
    let mut conn = conn;
    while dice.throw(4) == 0 {
        let Some(next) = refuse(table, &conn) else { return };
        conn = next;
    }
    let aborts = |dice: &mut Dice| dice.throw(12) == 0;
    if aborts(dice) {
        return drop(table.pass(&conn.of_client().rst()));
    }
    if dice.throw(5) == 0 {
        table.pass(&conn.of_client().tcp_flags(SYN).seq(CLIENT_ISN));
    }
    if dice.throw(20) == 0 {
        return;
    }
    table.answer(&conn);
    table.send(&conn, conn.of_client());
    let (mut up, mut down) = (CLIENT_ISN + 1, BACKEND_ISN + 1);
    for _ in 0..dice.throw(5) {
        for _ in 0..=dice.throw(2) {
            table.send(&conn, conn.of_client().seq(up).payload(b"SELECT 1"));
        }
        up += 8;
        if aborts(dice) {
            return table.send(&conn, conn.of_client().seq(up).rst());
        }
        if dice.throw(12) == 0 {
            return table.reply(&conn, conn.of_backend().seq(down).rst());
        }
        if dice.throw(10) == 0 {
            break;
        }
        for _ in 0..=dice.throw(3) {
            table.reply(&conn, conn.of_backend().seq(down).payload(b"1"));
        }
        down += 1;
    }
    // Either side, both, or none, with its FIN twice.
    let (client_first, ends) = (dice.throw(2) == 0, dice.throw(3));
    for n in 0..ends {
        for _ in 0..2 {
            if (n == 0) == client_first {
                table.send(&conn, conn.of_client().seq(up).fin());
            } else {
                table.reply(&conn, conn.of_backend().seq(down).fin());
            }
        }
    }
}

#[test]
fn the_books_are_right_after_traffic_of_every_kind() {
    require_data_path!("the_books_are_right_after_traffic_of_every_kind");
    let mut table =
        Table::with(8 * 2048, |world| world.services.iter_mut().for_each(|s| s.policy.retries = 2));
    table.set_times(Duration::ZERO, HOUR);
    let mut dice = Dice(7);
    let mut seen_waiting = 0;
    for round in 0..ROUNDS {
        // Each lives at once: after a second its SYN would not be sent again to the same backend.
        let conns: Vec<Conn> = (0..FLOWS)
            .map(|n| {
                let conn = table.syn(client(round * FLOWS + n)).expect("there is always room");
                live(&table, &mut dice, conn);
                conn
            })
            .collect();
        if round % 20 == 0 {
            table.check_books();
        }
        // Who is left is left alone for the next rounds, and gone in the end.
        let waiting = |conn: &&Conn| table.holds(conn) && table.ctrl(conn).is_waiting();
        seen_waiting += conns.iter().filter(waiting).count();
        for conn in conns.iter().filter(|conn| table.holds(conn) && table.ctrl(conn).is_open()) {
            let slot = table.slot(conn);
            assert!(table.pass(&conn.of_client().seq(slot.client_next).rst()).is_some());
        }
    }
    assert!(seen_waiting > 100, "{seen_waiting} flows ended while they waited");
    table.check_books();
    let open = table.used().iter().filter(|(_, slot)| Ctrl(slot.ctrl).is_open()).count();
    assert_eq!(open, 0);
    let stats = BACKENDS.map(|b| table.backend(b, Family::V4));
    let sum = |f: fn(&BackendStats) -> u64| stats.iter().map(f).sum::<u64>();
    for backend in BACKENDS {
        let load = table.load(backend, Family::V4);
        assert_eq!((load.flows, load.waiting), (0, 0), "{backend:?}");
    }
    assert_eq!(sum(|s| s.moved), table.counted(Reason::SynRetried));
    assert_eq!(sum(|s| s.new_flows), u64::from(FLOWS * ROUNDS) + sum(|s| s.moved));
    assert!(sum(|s| s.refused) > sum(|s| s.moved) && sum(|s| s.moved) > 5000, "{stats:?}");
    assert!(table.used().iter().all(|(_, slot)| Ctrl(slot.ctrl).state() == State::Closed));
}
