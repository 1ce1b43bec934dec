//! The agent's own code on the kernel's maps: what was written is read back, scenarios with crashes, counters,
//! expiry, what a swap of rings costs, attaching and detaching.
#![expect(clippy::unwrap_used, reason = "that is how a test fails")]
#![expect(clippy::cast_possible_truncation, reason = "sizes of maps, which are small")]

use std::io::Write;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_agent::agent::program::Program;
use lb_agent::config::XdpMode;
use lb_agent::dataplane::ebpf::{EbpfDataplane, exact_now};
use lb_agent::dataplane::fake::Fake;
use lb_agent::dataplane::{Counters, Dataplane, Op, RingKey, Tables, scenarios};
use lb_agent::flows::{Flow, FlowSummary, Now};
use lb_agent::model::PortFacts;
use lb_common::abi::ticks_of_seconds;
use lb_common::addr::Addr;
use lb_common::backend::{BACKEND_LIVE, Backend, MAX_BACKENDS};
use lb_common::flow::{Ctrl, Slot, State};
use lb_common::node::{Node, Port};
use lb_common::ring::{RING_SIZE, Ring};
use lb_common::service::{MAX_SERVICES, SERVICE_LIVE, Service, ServiceKey};
use lb_common::stats::{BackendLoad, BackendStats, ServiceStats};
use lb_tests::harness::{Maps, lease};
use lb_tests::pair::{PAIR, ifindex, ip};

#[path = "real_maps/kernel.rs"]
mod kernel;

use kernel::{in_network, load, open_files, programs};

fn backend(generation: u16) -> Backend {
    let addr = Ipv4Addr::new(10, 77, 0, 11).into();
    Backend { addr, port: 8088u16.to_be(), generation, weight: 100, flags: BACKEND_LIVE, ..Backend::EMPTY }
}

fn service() -> Service {
    let vip = Ipv4Addr::new(10, 77, 0, 100).into();
    Service { vip, port: 80u16.to_be(), protocol: 6, flags: SERVICE_LIVE, ..Service::EMPTY }
}

/// A ring that holds one backend everywhere.
fn ring(backend: u16) -> Arc<Ring> {
    let mut ring = Ring::empty();
    ring.backends = 1;
    ring.length = RING_SIZE as u32;
    ring.slots.fill(backend);
    Arc::from(ring)
}

fn node(ifindexes: [u32; 2]) -> Node {
    let mut node = Node { hash_key: 7, port_count: 2, idle_ticks: 1000, ..Node::EMPTY };
    for (port, ifindex) in node.ports.iter_mut().zip(ifindexes) {
        *port = Port { ifindex, mac: [2, 0, 0, 0, 0, 1], ..Port::EMPTY };
    }
    node
}

/// Every kind of write, on the smallest and the largest keys.
fn every_op(ifindexes: [u32; 2]) -> Vec<Op> {
    let (vip, key) = (service().vip, ServiceKey::tcp(service().vip, service().port));
    let (last_backend, last_service) = (MAX_BACKENDS as u16 - 1, MAX_SERVICES as u16 - 1);
    vec![
        Op::SetNode(Box::new(node(ifindexes))),
        Op::SetSnat(0, Ipv4Addr::new(10, 77, 0, 1).into()),
        Op::SetSnat(7, Ipv4Addr::new(10, 77, 0, 2).into()),
        Op::SetBackend(1, backend(1)),
        Op::SetBackend(last_backend, backend(u16::MAX)),
        Op::SetRing(RingKey::All(0), ring(1)),
        Op::SetRing(RingKey::All(last_service), ring(last_backend)),
        Op::SetRing(RingKey::Near(0), ring(1)),
        Op::SetRing(RingKey::Near(last_service), ring(last_backend)),
        Op::SetService(0, service()),
        Op::SetService(last_service, service()),
        Op::SetVip(vip, 1),
        Op::SetServiceId(key, last_service),
        Op::SetRing(RingKey::All(0), ring(last_backend)),
        Op::SetVip(vip, 0),
        Op::SetServiceId(key, 0),
        Op::SetBackend(1, Backend { flags: 0, ..backend(1) }),
        Op::RemoveServiceId(key),
        Op::RemoveVip(vip),
        Op::RemoveService(0),
        Op::RemoveRing(RingKey::All(0)),
        Op::RemoveRing(RingKey::Near(last_service)),
        Op::SetBackend(last_backend, Backend::EMPTY),
        Op::SetSnat(0, Addr::UNSPECIFIED),
        Op::SetNode(Box::new(Node::EMPTY)),
    ]
}

#[test]
fn what_was_written_is_read_back() {
    in_network("what_was_written_is_read_back", || {
        let mut kernel = lease(64, 8).unwrap();
        let mut tables = Tables::default();
        assert!(kernel.read().unwrap() == tables, "fresh maps");
        for op in every_op(PAIR.map(ifindex)) {
            kernel.apply(&op).unwrap();
            tables.apply(&op);
            let start = Instant::now();
            assert!(kernel.read().unwrap() == tables, "after {op:?}");
            // Waiting for every ring that there may be takes 6.1 more than ten.
            assert!(start.elapsed() < Duration::from_secs(5), "read in {:?} after {op:?}", start.elapsed());
        }
    });
}

#[test]
fn the_kernel_refuses_what_the_fake_refuses() {
    in_network("the_kernel_refuses_what_the_fake_refuses", || {
        let (mut kernel, mut fake) = (lease(64, 8).unwrap(), Fake::default());
        let key = ServiceKey::tcp(service().vip, 80);
        let beyond = MAX_SERVICES as u16;
        for op in [
            Op::SetSnat(u32::MAX, service().vip),
            Op::SetBackend(0, backend(1)),
            Op::SetBackend(MAX_BACKENDS as u16, backend(1)),
            Op::SetRing(RingKey::All(beyond), ring(1)),
            Op::RemoveRing(RingKey::All(0)),
            Op::RemoveRing(RingKey::All(beyond)),
            Op::SetRing(RingKey::Near(beyond), ring(1)),
            Op::RemoveRing(RingKey::Near(0)),
            Op::RemoveRing(RingKey::Near(beyond)),
            Op::SetService(beyond, service()),
            Op::RemoveService(beyond),
            Op::RemoveVip(service().vip),
            Op::RemoveServiceId(key),
        ] {
            assert!(fake.apply(&op).is_err(), "{op:?}");
            let text = kernel.apply(&op).unwrap_err().to_string();
            assert!(text.starts_with("map ") && !text.contains('\n'), "{text}");
        }
        assert!(kernel.read().unwrap() == Tables::default());
        let one_gone = node([ifindex("left"), 9999]);
        kernel.apply(&Op::SetNode(Box::new(one_gone))).unwrap();
        assert!(kernel.read().unwrap().node == one_gone, "an interface that vanished stops no write");
    });
}

#[test]
fn scenarios_hold_on_the_kernels_maps() {
    in_network("scenarios_hold_on_the_kernels_maps", || {
        for scenario in scenarios::all(PAIR.map(ifindex)) {
            let mut kernel = lease(scenarios::SLOTS, scenarios::BLOCKS).unwrap();
            scenarios::run(&scenario, &mut *kernel).unwrap_or_else(|why| panic!("{why}"));
        }
    });
}

#[test]
fn agents_that_were_killed_anywhere_recover_on_the_kernels_maps() {
    in_network("agents_that_were_killed_anywhere_recover_on_the_kernels_maps", || {
        for scenario in scenarios::all(PAIR.map(ifindex)) {
            let mut kernel = lease(scenarios::SLOTS, scenarios::BLOCKS).unwrap();
            scenarios::run_with_crashes(&scenario, &mut *kernel).unwrap_or_else(|why| panic!("{why}"));
        }
    });
}

/// Attaches to the left interface and opens the maps behind the agent's back.
fn attach(kernel: &mut EbpfDataplane) -> Maps {
    let before = programs();
    kernel.attach_to("left", ifindex("left"), XdpMode::Native).unwrap();
    assert_eq!(before, programs(), "attaching loads nothing");
    assert!(attached_program("left").is_some());
    Maps::of(kernel)
}

/// Id of the program on an interface, as `ip` says.
fn attached_program(interface: &str) -> Option<u32> {
    let output = Command::new("ip").args(["-d", "link", "show", "dev", interface]).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let words: Vec<&str> = text.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "prog/xdp")?;
    words.get(at + 2)?.parse().ok()
}

#[test]
fn counters_are_added_up_and_new_owners_start_at_zero() {
    in_network("counters_are_added_up_and_new_owners_start_at_zero", || {
        let mut kernel = lease(64, 1).unwrap();
        let maps = attach(&mut kernel);
        let counters = kernel.counters();
        kernel.apply(&Op::SetBackend(3, backend(1))).unwrap();
        kernel.apply(&Op::SetService(2, service())).unwrap();
        maps.set_per_cpu("REASON_STATS", 4, 10u64);
        maps.set_per_cpu("BACKEND_STATS", 3, BackendStats { new_flows: 5, ..BackendStats::ZERO });
        maps.set_per_cpu("SERVICE_STATS", 2, ServiceStats { table_full: 6, ..ServiceStats::ZERO });
        let (busy, none) = (BackendLoad { flows: 7, waiting: 1, failures: 2, resets: 3 }, BackendLoad::ZERO);
        maps.set("LOAD", 3, busy);
        maps.set("CURSORS", 2, 99u64);
        let cpus = aya::util::nr_cpus().unwrap() as u64;
        assert_eq!(counters.reasons().unwrap()[4], 10 * cpus);
        assert_eq!(counters.backend(3).unwrap().new_flows, 5 * cpus);
        assert_eq!(counters.service(2).unwrap().table_full, 6 * cpus);
        assert_eq!(counters.load(3).unwrap(), busy);
        assert!(counters.backend(MAX_BACKENDS as u16).is_err());

        // The same owner with other properties, and one that leaves, keep theirs.
        kernel.apply(&Op::SetBackend(3, Backend { weight: 9, ..backend(1) })).unwrap();
        kernel.apply(&Op::SetBackend(3, Backend { flags: 0, ..backend(1) })).unwrap();
        kernel.apply(&Op::SetService(2, Service { scheduler: 2, ..service() })).unwrap();
        kernel.apply(&Op::RemoveService(2)).unwrap();
        assert_eq!(counters.backend(3).unwrap().new_flows, 5 * cpus);
        assert_eq!(counters.load(3).unwrap(), busy);
        assert_eq!(counters.service(2).unwrap().table_full, 6 * cpus);

        kernel.apply(&Op::SetBackend(3, backend(2))).unwrap();
        kernel.apply(&Op::SetService(2, service())).unwrap();
        assert_eq!(counters.backend(3).unwrap(), BackendStats::ZERO);
        assert_eq!(counters.load(3).unwrap(), none);
        assert_eq!(counters.service(2).unwrap(), ServiceStats::ZERO);
        assert_eq!(maps.get::<u64>("CURSORS", 2), 0);
    });
}

/// A flow of backend 3 that was last heard so many ticks ago.
fn flow(now: u32, state: State, generation: u16, silent: u32) -> Slot {
    let seen = now.wrapping_sub(silent);
    let client = Ipv4Addr::new(192, 0, 2, 7).into();
    let ctrl = Ctrl::new(state, 1, 3, generation).0;
    Slot {
        ctrl,
        client,
        client_port: 40_000u16.to_be(),
        client_seen: seen,
        backend_seen: seen,
        ..Slot::EMPTY
    }
}

#[test]
fn flows_are_seen_and_those_that_are_over_are_closed() {
    in_network("flows_are_seen_and_those_that_are_over_are_closed", || {
        let mut kernel = load(1024, 1);
        let maps = attach(&mut kernel);
        let minute = ticks_of_seconds(60);
        let node =
            Node { idle_ticks: minute, rest_ticks: minute, buckets: 128, port_base: 1024, ..Node::EMPTY };
        kernel.apply(&Op::SetNode(Box::new(node))).unwrap();
        kernel.apply(&Op::SetBackend(3, backend(2))).unwrap();
        let now = kernel.clock().unwrap().now();
        let waiting = |slot: Slot| Slot { ctrl: Ctrl(slot.ctrl).with_waiting(true).0, ..slot };
        let alive = [
            flow(now, State::Established, 2, 0),
            waiting(flow(now, State::Established, 2, 2 * minute)),
            flow(now, State::Syn, 2, 0),
            flow(now, State::Closed, 1, 2 * minute),
        ];
        let over = [
            flow(now, State::Established, 2, 2 * minute),
            waiting(flow(now, State::Established, 1, 0)),
            flow(now, State::Answered, 2, 2 * minute),
        ];
        for (index, slot) in (0..).zip(alive.iter().chain(&over)) {
            maps.set("FLOWS", index, *slot);
        }
        // More than one run's worth.
        for index in 500..700 {
            maps.set("FLOWS", index, flow(now, State::Established, 1, 0));
        }
        maps.set("LOAD", 3, BackendLoad { flows: 206, waiting: 2, ..BackendLoad::ZERO });

        let table = kernel.flows();
        assert_eq!((table.len(), table.slot(1024)), (1024, None));
        assert_eq!(table.slot(0), Some(alive[0]));
        assert_eq!(table.census().by_state, [817, 0, 1, 1, 204, 1]);
        let summary = FlowSummary::of(table.iter().map(|(_, slot)| slot), exact_now());
        assert_eq!(summary.census, table.census());
        assert_eq!(summary.backend(3, 1).unwrap().by_state[State::Established as usize], 201);
        let shown =
            Flow::of(2, &table.slot(2).unwrap(), &node, Now { seen: now, exact: exact_now() }).unwrap();
        assert_eq!((shown.port, shown.client), (1026, "192.0.2.7:40000".parse().unwrap()));

        let found = kernel.scanner()(&kernel.read().unwrap());
        let waits_first = [5, 4, 6].into_iter();
        assert_eq!(found, waits_first.chain(500..700).collect::<Vec<u32>>());
        let all: Vec<u32> = (0..1024).collect();
        let close = Program::closer(&kernel);
        assert_eq!(close(&all).unwrap().len(), 203, "the data path decides by itself");
        assert_eq!(table.census().by_state, [817, 0, 1, 0, 2, 204]);
        assert_eq!(table.slot(1), Some(alive[1]));
        assert_eq!(close(&all).unwrap(), []);
    });
}

#[test]
fn a_thousand_rings_fit_and_swaps_leak_nothing() {
    in_network("a_thousand_rings_fit_and_swaps_leak_nothing", || {
        let mut kernel = lease(64, 1).unwrap();
        let rings = [ring(1), ring(2)];
        kernel.apply(&Op::SetRing(RingKey::All(0), Arc::clone(&rings[0]))).unwrap();
        let before = open_files();
        let swap = |id: u16| Op::SetRing(RingKey::All(id), Arc::clone(&rings[usize::from(id) % 2]));
        let mut times = Vec::new();
        for id in 0..100 {
            let one = Instant::now();
            kernel.apply(&swap(id)).unwrap();
            times.push(one.elapsed());
        }
        let start = Instant::now();
        kernel.apply_all(&(0..1000).map(swap).collect::<Vec<_>>()).unwrap();
        let written = start.elapsed();
        assert_eq!(open_files(), before, "descriptors of inner maps are closed");
        let start = Instant::now();
        let read = kernel.read().unwrap();
        let again = start.elapsed();
        assert_eq!((read.rings.len(), open_files()), (1000, before));
        assert!(read.rings.values().zip(rings.iter().cycle()).all(|(a, b)| Arc::ptr_eq(a, b)), "shared");
        times.sort_unstable();
        report(&format!(
            "one swap p50 {:?}, p99 {:?}; 1000 swaps {written:?}; reading them back {again:?}",
            times[50], times[99]
        ));
        let all = (0..1000).map(|id| Op::RemoveRing(RingKey::All(id))).chain([Op::SetVip(service().vip, 0)]);
        kernel.apply_all(&all.collect::<Vec<_>>()).unwrap();
        let left = kernel.read().unwrap();
        assert_eq!((left.rings.len(), left.vips.len()), (0, 1));
        let text = kernel.apply_all(&[swap(1), swap(2000), swap(3)]).unwrap_err().to_string();
        assert!(text.contains("RINGS, service id 2000"), "{text}");
    });
}

#[test]
fn a_million_slots_are_read_in_milliseconds() {
    in_network("a_million_slots_are_read_in_milliseconds", || {
        let mut kernel = load(1 << 20, 1);
        let maps = attach(&mut kernel);
        let now = kernel.clock().unwrap().now();
        for index in 0..4096 {
            maps.set("FLOWS", index * 256, flow(now, State::Established, 1, 5));
        }
        let table = kernel.flows();
        let start = Instant::now();
        let census = table.census();
        let counted = start.elapsed();
        let start = Instant::now();
        let summary = FlowSummary::of(table.iter().map(|(_, slot)| slot), exact_now());
        let summed = start.elapsed();
        assert_eq!((census.capacity(), census.count(State::Established)), (1 << 20, 4096));
        assert_eq!(summary.backend(3, 1).unwrap().open(), 4096);
        assert!(summed < Duration::from_secs(2), "{summed:?}");
        report(&format!("1 M slots: counted in {counted:?}, summed up by backend in {summed:?}"));
    });
}

/// A figure for whoever reads the output of the test.
fn report(text: &str) {
    // A test cannot do anything about a closed stderr.
    let _ = writeln!(std::io::stderr(), "measured: {text}");
}

#[test]
fn native_where_the_driver_can_and_generic_with_a_reason_where_it_cannot() {
    in_network("native_where_the_driver_can_and_generic_with_a_reason_where_it_cannot", || {
        let mut kernel = load(64, 1);
        let how = kernel.attach_to("left", ifindex("left"), XdpMode::Auto).unwrap();
        assert_eq!((how.mode, how.refused), ("native", None));

        let text = kernel.attach_to("lo", ifindex("lo"), XdpMode::Native).unwrap_err().to_string();
        assert!(text.contains("lo") && text.contains("no native XDP"), "{text}");
        let how = kernel.attach_to("lo", ifindex("lo"), XdpMode::Auto).unwrap();
        assert!(how.mode == "generic" && how.refused.unwrap().contains("no native XDP"));
        kernel.detach_from(ifindex("lo")).unwrap();
        let how = kernel.attach_to("lo", ifindex("lo"), XdpMode::Generic).unwrap();
        assert_eq!((how.mode, how.refused), ("generic", None));

        // A peer with more transmit queues than this end has receive queues.
        ip("link add few numrxqueues 1 type veth peer name many numtxqueues 4\n");
        let queues = Command::new("ethtool").args(["-L", "many", "tx", "4"]).status().unwrap();
        assert!(queues.success());
        let text = kernel.attach_to("few", ifindex("few"), XdpMode::Native).unwrap_err().to_string();
        assert!(text.contains("ethtool -L"), "{text}");

        let text = kernel.attach_to("none", 9999, XdpMode::Auto).unwrap_err().to_string();
        assert!(text.starts_with("interface none: ") && text.contains("No such device"), "{text}");
        drop(kernel);
        assert_eq!((attached_program("left"), attached_program("lo")), (None, None));
    });
}

#[test]
fn another_program_is_left_alone() {
    in_network("another_program_is_left_alone", || {
        let (mut first, mut second) = (lease(64, 1).unwrap(), lease(64, 1).unwrap());
        for mode in [XdpMode::Native, XdpMode::Generic] {
            first.attach_to("left", ifindex("left"), mode).unwrap();
            let id = attached_program("left").unwrap();
            for mode in [XdpMode::Native, XdpMode::Generic, XdpMode::Auto] {
                let text = second.attach_to("left", ifindex("left"), mode).unwrap_err().to_string();
                assert!(text.contains("left") && text.contains(&format!("program {id} ")), "{text}");
            }
            assert_eq!(attached_program("left"), Some(id));
            first.detach();
            assert_eq!(attached_program("left"), None);
        }
        second.attach_to("left", ifindex("left"), XdpMode::Native).unwrap();
    });
}

#[test]
fn a_program_moves_to_the_interface_that_took_a_name() {
    in_network("a_program_moves_to_the_interface_that_took_a_name", || {
        let mut kernel = lease(64, 1).unwrap();
        let facts =
            || PortFacts { name: "left".into(), ifindex: ifindex("left"), mac: [2; 6], tx_by_redirect: true };
        let old = facts();
        let how = kernel.attach(&old).unwrap();
        assert_eq!(kernel.attach(&old).unwrap(), how, "again is nothing new");
        ip("link set left name gone\nlink add left type veth peer name other\n");
        kernel.attach(&facts()).unwrap();
        assert!(attached_program("left").is_some());
        assert_eq!(attached_program("gone"), None);
        ip("link del left\nlink add left type veth peer name other\n");
        kernel.attach(&facts()).unwrap();
        assert!(attached_program("left").is_some());
    });
}
