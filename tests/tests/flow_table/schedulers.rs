//! Which backend a new flow goes to.

use lb_agent::dataplane::RingKey;
use lb_agent::model::Scheduler;
use lb_common::addr::Addr;
use lb_common::hash::{RING_KEY, flow_hash};
use lb_common::ring::ring_index;
use lb_tests::packet::world::{BACKENDS, Endpoint, Family, VIP};
use lb_tests::require_data_path;

use crate::table::{Table, client};

/// Maglev is the ring at the flow's hash: the ring that the agent's plan holds, by the hash that both sides share.
#[test]
fn maglev_is_the_ring_entry() {
    require_data_path!("maglev_is_the_ring_entry");
    let table = Table::new(2048);
    let mut seen = [0; BACKENDS.len()];
    for family in Family::BOTH {
        let ring = &table.lb.plan().tables.rings[&RingKey::All(table.service_id(family))];
        for n in 0..500 {
            let conn = table.syn_of(client(n), family).unwrap();
            let (from, to) = (conn.client.socket(family), VIP.socket(family));
            let (src, dst) = (Addr::from(from.ip()), Addr::from(to.ip()));
            let hash = flow_hash(RING_KEY, &src, from.port().to_be(), &dst, to.port().to_be());
            let upper = u32::try_from(hash >> 32).unwrap();
            let entry = ring.entries()[ring_index(upper, ring.length) as usize];
            assert_eq!(entry, table.backend_id(conn.backend, family), "client {n}");
            seen[BACKENDS.iter().position(|b| *b == conn.backend).unwrap()] += 1;
        }
    }
    assert!(seen.iter().all(|n| *n > 200), "{seen:?}");
}

/// Each rotation of three flows reaches all three backends, whoever connects.
#[test]
fn round_robin_takes_turns() {
    require_data_path!("round_robin_takes_turns");
    let mut table = Table::new(512);
    table.schedule(Scheduler::RoundRobin);
    let order: Vec<Endpoint> = (0..60).map(|n| table.syn(client(n)).unwrap().backend).collect();
    for turn in order.windows(3) {
        assert!(BACKENDS.iter().all(|b| turn.contains(b)), "{turn:?}");
    }
}

#[test]
fn round_robin_is_weighted() {
    require_data_path!("round_robin_is_weighted");
    let table = Table::with(512, |world| {
        for service in &mut world.services {
            service.scheduler = Scheduler::RoundRobin;
            service.backends[0].weight = 300;
        }
    });
    let order: Vec<Endpoint> = (0..100).map(|n| table.syn(client(n)).unwrap().backend).collect();
    let count = |b: Endpoint| order.iter().filter(|o| **o == b).count();
    assert_eq!(BACKENDS.map(count), [60, 20, 20]);
}

/// Of two candidates the one with fewer flows: the spread is far narrower than Maglev's, and who has none is chosen
/// whenever it is a candidate.
#[test]
fn least_conn_prefers_fewer_flows() {
    require_data_path!("least_conn_prefers_fewer_flows");
    let mut table = Table::new(2048);
    table.schedule(Scheduler::LeastConn);
    let mut flows = [0_i32; BACKENDS.len()];
    for n in 0..600 {
        let conn = table.establish(client(n));
        flows[BACKENDS.iter().position(|b| *b == conn.backend).unwrap()] += 1;
    }
    assert!(flows.iter().all(|n| (190..=210).contains(n)), "{flows:?}");
    table.check_books();
}

#[test]
fn least_conn_counts_by_weight() {
    require_data_path!("least_conn_counts_by_weight");
    let table = Table::with(2048, |world| {
        for service in &mut world.services {
            service.scheduler = Scheduler::LeastConn;
            service.backends[0].weight = 200;
        }
    });
    let mut flows = [0; BACKENDS.len()];
    for n in 0..600 {
        let conn = table.establish(client(n));
        flows[BACKENDS.iter().position(|b| *b == conn.backend).unwrap()] += 1;
    }
    assert!((280..=320).contains(&flows[0]), "{flows:?}");
    assert!(flows[1..].iter().all(|n| (130..=170).contains(n)), "{flows:?}");
}

/// A flow that ends makes room at its backend.
#[test]
fn least_conn_forgets_flows_that_are_over() {
    require_data_path!("least_conn_forgets_flows_that_are_over");
    let mut table = Table::new(2048);
    table.serve_by(&BACKENDS[..1]);
    for n in 0..200 {
        table.closed(client(n));
    }
    table.serve_by(&BACKENDS);
    table.schedule(Scheduler::LeastConn);
    let taken = (200..500).filter(|n| table.establish(client(*n)).backend == BACKENDS[0]).count();
    assert!((90..=110).contains(&taken), "{taken} of 300");
}
