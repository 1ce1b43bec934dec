//! What a packet does to its flow.

use std::time::Duration;

use lb_common::abi::ticks_of_seconds;
use lb_common::flow::State;
use lb_common::reason::Reason;
use lb_common::tcp;
use lb_tests::packet::world::Family;
use lb_tests::packet::{Packet, tcp as segment};
use lb_tests::require_data_path;

use crate::table::{BACKEND_ISN, CLIENT_ISN, Conn, Table, client};

const FAR: u32 = 1 << 23;

#[test]
fn a_handshake_goes_through_its_states() {
    require_data_path!("a_handshake_goes_through_its_states");
    let table = Table::new(64);
    let conn = table.syn(client(0)).unwrap();
    assert_eq!(table.state(&conn), State::Syn);
    assert_eq!(table.syn(client(0)), Some(conn), "sent again");
    assert_eq!(table.state(&conn), State::Syn);
    table.answer(&conn);
    assert_eq!(table.state(&conn), State::Answered);
    table.send(&conn, conn.of_client());
    assert_eq!(table.state(&conn), State::Established);
    table.answer(&conn);
    assert_eq!(table.state(&conn), State::Established, "an answer that was sent again");
    assert_eq!(table.service(Family::V4).new_flows, 1);
    assert_eq!(table.backend(conn.backend, Family::V4).new_flows, 1);
    table.check_books();
}

/// An answer to a SYN that had the port before is not this flow's: it passes, so that the client says so to the backend
/// (RFC 9293 §3.5.2), and changes nothing.
#[test]
fn an_answer_to_another_syn_changes_nothing() {
    require_data_path!("an_answer_to_another_syn_changes_nothing");
    let table = Table::new(64);
    let conn = table.syn(client(0)).unwrap();
    let before = table.slot(&conn);
    for wrong in [CLIENT_ISN, CLIENT_ISN + 2, CLIENT_ISN.wrapping_add(1 << 31)] {
        table.reply(&conn, conn.of_backend().syn().seq(BACKEND_ISN).ack(wrong));
        assert_eq!(table.slot(&conn), before, "{wrong}");
    }
    table.answer(&conn);
    assert_eq!(table.state(&conn), State::Answered);
    table.send(&conn, conn.of_client());
    let late = conn.of_backend().syn().seq(BACKEND_ISN.wrapping_add(1 << 30)).ack(CLIENT_ISN + 9);
    table.reply(&conn, late);
    assert_eq!(table.slot(&conn).backend_next, BACKEND_ISN + 1);
    table.reply(&conn, conn.of_backend().rst());
    assert_eq!(table.state(&conn), State::Closed, "the backend's numbers are still known");
    table.check_books();
}

/// One FIN leaves the flow open for the other direction; its last packets still pass when it is closed.
#[test]
fn half_closed_flows_are_open() {
    require_data_path!("half_closed_flows_are_open");
    let table = Table::new(64);
    for n in 0..2 {
        let conn = table.establish(client(n));
        let fins = |first: bool| {
            if first == (n == 0) {
                table.send(&conn, conn.of_client().fin());
            } else {
                table.reply(&conn, conn.of_backend().fin());
            }
        };
        fins(true);
        fins(true);
        assert!(table.ctrl(&conn).is_half_closed());
        table.send(&conn, conn.of_client().payload(b"x"));
        table.reply(&conn, conn.of_backend().payload(b"x"));
        assert_eq!(table.state(&conn), State::Established);
        fins(false);
        assert_eq!(table.state(&conn), State::Closed);
        table.send(&conn, conn.of_client());
        table.reply(&conn, conn.of_backend());
        assert_eq!(table.state(&conn), State::Closed);
    }
    table.check_books();
}

#[test]
fn a_reset_in_the_window_closes() {
    require_data_path!("a_reset_in_the_window_closes");
    let table = Table::new(64);
    let offsets = [0, 1, 0_u32.wrapping_sub(1), 1 << 20, 0_u32.wrapping_sub(1 << 20)];
    for (n, offset) in (0..).zip(offsets) {
        let conn = table.establish(client(2 * n));
        table.send(&conn, conn.of_client().seq((CLIENT_ISN + 1).wrapping_add(offset)).rst());
        assert_eq!(table.state(&conn), State::Closed, "client, offset {offset}");
        let conn = table.establish(client(2 * n + 1));
        table.reply(&conn, conn.of_backend().seq((BACKEND_ISN + 1).wrapping_add(offset)).rst());
        assert_eq!(table.state(&conn), State::Closed, "backend, offset {offset}");
    }
    table.check_books();
}

/// A forged RST does not close; whether the receiver believes it is the receiver's business.
#[test]
fn a_reset_out_of_the_window_does_not_close() {
    require_data_path!("a_reset_out_of_the_window_does_not_close");
    let table = Table::new(64);
    let conn = table.establish(client(0));
    for offset in [FAR, 0_u32.wrapping_sub(FAR), 1 << 31] {
        table.send(&conn, conn.of_client().seq((CLIENT_ISN + 1).wrapping_add(offset)).rst());
        table.reply(&conn, conn.of_backend().seq((BACKEND_ISN + 1).wrapping_add(offset)).rst());
        assert_eq!(table.state(&conn), State::Established, "offset {offset}");
    }
    table.check_books();
}

#[test]
fn a_refused_syn_closes_and_is_counted() {
    require_data_path!("a_refused_syn_closes_and_is_counted");
    let table = Table::new(64);
    let conn = table.syn(client(0)).unwrap();
    let refusal = |ack: u32| conn.of_backend().seq(0).ack(ack).rst();
    table.reply(&conn, refusal(CLIENT_ISN + 2));
    assert_eq!(table.state(&conn), State::Syn, "an answer to another SYN");
    table.reply(&conn, refusal(CLIENT_ISN + 1));
    assert_eq!(table.state(&conn), State::Closed);
    assert_eq!(table.backend(conn.backend, Family::V4).refused, 1);
    table.check_books();
}

/// A client that gives up and begins again from the same port is not held to its first attempt.
#[test]
fn a_syn_with_another_number_begins_anew() {
    require_data_path!("a_syn_with_another_number_begins_anew");
    let table = Table::new(64);
    let conn = table.syn(client(0)).unwrap();
    let isn = CLIENT_ISN.wrapping_sub(1 << 30);
    let syn = conn.of_client().tcp_flags(tcp::SYN).seq(isn);
    table.send(&conn, syn);
    table.reply(&conn, conn.of_backend().syn().seq(BACKEND_ISN).ack(isn + 1));
    table.send(&conn, conn.of_client().seq(isn + 1));
    assert_eq!(table.state(&conn), State::Established);
    table.send(&conn, conn.of_client().seq(isn + 1).payload(b"request"));
    assert!(table.ctrl(&conn).is_waiting());
    table.send(&conn, conn.of_client().seq(isn + 8).rst());
    assert_eq!(table.state(&conn), State::Closed);
    table.check_books();
}

/// What does and does not begin and end the wait for an answer: in this order, on one flow.
#[test]
fn new_data_sets_and_clears_the_waiting_mark() {
    require_data_path!("new_data_sets_and_clears_the_waiting_mark");
    let table = Table::new(64);
    let conn = table.establish(client(0));
    let (client, backend) = (CLIENT_ISN + 1, BACKEND_ISN + 1);
    let from_client = |seq: u32, data: &[u8]| (true, conn.of_client().seq(seq).payload(data));
    let from_backend = |seq: u32, data: &[u8]| (false, conn.of_backend().seq(seq).payload(data));
    let steps: [(&str, (bool, Packet), bool); 14] = [
        ("a bare ACK", from_client(client, b""), false),
        ("data of a backend that was not asked", from_backend(backend, b"220 ready"), false),
        ("a keepalive probe", from_client(client - 1, b""), false),
        ("a keepalive probe with a byte", from_client(client - 1, b"\0"), false),
        ("a request", from_client(client, b"GET /"), true),
        ("its acknowledgement", from_backend(backend + 9, b""), true),
        ("the request again", from_client(client, b"GET /"), true),
        ("the backend's keepalive probe", from_backend(backend + 8, b"y"), true),
        ("old data of the backend again", from_backend(backend, b"220 ready"), true),
        ("more of the request", from_client(client + 5, b"HTTP/1.1"), true),
        ("the answer", from_backend(backend + 9, b"200 OK"), false),
        ("the request again, after its answer", from_client(client + 5, b"HTTP/1.1"), false),
        ("old data with a new end", from_client(client + 5, b"HTTP/1.1\r\n"), true),
        ("the answer's end, after a gap", from_backend(backend + 1000, b"."), false),
    ];
    for (about, (is_client, packet), waits) in steps {
        if is_client {
            table.send(&conn, packet);
        } else {
            table.reply(&conn, packet);
        }
        assert_eq!(table.ctrl(&conn).is_waiting(), waits, "after {about}");
        table.check_books();
    }
    assert_eq!(table.backend(conn.backend, Family::V4).responses, 2);
}

#[test]
fn a_flow_that_ends_waits_no_longer() {
    require_data_path!("a_flow_that_ends_waits_no_longer");
    let table = Table::new(64);
    let endings: [fn(&Table, &Conn); 2] = [
        |table, conn| table.reply(conn, conn.of_backend().rst()),
        |table, conn| {
            table.send(conn, conn.of_client().seq(CLIENT_ISN + 8).fin());
            assert!(table.ctrl(conn).is_waiting(), "the answer may still come");
            table.reply(conn, conn.of_backend().fin());
        },
    ];
    for (n, end) in (0..).zip(endings) {
        let conn = table.establish(client(n));
        table.send(&conn, conn.of_client().payload(b"request"));
        assert!(table.ctrl(&conn).is_waiting());
        end(&table, &conn);
        assert!(table.state(&conn) == State::Closed && !table.ctrl(&conn).is_waiting());
        table.check_books();
    }
}

#[test]
fn services_without_requests_do_not_wait() {
    require_data_path!("services_without_requests_do_not_wait");
    let table = Table::with(64, |world| world.services.iter_mut().for_each(|s| s.requests = false));
    let conn = table.establish(client(0));
    table.send(&conn, conn.of_client().payload(b"frame"));
    assert!(!table.ctrl(&conn).is_waiting());
    table.check_books();
}

/// The time from request to first byte is counted in the histogram's bucket of that length.
#[test]
fn the_time_to_the_first_byte_is_counted() {
    require_data_path!("the_time_to_the_first_byte_is_counted");
    let table = Table::new(64);
    let conn = table.establish(client(0));
    let pause = Duration::from_millis(100);
    table.send(&conn, conn.of_client().payload(b"request"));
    table.wait(pause);
    table.reply(&conn, conn.of_backend().payload(b"first byte"));
    table.reply(&conn, conn.of_backend().seq(BACKEND_ISN + 11).payload(b"more"));
    let stats = table.backend(conn.backend, Family::V4);
    assert_eq!(stats.responses, 1);
    let least = u64::from(lb_common::abi::ticks(100_000_000));
    assert!(stats.first_byte_ticks >= least, "{} ticks", stats.first_byte_ticks);
    let bucket = lb_common::stats::first_byte_bucket(u32::try_from(stats.first_byte_ticks).unwrap());
    let filled: Vec<_> = (0..).zip(stats.first_byte).filter(|(_, n)| *n != 0).collect();
    assert_eq!(filled, [(bucket, 1)]);
}

/// The client's router failed over: replies go where its last packet came from.
#[test]
fn replies_follow_the_client() {
    require_data_path!("replies_follow_the_client");
    let table = Table::new(64);
    let conn = table.establish(client(0));
    let mac = [2, 9, 9, 9, 9, 9];
    table.send(&conn, conn.of_client().src_mac(mac));
    let frame = table.pass(&conn.of_backend()).unwrap();
    assert_eq!(frame[..6], mac);
}

#[test]
fn packets_of_no_flow_open_none() {
    require_data_path!("packets_of_no_flow_open_none");
    let table = Table::new(64);
    let stranger = Conn { client: client(1), ..table.establish(client(0)) };
    assert!(table.refuses(&stranger, Reason::FlowUnknown));
    let answer = segment(Family::V4).from(client(1)).to(lb_tests::packet::world::VIP).syn().ack(1);
    assert_eq!(table.pass(&answer).unwrap()[..6], client(1).mac, "its sender is told");
    assert_eq!(table.used().len(), 1);
}

/// What a drain goes by: any data, in any direction, whether it is a request or not; and nothing else.
#[test]
fn the_time_of_the_last_data_is_known() {
    require_data_path!("the_time_of_the_last_data_is_known");
    let table = Table::new(64);
    let conn = table.establish(client(0));
    let seen = || table.backend(conn.backend, Family::V4).data_seen;
    assert_eq!(seen(), 0, "a handshake is no data");
    table.send(&conn, conn.of_client().payload(b"GET"));
    let first = seen();
    let now = table.now();
    assert!(
        now.wrapping_sub(u32::try_from(first & 0xffff_ffff).unwrap()) < ticks_of_seconds(30),
        "{first}, {now}"
    );
    assert!(first > u64::from(u32::MAX), "jiffies begin near 2^32: {first} has lost its upper half");
    let tick = Duration::from_millis(20);
    table.wait(tick);
    table.send(&conn, conn.of_client());
    table.reply(&conn, conn.of_backend());
    table.send(&conn, conn.of_client().fin());
    assert_eq!(seen(), first, "neither is an acknowledgement or the end of a flow");
    table.reply(&conn, conn.of_backend().payload(b"200"));
    let second = seen();
    assert!(second > first);
    table.wait(tick);
    table.reply(&conn, conn.of_backend().payload(b"200"));
    assert!(seen() > second, "data that is sent again is data");
}
