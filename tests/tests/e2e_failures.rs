//! End to end: backends that die, hang, return and move, under load.
#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::collections::BTreeMap;
use std::time::Instant;

use lb_agent::status::BackendStatus;
use lb_tests::e2e::{Held, LIMIT, Stand, service};
use lb_tests::lab::{Topology, backend_host, wait_until};
use lb_tests::load::{Failure, Load, Pattern, Report, Request};
use lb_tests::packet::world::Family;
use lb_tests::require_agent;
use nix::sys::signal::Signal;

/// Connections that are kept during a failure.
const HELD: usize = 24;

fn hold(stand: &Stand, family: Family) -> Vec<Held> {
    let vip = stand.topology().vip(family);
    let held: Vec<Held> = (0..HELD).map(|_| Held::open(&stand.lab, vip).unwrap()).collect();
    let mut servers: Vec<_> = held.iter().map(Held::server).collect();
    servers.sort_unstable();
    servers.dedup();
    assert_eq!(servers.len(), 3, "connections are spread");
    held
}

/// New connections, one for each request.
fn new_connections(stand: &Stand, family: Family, requests: u64) -> Load {
    Load {
        target: stand.topology().vip(family),
        request: Request::Get("/".to_owned()),
        pattern: Pattern::NewPerRequest { rate: 300 },
        requests,
        duration: 4 * LIMIT,
        timeout: LIMIT,
    }
}

fn flawless(stand: &Stand, family: Family) -> BTreeMap<String, u64> {
    stand.flawless(family).unwrap()
}

/// A load's failures, less those of connections to a server that had just been killed.
fn other_failures(report: &Report) -> u64 {
    let expected = [Failure::Refused, Failure::Reset, Failure::Closed];
    report.failed.iter().filter(|(failure, _)| !expected.contains(failure)).map(|(_, n)| n).sum()
}

/// A server is killed and started again, under load.
fn kill_and_return(topology: fn(u8) -> Topology) {
    const VICTIM: u8 = 1;
    let victim = backend_host(VICTIM);
    let mut stand = Stand::new(topology).unwrap();
    let client = stand.client().unwrap();
    let mut held: Vec<Held> = Family::BOTH.into_iter().flat_map(|family| hold(&stand, family)).collect();
    let load = client.start(&new_connections(&stand, Family::V4, u64::MAX));
    wait_until("the load runs", LIMIT, || load.report().ok > 20).unwrap();

    stand.servers.kill(VICTIM);
    for family in Family::BOTH {
        stand.wait_for(family, VICTIM, "is dead", |b| b.state == "dead" && !b.in_ring).unwrap();
    }
    for family in Family::BOTH {
        let servers = flawless(&stand, family);
        assert!(!servers.contains_key(&victim), "{servers:?}");
    }
    let before = held.len();
    held.retain_mut(|connection| {
        let answer = connection.ask().ok();
        let should = (connection.server() != victim).then(|| connection.server().to_owned());
        assert_eq!(answer, should, "a connection to {}", connection.server());
        should.is_some()
    });
    assert!(held.len() < before);

    stand.servers.start_one(&stand.lab, VICTIM, &[]).unwrap();
    for family in Family::BOTH {
        stand.wait_for(family, VICTIM, "is back", |b| b.state == "healthy" && b.in_ring).unwrap();
        let servers = flawless(&stand, family);
        assert!(servers.get(&victim).is_some_and(|n| *n > 20), "{servers:?}");
    }
    for connection in &mut held {
        assert_eq!(connection.ask().unwrap(), connection.server(), "nobody's connection moves");
    }
    let report = load.report();
    assert_eq!(other_failures(&report), 0, "{report:?}");
    drop(load);
    stand.check().unwrap();
}

#[test]
fn a_killed_backend_with_one_arm() {
    require_agent!("a_killed_backend_with_one_arm");
    kill_and_return(Topology::one_arm);
}

#[test]
fn a_killed_backend_with_two_arms() {
    require_agent!("a_killed_backend_with_two_arms");
    kill_and_return(Topology::two_arm);
}

/// A server whose threads are all busy accepts connections and does not answer. It is spared new flows, and
/// goes on with those that it has.
#[test]
fn a_hung_backend_keeps_its_flows() {
    require_agent!("a_hung_backend_keeps_its_flows");
    const HUNG: u8 = 2;
    let hung = backend_host(HUNG);
    let mut stand = Stand::new(Topology::two_arm).unwrap();
    let mut held: Vec<Held> = Family::BOTH.into_iter().flat_map(|family| hold(&stand, family)).collect();

    stand.servers.process(HUNG).unwrap().signal(Signal::SIGSTOP).unwrap();
    for family in Family::BOTH {
        stand.wait_for(family, HUNG, "is suspect", |b| b.state == "suspect" && !b.in_ring).unwrap();
    }
    held.iter_mut().for_each(|connection| connection.send().unwrap());
    for family in Family::BOTH {
        let servers = flawless(&stand, family);
        assert!(!servers.contains_key(&hung), "{servers:?}");
        let labels = [("service", service(family)), ("backend", hung.as_str())];
        let waiting = stand.metrics().unwrap().sum("lb_backend_waiting_flows", &labels).unwrap();
        assert!(waiting > 0.0, "its requests wait for an answer");
    }
    stand.servers.process(HUNG).unwrap().signal(Signal::SIGCONT).unwrap();
    for connection in &mut held {
        assert_eq!(connection.receive().unwrap(), connection.server());
    }
    for family in Family::BOTH {
        stand.wait_for(family, HUNG, "is back", |b| b.state == "healthy" && b.in_ring).unwrap();
        assert!(flawless(&stand, family).contains_key(&hung));
    }
    stand.check().unwrap();
}

/// When nobody is healthy new flows go to everybody, and a metric says so; nobody has to do anything for the end of it.
#[test]
fn without_healthy_backends_it_fails_open() {
    require_agent!("without_healthy_backends_it_fails_open");
    let mut stand = Stand::new(Topology::two_arm).unwrap();
    let client = stand.client().unwrap();
    let fails_open = |stand: &Stand, family, value: f64| {
        wait_until("lb_service_fail_open changes", LIMIT, || {
            let labels = [("service", service(family))];
            stand.metrics().unwrap().sum("lb_service_fail_open", &labels).unwrap() == value
        })
        .unwrap();
    };
    (1..=3).for_each(|n| stand.servers.kill(n));
    for family in Family::BOTH {
        fails_open(&stand, family, 1.0);
        // Refused at once by a backend, which is better than a wait for nothing.
        let report = client.run(&new_connections(&stand, family, 30)).unwrap();
        assert_eq!(report.failed, BTreeMap::from([(Failure::Refused, 30)]), "{report:?}");
    }
    let status = stand.status().unwrap();
    assert!(
        status.services.iter().all(|s| s.fail_open && s.standing == "fail-open"),
        "{:?}",
        status.services
    );

    stand.servers.start_one(&stand.lab, 2, &[]).unwrap();
    for family in Family::BOTH {
        fails_open(&stand, family, 0.0);
        stand.wait_for(family, 1, "gets no flows", |b| !b.in_ring).unwrap();
        assert_eq!(flawless(&stand, family), BTreeMap::from([(backend_host(2), 150)]));
    }
    for n in [1, 3] {
        stand.servers.start_one(&stand.lab, n, &[]).unwrap();
    }
    for family in Family::BOTH {
        for n in [1, 3] {
            stand.wait_for(family, n, "is back", |b| b.state == "healthy" && b.in_ring).unwrap();
        }
        assert_eq!(flawless(&stand, family).len(), 3);
    }
    stand.check().unwrap();
}

/// A pod that was moved, or a replaced network card, has another MAC and says so. Its connections go on.
fn new_mac(topology: fn(u8) -> Topology) {
    const MOVED: u8 = 3;
    const MAC: &str = "02:00:00:00:77:03";
    let moved = backend_host(MOVED);
    let stand = Stand::new(topology).unwrap();
    let mut held: Vec<Held> = Family::BOTH.into_iter().flat_map(|family| hold(&stand, family)).collect();
    let notify = [("ipv4/conf/eth0/arp_notify", "1"), ("ipv6/conf/eth0/ndisc_notify", "1")];
    stand.lab.sysctl(&moved, &notify).unwrap();
    stand.lab.exec(&moved, &["ip", "link", "set", "eth0", "address", MAC]).unwrap();
    let start = Instant::now();
    let has_it = |b: &BackendStatus| b.next_hop.as_ref().is_some_and(|hop| hop.mac == MAC);
    for family in Family::BOTH {
        stand.wait_for(family, MOVED, "has its new MAC", has_it).unwrap();
    }
    // Much longer than it takes, and shorter than until the agent would read all neighbours anew.
    assert!(start.elapsed() < LIMIT / 3, "{:?}", start.elapsed());
    for family in Family::BOTH {
        stand.wait_for(family, MOVED, "is healthy", |b| b.state == "healthy" && b.in_ring).unwrap();
        assert!(flawless(&stand, family).contains_key(&moved));
    }
    for connection in &mut held {
        assert_eq!(connection.ask().unwrap(), connection.server());
    }
    stand.check().unwrap();
}

#[test]
fn a_backend_with_a_new_mac_with_one_arm() {
    require_agent!("a_backend_with_a_new_mac_with_one_arm");
    new_mac(Topology::one_arm);
}

#[test]
fn a_backend_with_a_new_mac_with_two_arms() {
    require_agent!("a_backend_with_a_new_mac_with_two_arms");
    new_mac(Topology::two_arm);
}
