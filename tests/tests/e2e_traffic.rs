//! End to end: what clients get through the balancer, with the agent, real servers and the kernel's own TCP.
#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use lb_tests::e2e::{LIMIT, Stand, ping, service};
use lb_tests::lab::{CLIENT, Topology, wait_until};
use lb_tests::load::{Load, Pattern, Request};
use lb_tests::packet::world::Family;
use lb_tests::require_agent;

/// Runs a scenario for both families on a stand, and then looks at what must hold whatever was done.
fn both_families(topology: fn(u8) -> Topology, scenario: fn(&Stand, Family)) {
    let stand = Stand::new(topology).unwrap();
    for family in Family::BOTH {
        scenario(&stand, family);
    }
    stand.check().unwrap();
}

/// Every page comes from one of the backends, which sees a SNAT address, and all of them take part.
fn pages(stand: &Stand, family: Family) {
    let topology = stand.topology();
    let url = format!("http://{}/", topology.vip(family));
    let mut servers = BTreeSet::new();
    for _ in 0..40 {
        let page = stand.lab.exec(CLIENT, &["curl", "-gsSf", "--max-time", "20", &url]).unwrap();
        let (server, client) = page.trim().split_once(' ').unwrap();
        let client: SocketAddr = client.parse().unwrap();
        assert_eq!(client.ip(), topology.snat(family), "{page}");
        assert!((1024..=32767).contains(&client.port()), "{page}");
        servers.insert(server.to_owned());
    }
    assert_eq!(servers.len(), 3, "{servers:?}");
}

#[test]
fn pages_with_one_arm() {
    require_agent!("pages_with_one_arm");
    both_families(Topology::one_arm, pages);
}

#[test]
fn pages_with_two_arms() {
    require_agent!("pages_with_two_arms");
    both_families(Topology::two_arm, pages);
}

const LARGE: u64 = 200_000_000;

/// The hash is computed on both sides.
fn large_transfers(stand: &Stand, family: Family) {
    let client = stand.client().unwrap();
    for request in [Request::Download(LARGE), Request::Upload(LARGE)] {
        let report = client.run(&load(stand, family, request, 1)).unwrap();
        assert!(report.failed.is_empty() && report.bytes == LARGE, "{family:?}: {report:?}");
    }
}

/// One request on a connection of its own, to be repeated.
fn load(stand: &Stand, family: Family, request: Request, requests: u64) -> Load {
    Load {
        target: stand.topology().vip(family),
        request,
        pattern: Pattern::NewPerRequest { rate: 200 },
        requests,
        duration: 4 * LIMIT,
        timeout: 4 * LIMIT,
    }
}

#[test]
fn large_transfers_with_one_arm() {
    require_agent!("large_transfers_with_one_arm");
    both_families(Topology::one_arm, large_transfers);
}

#[test]
fn large_transfers_with_two_arms() {
    require_agent!("large_transfers_with_two_arms");
    both_families(Topology::two_arm, large_transfers);
}

const CONNECTIONS: u32 = 2000;
/// On each connection.
const REQUESTS: u64 = 3;

/// All of them are open at once, none fails, and they are spread as evenly as hashing does.
fn many_connections(stand: &Stand, family: Family) {
    let client = stand.client().unwrap();
    let pattern = Pattern::KeepAlive { connections: CONNECTIONS, pause: Duration::from_secs(1) };
    let requests = u64::from(CONNECTIONS) * REQUESTS;
    let load = client.start(&Load { pattern, ..load(stand, family, Request::Get("/".to_owned()), requests) });
    let flows = || stand.metrics().unwrap().sum("lb_backend_flows", &[("service", service(family))]).unwrap();
    let mut most = 0.0_f64;
    let all = wait_until("all are open at once", LIMIT, || {
        most = most.max(flows());
        most >= f64::from(CONNECTIONS)
    });
    assert!(all.is_ok(), "at most {most} flows: {:?}", load.report());
    let report = load.finish().unwrap();
    assert_eq!((report.attempts, report.ok), (requests, requests), "{:?}", report.failed);
    // A third, give or take five standard deviations of 2,000 throws.
    let share = requests / 3;
    assert_eq!(report.servers.len(), 3, "{:?}", report.servers);
    assert!(report.servers.values().all(|n| n.abs_diff(share) < share / 6), "{:?}", report.servers);
    wait_until("all flows have ended", LIMIT, || flows() == 0.0).unwrap();
}

#[test]
fn many_connections_with_one_arm() {
    require_agent!("many_connections_with_one_arm");
    both_families(Topology::one_arm, many_connections);
}

#[test]
fn many_connections_with_two_arms() {
    require_agent!("many_connections_with_two_arms");
    both_families(Topology::two_arm, many_connections);
}

/// A VIP answers pings of every length that fits a packet.
fn echo(stand: &Stand, family: Family) {
    let vip = stand.topology().vip(family).ip();
    for length in [0, 1, 56, 1400] {
        ping(&stand.lab, CLIENT, vip, length).unwrap();
    }
}

#[test]
fn a_vip_answers_pings() {
    require_agent!("a_vip_answers_pings");
    for topology in [Topology::one_arm, Topology::two_arm] {
        let stand = Stand::new(topology).unwrap();
        for family in Family::BOTH {
            echo(&stand, family);
        }
        let answered = stand.metrics().unwrap().sum("lb_packets_total", &[("reason", "echo-reply")]).unwrap();
        assert!(answered >= 8.0, "{answered}");
    }
}
