//! Two CPUs that work on the same slots at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Mutex;

use lb_common::addr::Addr;
use lb_common::flow::{Ctrl, State};
use lb_common::hash::{flow_hash, place};
use lb_common::node::Node;
use lb_tests::packet::world::{Endpoint, Family, VIP};
use lb_tests::packet::{tcp, verify};
use lb_tests::require_data_path;

use crate::cpus::{Step, on_each_cpu};
use crate::table::{CLIENT_ISN, Conn, Table, client};

/// Both CPUs go through the buckets in the same order, two new flows each for every bucket.
#[test]
fn two_cpus_claiming_at_once_lose_nothing() {
    require_data_path!("two_cpus_claiming_at_once_lose_nothing");
    let table = Table::new(8192);
    let node = table.lb.plan().tables.node;
    for family in Family::BOTH {
        let clients = by_bucket(&node, family, 4);
        let step = Step::default();
        let opened = Mutex::new(Vec::new());
        on_each_cpu(|cpu| {
            let mut own = Vec::new();
            for of_bucket in &clients {
                step.meet(cpu);
                let mine = of_bucket.iter().skip(cpu as usize).step_by(2);
                own.extend(mine.map(|c| table.syn_of(*c, family).expect("half of the table is free")));
            }
            opened.lock().unwrap().extend(own);
        });
        check_opened(&table, family, &opened.into_inner().unwrap());
    }
    table.check_books();
}

/// Every flow has the slot that its SYN was told, and only that; its packets go where the SYN went.
fn check_opened(table: &Table, family: Family, opened: &[Conn]) {
    assert_eq!(opened.len(), 4096);
    let ports: BTreeSet<SocketAddr> = opened.iter().map(|conn| conn.snat).collect();
    assert_eq!(ports.len(), opened.len(), "a slot was given out twice");
    let mut slots: BTreeMap<(Addr, u16), u32> = BTreeMap::new();
    for (index, slot) in table.used() {
        let known = slots.insert((slot.client, slot.client_port), index);
        assert!(known.is_none(), "client {} has two slots", slot.client);
    }
    for conn in opened {
        let client = conn.client.socket(family);
        assert_eq!(slots.get(&(Addr::from(client.ip()), client.port().to_be())), Some(&table.index(conn)));
        assert_eq!(table.ctrl(conn).backend(), table.backend_id(conn.backend, family));
        table.answer(conn);
        table.send(conn, conn.of_client());
        table.reply(conn, conn.of_backend());
        assert_eq!(table.state(conn), State::Established);
    }
    let service = table.service(family);
    assert_eq!(service.new_flows, opened.len() as u64);
    assert_eq!((service.recycled_embryonic, service.table_full), (0, 0));
}

/// Clients whose flows have their first place in a bucket: `each` of them for every bucket.
fn by_bucket(node: &Node, family: Family, each: usize) -> Vec<Vec<Endpoint>> {
    let mut buckets = vec![Vec::new(); node.buckets as usize];
    let mut missing = buckets.len() * each;
    for n in 0.. {
        let client = client(n);
        let (from, to) = (client.socket(family), VIP.socket(family));
        let (src, dst) = (Addr::from(from.ip()), Addr::from(to.ip()));
        let hash = flow_hash(node.hash_key, &src, from.port().to_be(), &dst, to.port().to_be());
        let bucket = &mut buckets[place(hash, 1, node.buckets).bucket as usize];
        if bucket.len() < each {
            bucket.push(client);
            missing -= 1;
        }
        if missing == 0 {
            break;
        }
    }
    buckets
}

/// New flows fight for eight slots, so that a slot may be taken from a flow that was just made. Nothing leaves
/// that belongs half to one flow and half to another.
#[test]
fn flows_that_fight_for_a_slot_are_not_mixed_up() {
    require_data_path!("flows_that_fight_for_a_slot_are_not_mixed_up");
    let table = Table::new(8);
    on_each_cpu(|cpu| {
        for n in (cpu..40_000).step_by(2) {
            let syn = tcp(Family::V4).from(client(n)).to(VIP).syn().seq(n);
            if let Some(frame) = table.pass(&syn) {
                verify(&frame).unwrap_or_else(|e| panic!("flow {n}: {e}"));
            }
        }
    });
    table.check_books();
}

/// The last words of both sides cross: neither is lost.
#[test]
fn both_sides_may_close_at_once() {
    require_data_path!("both_sides_may_close_at_once");
    let table = Table::new(8192);
    let conns: Vec<Conn> = (0..3000).map(|n| table.establish(client(n))).collect();
    let frames: Vec<[Vec<u8>; 2]> =
        conns.iter().map(|c| [c.of_client().fin().build(), c.of_backend().fin().build()]).collect();
    let step = Step::default();
    on_each_cpu(|cpu| {
        for pair in &frames {
            step.meet(cpu);
            assert_eq!(table.lb.dataplane().trial(&pair[cpu as usize]).unwrap().verdict, 3);
        }
    });
    let open = conns.iter().filter(|conn| table.state(conn) != State::Closed).count();
    assert_eq!(open, 0, "of {} flows", conns.len());
    table.check_books();
}

/// Requests and responses of the same flow cross: the flow ends up waiting or not, and the books agree.
#[test]
fn both_sides_may_speak_at_once() {
    require_data_path!("both_sides_may_speak_at_once");
    let table = Table::new(8192);
    let conns: Vec<Conn> = (0..500).map(|n| table.establish(client(n))).collect();
    let step = Step::default();
    on_each_cpu(|cpu| {
        for round in 0..8 {
            for conn in &conns {
                let sent = 10 * round;
                let packet = if cpu == 0 {
                    conn.of_client().seq(CLIENT_ISN + 1 + sent).payload(&[0; 10])
                } else {
                    conn.of_backend().seq(crate::table::BACKEND_ISN + 1 + sent).payload(&[0; 10])
                };
                let frame = packet.build();
                step.meet(cpu);
                assert_eq!(table.lb.dataplane().trial(&frame).unwrap().verdict, 3);
            }
        }
    });
    table.check_books();
    for conn in &conns {
        let end = CLIENT_ISN + 1 + 80;
        table.send(conn, conn.of_client().seq(end).payload(b"a last request"));
        assert!(table.ctrl(conn).is_waiting());
    }
    assert!(table.used().iter().all(|(_, slot)| Ctrl(slot.ctrl).is_waiting()));
    table.check_books();
}
