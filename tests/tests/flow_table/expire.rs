//! Closing flows on request, and flows whose backend is gone.

use std::time::Duration;

use lb_common::flow::State;
use lb_common::reason::Reason;
use lb_tests::packet::world::{BACKENDS, Endpoint, Family};
use lb_tests::require_data_path;

use crate::table::{CLIENT_ISN, Conn, HOUR, Table, backend_key, client};

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
    assert_eq!(table.lb.dataplane().expire(&odd).unwrap(), 0);
    assert_eq!(table.lb.dataplane().expire(&[]).unwrap(), 0);
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
            world.health.insert(backend_key(replacement, family), lb_agent::model::HealthState::Healthy);
        }
    });
    check_removed(&table, told, gone);
    table.check_books();

    let orphans = silent.iter().filter(|conn| conn.backend == gone).count();
    assert!(orphans > 0);
    assert_eq!(table.expire_all() as usize, orphans);
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
