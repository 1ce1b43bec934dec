use std::net::SocketAddr;

use lb_common::abi::ticks_of_seconds;
use lb_common::addr::Addr;
use lb_common::backend::{BACKEND_LIVE, BACKEND_RESOLVED, MAX_BACKENDS};
use lb_common::node::PORT_TX_BY_REDIRECT;
use lb_common::ring::RING_SIZE;
use lb_common::service::MAX_SERVICES;

use super::*;
use crate::dataplane::scenarios::World;
use crate::maglev::members_of;
use crate::model::{Policy, PortFacts};

mod properties;
mod slow_start;
mod standing;
mod zones;

const A: &str = "10.77.0.11:80";
const B: &str = "10.77.0.12:80";
const C: &str = "10.77.0.13:80";

fn empty() -> World {
    World::new([2, 3])
}

fn abc() -> World {
    empty().service("one", "10.77.0.100:80", &[A, B, C])
}

fn planned(world: &World, previous: &Plan) -> Plan {
    plan(&world.inputs(), previous).unwrap()
}

fn refused(world: &World) -> String {
    plan(&world.inputs(), &Plan::default()).unwrap_err().to_string()
}

/// The service called `name`, and the addresses in its ring.
fn ring(plan: &Plan, name: &str) -> (Standing, Vec<String>) {
    let service = plan.services.values().find(|s| s.name == name).unwrap();
    let ids = members_of(plan.ring(service).unwrap());
    let by_id: BTreeMap<u16, String> =
        service.backends.iter().map(|(key, &id)| (id, key.address.to_string())).collect();
    (service.standing, ids.iter().map(|id| by_id[id].clone()).collect())
}

/// Id and generation of a live backend.
fn id(plan: &Plan, address: &str) -> Option<(u16, u16)> {
    let address: SocketAddr = address.parse().unwrap();
    let is = |b: &Backend| b.is_live() && (b.addr, b.port) == (address.ip().into(), address.port().to_be());
    plan.tables.backends.iter().find(|(_, b)| is(b)).map(|(&id, b)| (id, b.generation))
}

#[test]
fn entries_of_a_service() {
    let mut world = abc().weight(B, 7).announced();
    world.services[0].requests = false;
    world.services[0].policy.retries = 1;
    world.node.ports[0].tx_by_redirect = true;
    let Tables { node, backends, services, vips, service_ids, .. } = planned(&world, &Plan::default()).tables;
    let (vip, port) = (Addr::from(world.services[0].vip.ip()), 80u16.to_be());
    assert_eq!(service_ids, BTreeMap::from([(ServiceKey::tcp(vip, port), 0)]));
    assert_eq!(vips, BTreeMap::from([(vip, VIP_ANNOUNCE)]));
    let service = Service { vip, port, protocol: 6, flags: SERVICE_LIVE, retries: 1, ..Service::EMPTY };
    assert_eq!(services, BTreeMap::from([(0, service)]));
    let b = Backend {
        addr: "10.77.0.12".parse::<IpAddr>().unwrap().into(),
        port,
        generation: 1,
        weight: 7,
        mac: [2, 0, 0, 0, 0, 7],
        flags: BACKEND_LIVE | BACKEND_RESOLVED,
        ..Backend::EMPTY
    };
    assert_eq!((backends.len(), backends[&2]), (3, b));
    assert_eq!((node.port_count, node.ports[0].ifindex, node.ports[1].ifindex), (2, 2, 3));
    assert_eq!([node.ports[0].flags, node.ports[1].flags], [PORT_TX_BY_REDIRECT, 0]);
    assert_eq!((node.buckets, node.port_base, node.hash_key), (2, 1024, 0x5eed));
    assert_eq!(node.reset_rate, 1000);
    assert_eq!((node.rest_ticks, node.idle_ticks), (ticks_of_seconds(60), ticks_of_seconds(3600)));
}

#[test]
fn blocks_are_ipv4_then_ipv6() {
    let world = empty().snat(&["fd77::4/127", "10.77.0.1/32", "fd77::1/128", "10.77.1.0/31"]);
    let Tables { node, snat, .. } = planned(&world, &Plan::default()).tables;
    let addresses: Vec<String> = snat.values().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.77.0.1", "10.77.1.0", "10.77.1.1", "fd77::4", "fd77::5", "fd77::1"]);
    assert_eq!(snat.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    assert_eq!((node.v4_first, node.v4_blocks, node.v6_first, node.v6_blocks), (0, 3, 3, 3));
    let ranges = node.ranges[..node.range_count as usize].iter();
    assert_eq!(
        ranges.map(|r| (r.first_block, r.count)).collect::<Vec<_>>(),
        [(0, 1), (1, 2), (3, 2), (5, 1)]
    );
    assert_eq!(node.slots(), 6 * 16);
}

#[test]
fn ids_stay_and_freed_ones_come_back_with_a_new_generation() {
    let first = planned(&abc(), &Plan::default());
    assert_eq!([A, B, C].map(|a| id(&first, a)), [Some((1, 1)), Some((2, 1)), Some((3, 1))]);
    let without_a = empty().service("one", "10.77.0.100:80", &[C, B]);
    let second = planned(&without_a, &first);
    assert_eq!([A, B, C].map(|a| id(&second, a)), [None, Some((2, 1)), Some((3, 1))]);
    let left = second.tables.backends[&1];
    assert_eq!((left.flags, left.generation), (0, 1), "kept for its generation");
    let third = planned(&without_a.backend("one", A), &second);
    assert_eq!(id(&third, A), Some((1, 2)));
}

#[test]
fn no_id_changes_its_owner_in_one_step() {
    let first = planned(&abc(), &Plan::default());
    let other = empty().service("two", "10.77.0.101:80", &[A, B]);
    let second = planned(&other, &first);
    assert_eq!([A, B].map(|a| id(&second, a)), [Some((4, 1)), Some((5, 1))], "1 to 3 were live until now");
    assert_eq!(second.tables.service_ids.values().copied().collect::<Vec<_>>(), [1]);
    let third = planned(&other.clone().backend("two", C), &second);
    assert_eq!(id(&third, C), Some((1, 2)));
}

#[test]
fn a_generation_wraps() {
    let mut tables = Tables::default();
    tables.backends.insert(1, Backend { generation: u16::MAX, ..Backend::EMPTY });
    assert_eq!(id(&planned(&abc(), &Plan::read_back(tables)), A), Some((1, 0)));
}

#[test]
fn every_scheduler_has_its_number() {
    let entry = |scheduler| {
        let mut world = abc();
        world.services[0].scheduler = scheduler;
        planned(&world, &Plan::default()).tables.services[&0].scheduler
    };
    let all = [Scheduler::Maglev, Scheduler::RoundRobin, Scheduler::LeastConn, Scheduler::LeastWaiting];
    assert_eq!(
        all.map(entry),
        [SCHEDULER_MAGLEV, SCHEDULER_ROUND_ROBIN, SCHEDULER_LEAST_CONN, SCHEDULER_LEAST_WAITING]
    );
}

/// The service's entry is gone and its backends are not: an agent died while it removed the service.
#[test]
fn a_half_removed_service_is_nobodys() {
    let mut tables = planned(&abc(), &Plan::default()).tables;
    (tables.service_ids, tables.services) = (BTreeMap::new(), BTreeMap::new());
    let next = planned(&abc(), &Plan::read_back(tables));
    assert_eq!([A, B, C].map(|a| id(&next, a)), [Some((4, 1)), Some((5, 1)), Some((6, 1))]);
    assert!((1..=3).all(|id| !next.tables.backends[&id].is_live()));
}

#[test]
fn who_stands_in_the_ring() {
    let starting = |mut world: World| {
        world.health.clear();
        world
    };
    let none_healthy = || abc().sick(A).sick(B).sick(C);
    let cases = [
        ("all", abc(), Standing::Healthy, vec![A, B, C]),
        ("one dead", abc().sick(B), Standing::Healthy, vec![A, C]),
        ("one unresolved", abc().unresolved("10.77.0.11"), Standing::Healthy, vec![B, C]),
        ("not checked yet", starting(abc()), Standing::FailOpen, vec![A, B, C]),
        ("all dead", none_healthy(), Standing::FailOpen, vec![A, B, C]),
        ("all dead, one unresolved", none_healthy().unresolved("10.77.0.12"), Standing::FailOpen, vec![A, C]),
        (
            "the healthy one unresolved",
            abc().sick(A).sick(B).unresolved("10.77.0.13"),
            Standing::FailOpen,
            vec![A, B],
        ),
        (
            "none resolved",
            empty().service("one", "10.77.0.100:80", &[A]).unresolved("10.77.0.11"),
            Standing::Unresolved,
            vec![A],
        ),
        ("one draining", abc().draining(B), Standing::Healthy, vec![A, C]),
        (
            "a sick one rather than a draining one",
            abc().draining(A).draining(B).sick(C),
            Standing::FailOpen,
            vec![C],
        ),
        ("all draining", abc().draining(A).draining(B).draining(C), Standing::Draining, vec![A, B, C]),
        (
            "all draining, one dead",
            abc().draining(A).draining(B).draining(C).sick(A),
            Standing::Draining,
            vec![B, C],
        ),
        (
            "all draining and dead",
            none_healthy().draining(A).draining(B).draining(C),
            Standing::Draining,
            vec![A, B, C],
        ),
        (
            "the one that stays is unresolved",
            abc().draining(A).draining(B).unresolved("10.77.0.13"),
            Standing::Draining,
            vec![A, B],
        ),
        ("no backend", empty().service("one", "10.77.0.100:80", &[]), Standing::Empty, vec![]),
    ];
    for (name, world, standing, want) in cases {
        let plan = planned(&world, &Plan::default());
        assert_eq!(ring(&plan, "one"), (standing, want.iter().map(ToString::to_string).collect()), "{name}");
    }
}

#[test]
fn a_hop_by_an_unknown_interface_is_none() {
    let mut world = abc();
    world.hops.values_mut().for_each(|hop| hop.ifindex = 99);
    let plan = planned(&world, &Plan::default());
    assert_eq!(ring(&plan, "one").0, Standing::Unresolved);
    assert!(plan.tables.backends.values().all(|b| !b.is_resolved() && b.mac == [0; 6]));
}

#[test]
fn rings_are_built_only_when_they_change() {
    let first = planned(&abc(), &Plan::default());
    let same = |plan: &Plan| {
        Arc::ptr_eq(&plan.tables.rings[&RingKey::All(0)], &first.tables.rings[&RingKey::All(0)])
    };
    let mut renamed = abc().announced();
    renamed.services[0].backends.reverse();
    renamed.hops.values_mut().for_each(|hop| hop.mac = [2; 6]);
    assert!(same(&planned(&renamed, &first)), "order, MACs and flags have no part in it");
    let mut least_conn = abc();
    least_conn.services[0].scheduler = Scheduler::LeastConn;
    assert!(same(&planned(&least_conn, &first)), "the same kind of ring");
    for other in [abc().weight(A, 99), abc().sick(A), abc().round_robin("one")] {
        let next = planned(&other, &first);
        assert!(!same(&next));
        let [(_, moved)] = next.moved_slots_since(&first)[..] else { panic!("one ring moved") };
        assert!(moved > 0 && (moved as usize) < RING_SIZE);
    }
    assert!(planned(&abc(), &first).moved_slots_since(&first).is_empty());
}

/// An agent died after it wrote a new weight and before it wrote the ring.
#[test]
fn a_ring_that_was_read_back_is_not_believed() {
    let old = planned(&abc(), &Plan::default());
    let wanted = planned(&abc().weight(A, 1), &old);
    let torn = Tables { rings: old.tables.rings.clone(), ..wanted.tables.clone() };
    let next = planned(&abc().weight(A, 1), &Plan::read_back(torn));
    assert_eq!(next.tables.rings[&RingKey::All(0)], wanted.tables.rings[&RingKey::All(0)]);
    assert_ne!(next.tables.rings[&RingKey::All(0)], old.tables.rings[&RingKey::All(0)]);
    let again = planned(&abc(), &Plan::read_back(old.tables.clone()));
    assert!(
        Arc::ptr_eq(&again.tables.rings[&RingKey::All(0)], &old.tables.rings[&RingKey::All(0)]),
        "equal, so the old one stays"
    );
}

#[test]
fn interfaces_keep_their_index() {
    let facts = |ifindexes: &[u32]| {
        let mut world = empty();
        let port = |&ifindex: &u32| PortFacts {
            name: format!("eth{ifindex}"),
            ifindex,
            mac: [0; 6],
            tx_by_redirect: false,
        };
        world.node.ports = ifindexes.iter().map(port).collect();
        world
    };
    let indices = |plan: &Plan| {
        let node = plan.tables.node;
        node.ports[..node.port_count as usize].iter().map(|p| p.ifindex).collect::<Vec<_>>()
    };
    let mut last = Plan::default();
    for (ifindexes, want) in [
        (vec![5, 6], vec![5, 6]),
        (vec![6, 7], vec![0, 6, 7]),
        (vec![8, 7, 6], vec![8, 6, 7]),
        (vec![8], vec![8]),
    ] {
        last = planned(&facts(&ifindexes), &last);
        assert_eq!(indices(&last), want);
    }
    let all: Vec<u32> = (1..=16).collect();
    let full = planned(&facts(&all), &Plan::default());
    let others: Vec<u32> = (1..=15).chain([99]).collect();
    assert_eq!(indices(&planned(&facts(&others), &full))[15], 99, "no other index is free");
    let error = refused(&facts(&(1..=17).collect::<Vec<_>>()));
    assert_eq!(error, "interface eth17: more than 16 interfaces");
}

#[test]
fn what_does_not_fit_is_an_error() {
    assert_eq!(
        refused(&abc().service("two", "10.77.0.100:80", &[])),
        "service two: another service has the address 10.77.0.100:80"
    );
    assert_eq!(refused(&abc().backend("one", B)), "service one: two backends have the address 10.77.0.12:80");
    assert_eq!(
        refused(&empty().snat(&["10.0.0.0/20", "fd77::1/128"])),
        "nat.addresses: fd77::1/128 makes it more than 4096 addresses"
    );
    for wide in ["fd77::/64", "::/0", "0.0.0.0/0"] {
        assert!(refused(&empty().snat(&[wide])).ends_with("makes it more than 4096 addresses"));
    }
    let nets: Vec<String> = (0..17).map(|i| format!("10.0.0.{i}/32")).collect();
    let nets: Vec<&str> = nets.iter().map(String::as_str).collect();
    assert_eq!(refused(&empty().snat(&nets)), "nat.addresses: more than 16 entries");
    let mut world = empty();
    world.node.snat_ports = (5, 11);
    assert_eq!(refused(&world), "nat.ports: 5-11 holds no eight ports");
}

/// All ids are live: those that are not wanted any more are given away in the same step.
#[test]
fn ids_of_those_who_leave_are_the_last_resort() {
    let mut tables = planned(&abc(), &Plan::default()).tables;
    let live = Backend { flags: BACKEND_LIVE, generation: 5, service: 9, ..Backend::EMPTY };
    tables.backends.extend((4..u16::try_from(MAX_BACKENDS).unwrap()).map(|id| (id, live)));
    let live = Service { flags: SERVICE_LIVE, ..Service::EMPTY };
    let services = (1..u16::try_from(MAX_SERVICES).unwrap()).map(|id| (id, Service { port: id, ..live }));
    tables.services.extend(services);
    let two = abc().without_backend("one", B).service("two", "10.77.0.101:80", &[B, C]);
    let next = planned(&two, &Plan::read_back(tables));
    assert_eq!(next.tables.service_ids.values().copied().collect::<Vec<_>>(), [0, 1]);
    let two = &next.services[&two.services[1].key()];
    assert_eq!(two.backends.values().copied().collect::<Vec<_>>(), [2, 4]);
    assert_eq!([2, 4].map(|id| next.tables.backends[&id].generation), [2, 6]);
}

#[test]
fn ids_run_out() {
    let addresses: Vec<String> = (1..=MAX_BACKENDS).map(|port| format!("10.77.0.11:{port}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let (last, most) = addresses.split_last().unwrap();
    let world = empty().service("one", "10.77.0.100:80", most);
    let plan = planned(&world, &Plan::default());
    assert_eq!(ring(&plan, "one").1.len(), most.len());
    let error = refused(&world.backend("one", last));
    assert_eq!(error, "service one, backend 10.77.0.11:4096: more than 4095 backends");
    let services = 0..=MAX_SERVICES;
    let world =
        services.fold(empty(), |w, i| w.service(&format!("s{i}"), &format!("10.77.0.100:{}", i + 1), &[]));
    assert_eq!(refused(&world), "service s1024: more than 1024 services");
}
