//! End to end: the agent and the machine it runs on. What it changes, what it leaves alone, and what it leaves behind.
#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use lb_agent::status::Status;
use lb_tests::e2e::{KernelObjects, LIMIT, Stand, ping, service, xdp_modes};
use lb_tests::lab::{Agent, CLIENT, LB, Lab, Settings, Topology, backend_host, wait_until};
use lb_tests::load::{Load, Pattern, Request};
use lb_tests::packet::world::Family;
use lb_tests::require_agent;

fn requests(stand: &Stand, family: Family, requests: u64) {
    let load = Load {
        target: stand.topology().vip(family),
        request: Request::Get("/".to_owned()),
        pattern: Pattern::NewPerRequest { rate: 200 },
        requests,
        duration: 4 * LIMIT,
        timeout: LIMIT,
    };
    let report = stand.client().unwrap().run(&load).unwrap();
    assert_eq!(report.ok, requests, "{report:?}");
}

/// SIGTERM and SIGINT end it in order, and nothing stays in the kernel.
#[test]
fn nothing_is_left_at_the_end() {
    require_agent!("nothing_is_left_at_the_end");
    let mut stand = Stand::new(Topology::two_arm).unwrap();
    let want = ["eth0", "eth1"].map(|name| (name.to_owned(), "driver".to_owned()));
    assert_eq!(xdp_modes(&stand.lab, LB).unwrap(), BTreeMap::from(want));
    requests(&stand, Family::V4, 10);
    let objects = KernelObjects::of(stand.agent.process().pid()).unwrap();
    assert!(objects.maps.len() >= 15 && objects.programs.len() >= 2, "{objects:?}");
    assert_eq!(objects.left().unwrap(), objects);

    assert_eq!(stand.agent.terminate().unwrap().code(), Some(0), "{}", stand.agent.log());
    assert!(stand.agent.log().contains("SIGTERM: stopping"), "{}", stand.agent.log());
    assert_eq!(xdp_modes(&stand.lab, LB).unwrap(), BTreeMap::new());
    // The kernel frees them a moment later.
    wait_until("maps and programs are gone", LIMIT, || objects.left().unwrap().is_empty()).unwrap();

    // It starts again as if nothing had been.
    stand.agent = Agent::start(&stand.lab, &Settings::default().text(stand.topology())).unwrap();
    requests(&stand, Family::V6, 10);
}

/// Also when it is killed.
#[test]
fn nothing_is_left_after_a_crash() {
    require_agent!("nothing_is_left_after_a_crash");
    let mut stand = Stand::new(Topology::one_arm).unwrap();
    let objects = KernelObjects::of(stand.agent.process().pid()).unwrap();
    stand.agent.process().kill();
    wait_until("maps and programs are gone", LIMIT, || objects.left().unwrap().is_empty()).unwrap();
    assert_eq!(xdp_modes(&stand.lab, LB).unwrap(), BTreeMap::new());
}

/// A second agent neither starts nor disturbs the first.
#[test]
fn a_second_agent_is_refused() {
    require_agent!("a_second_agent_is_refused");
    let stand = Stand::new(Topology::two_arm).unwrap();
    let text = Settings::default().text(stand.topology());
    let elsewhere = text.replace("[agent]\n", "[agent]\nadmin = \"127.0.0.1:9471\"\n");
    for (text, why) in [(text, "9470"), (elsewhere, "attached already")] {
        let mut second = Agent::spawn(&stand.lab, &text).unwrap();
        assert_eq!(second.process().wait(LIMIT).unwrap().code(), Some(1), "{}", second.log());
        assert!(second.log().contains(why), "{}", second.log());
    }
    assert_eq!(xdp_modes(&stand.lab, LB).unwrap().len(), 2);
    Family::BOTH.into_iter().for_each(|family| requests(&stand, family, 10));
    stand.check().unwrap();
}

/// Sends bytes to a listener on the balancer, which sends them back.
fn exchange(lab: &Lab, from: &str, (to, address): (&str, SocketAddr)) {
    let listener = lab.in_ns(to, || TcpListener::bind(address)).unwrap().unwrap();
    let echo = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        stream.write_all(&received).unwrap();
    });
    let sent: Vec<u8> = (0..500_000u32).map(|i| (i % 251).to_le_bytes()[0]).collect();
    let mut stream = lab.in_ns(from, || TcpStream::connect_timeout(&address, LIMIT)).unwrap().unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(&sent).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    assert!(received == sent, "{from} to {address}");
    echo.join().unwrap();
}

/// Pings of the balancer's own addresses, also in fragments; services on them, also on ports that flows use; and, with
/// two arms, what it forwards as a router.
fn own_traffic(topology: fn(u8) -> Topology) {
    let stand = Stand::new(topology).unwrap();
    let (lab, topology, backend) = (&stand.lab, stand.topology(), backend_host(1));
    for family in Family::BOTH {
        // Flows in the table, some of whose ports the services below share.
        requests(&stand, family, 50);
        for length in [56, 1400, 4000] {
            ping(lab, CLIENT, topology.front(family), length).unwrap();
            ping(lab, &backend, topology.snat(family), length).unwrap();
            ping(lab, LB, topology.client(family), length).unwrap();
            ping(lab, LB, topology.backend(1, family).ip(), length).unwrap();
        }
        for port in [2222, 32000, 61000] {
            exchange(lab, CLIENT, (LB, SocketAddr::new(topology.front(family), port)));
            exchange(lab, &backend, (LB, SocketAddr::new(topology.snat(family), port)));
        }
        let elsewhere = SocketAddr::new(topology.backend(1, family).ip(), 9000);
        exchange(lab, LB, (&backend, elsewhere));
        exchange(lab, CLIENT, (&backend, elsewhere));
        requests(&stand, family, 50);
    }
    stand.check().unwrap();
}

#[test]
fn the_hosts_own_traffic_with_one_arm() {
    require_agent!("the_hosts_own_traffic_with_one_arm");
    own_traffic(Topology::one_arm);
}

#[test]
fn the_hosts_own_traffic_with_two_arms() {
    require_agent!("the_hosts_own_traffic_with_two_arms");
    own_traffic(Topology::two_arm);
}

/// `announce = "arp"`: a VIP that is on no interface is found by ARP and neighbour discovery, and a client that
/// remembers who had it before is told.
#[test]
fn an_announced_vip_is_found() {
    require_agent!("an_announced_vip_is_found");
    const FORMER: &str = "02:00:00:00:66:66";
    let topology = Topology::one_arm(3);
    let settings = Settings { announce: true, ..Settings::default() };
    let mut stand = Stand::with(topology, &settings).unwrap();
    let mac = stand.status().unwrap().interfaces[0].mac.clone();
    let neighbour = |stand: &Stand, family| {
        let vip = stand.topology().vip(family).ip().to_string();
        stand.lab.exec(CLIENT, &["ip", "neigh", "show", &vip]).unwrap()
    };
    let replies = |stand: &Stand, reason| {
        stand.metrics().unwrap().sum("lb_packets_total", &[("reason", reason)]).unwrap()
    };
    for (family, reason) in Family::BOTH.into_iter().zip(["arp-reply", "neighbor-advert"]) {
        stand.lab.exec(CLIENT, &["ip", "neigh", "flush", "dev", "eth0"]).unwrap();
        let before = replies(&stand, reason);
        requests(&stand, family, 20);
        assert!(replies(&stand, reason) > before, "{reason}");
        assert!(neighbour(&stand, family).contains(&mac), "{}", neighbour(&stand, family));
    }

    assert!(stand.agent.terminate().unwrap().success());
    for family in Family::BOTH {
        let vip = topology.vip(family).ip().to_string();
        let entry = ["ip", "neigh", "replace", &vip, "lladdr", FORMER, "dev", "eth0", "nud", "stale"];
        stand.lab.exec(CLIENT, &entry).unwrap();
    }
    stand.agent = Agent::start(&stand.lab, &settings.text(&topology)).unwrap();
    for family in Family::BOTH {
        wait_until("the client is told", LIMIT, || neighbour(&stand, family).contains(&mac)).unwrap();
        requests(&stand, family, 20);
    }
    stand.check().unwrap();
}

/// Generic mode works on the same networks, and says what it is.
#[test]
fn generic_mode_works() {
    require_agent!("generic_mode_works");
    for (topology, announce) in [(Topology::one_arm(3), true), (Topology::two_arm(3), false)] {
        let settings = Settings { xdp_mode: "generic", announce, ..Settings::default() };
        let stand = Stand::with(topology, &settings).unwrap();
        let modes = xdp_modes(&stand.lab, LB).unwrap();
        assert!(
            modes.len() == topology.interfaces().len() && modes.values().all(|m| m == "generic"),
            "{modes:?}"
        );
        assert!(stand.status().unwrap().interfaces.iter().all(|i| i.xdp_mode == "generic"));
        for family in Family::BOTH {
            requests(&stand, family, 100);
            ping(&stand.lab, CLIENT, topology.vip(family).ip(), 56).unwrap();
            // Bulk data fills the ring of the balancer's device, which generic XDP sends to past its queue.
            uploads(&stand, family, 4);
        }
        stand.check().unwrap();
    }
}

/// Sends 5 MB to the service, so often, four at a time.
fn uploads(stand: &Stand, family: Family, requests: u64) {
    let load = Load {
        target: stand.topology().vip(family),
        request: Request::Upload(5_000_000),
        pattern: Pattern::KeepAlive { connections: 4, pause: Duration::ZERO },
        requests,
        duration: 4 * LIMIT,
        timeout: 4 * LIMIT,
    };
    let report = stand.client().unwrap().run(&load).unwrap();
    assert_eq!(report.ok, requests, "{report:?}");
}

/// Status, metrics and what the client counted are one story.
#[test]
fn status_and_metrics_agree() {
    require_agent!("status_and_metrics_agree");
    const REQUESTS: u64 = 120;
    let stand = Stand::new(Topology::two_arm).unwrap();
    Family::BOTH.into_iter().for_each(|family| requests(&stand, family, REQUESTS));
    wait_until("all flows have ended", LIMIT, || {
        stand.metrics().unwrap().sum("lb_backend_flows", &[]).unwrap() == 0.0
    })
    .unwrap();
    let status: Status = serde_json::from_str(&stand.command(&["status", "--json"]).unwrap()).unwrap();
    let metrics = stand.metrics().unwrap();
    assert!(status.is_ready() && metrics.sum("lb_ready", &[]).unwrap() == 1.0);
    for interface in &status.interfaces {
        assert_eq!(interface.xdp_mode, "native");
        let labels = [("interface", interface.name.as_str()), ("mode", "native")];
        assert_eq!(metrics.sum("lb_xdp_mode", &labels).unwrap(), 1.0);
    }
    for (family, of_status) in Family::BOTH.into_iter().zip(&status.services) {
        let name = of_status.name.as_str();
        assert_eq!(name, service(family));
        let count = |metric: &str, labels: &[(&str, &str)]| {
            metrics.sum(metric, &[&[("service", name)], labels].concat()).unwrap()
        };
        assert_eq!(count("lb_service_new_flows_total", &[]), REQUESTS as f64);
        for backend in &of_status.backends {
            let labels = [("backend", backend.name.as_str())];
            assert_eq!(count("lb_backend_new_flows_total", &labels), backend.new_flows.unwrap() as f64);
            assert_eq!((backend.flows, backend.waiting), (Some(0), Some(0)));
            assert_eq!(count("lb_backend_up", &labels), 1.0);
            assert!(count("lb_backend_first_byte_seconds_count", &labels) > 0.0);
        }
        for direction in ["from_client", "from_backend"] {
            let labels = [("direction", direction)];
            // A handshake, a request and its end are four packets at the least each way.
            assert!(count("lb_service_packets_total", &labels) >= 4.0 * REQUESTS as f64);
            for unit in ["packets", "bytes"] {
                let (of_service, of_backends) =
                    (format!("lb_service_{unit}_total"), format!("lb_backend_{unit}_total"));
                assert_eq!(count(&of_service, &labels), count(&of_backends, &labels), "{direction} {unit}");
            }
        }
    }
    let forwarded = metrics.sum("lb_packets_total", &[("reason", "forwarded")]).unwrap();
    assert_eq!(forwarded, metrics.sum("lb_service_packets_total", &[]).unwrap());
    let table = status.flow_table.unwrap();
    assert_eq!((table.established, table.embryonic), (0, 0));
    assert!(table.closed <= 2 * REQUESTS && table.closed > 0, "{table:?}");
    let people = stand.command(&["status"]).unwrap();
    assert!(people.contains("superset-v6") && people.contains("backend-3"), "{people}");
    stand.check().unwrap();
}
