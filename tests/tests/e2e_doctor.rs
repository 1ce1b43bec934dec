//! End to end: `lb-agent doctor` finds nothing wrong where nothing is, and each fault that there is.
#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::process::Command;

use lb_tests::e2e::Stand;
use lb_tests::lab::{CLIENT, LB, Settings, Topology, backend_host, programs};
use lb_tests::packet::world::Family;
use lb_tests::require_agent;
use serde_json::Value;

/// What was found, as (level, subject, text).
type Findings = Vec<(String, String, String)>;

/// Runs it on the balancer with a configuration; everything that was found, and whether nothing failed by the exit status.
fn doctor(stand: &Stand, config: &str) -> (Findings, bool) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), config).unwrap();
    let mut command = Command::new(programs::agent().unwrap());
    command.args(["doctor", "--json", "--config"]).arg(file.path());
    let output = stand.lab.output(LB, &mut command).unwrap();
    let found: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    for finding in &found {
        let needs_advice = finding["level"] != "ok" && finding["subject"] != "configuration";
        assert!(!needs_advice || !text(finding, "advice").is_empty(), "{finding}");
    }
    let found = found.iter().map(|f| (text(f, "level"), text(f, "subject"), text(f, "text"))).collect();
    (found, output.status.success())
}

fn assert_found(found: &Findings, level: &str, subject: &str, part: &str) {
    let there = found.iter().any(|(l, s, text)| l == level && s.contains(subject) && text.contains(part));
    assert!(there, "no {level} {subject} with {part:?} in {found:#?}");
}

fn on_balancer(stand: &Stand, command: &str) {
    stand.lab.exec(LB, &command.split_whitespace().collect::<Vec<_>>()).unwrap();
}

#[test]
fn nothing_is_wrong_with_a_sound_stand() {
    require_agent!("nothing_is_wrong_with_a_sound_stand");
    for (topology, announce) in [(Topology::two_arm(3), false), (Topology::one_arm(3), true)] {
        let settings = Settings { announce, ..Settings::default() };
        let stand = Stand::with(topology, &settings).unwrap();
        let (found, success) = doctor(&stand, &settings.text(&topology));
        // The VIPs of the other one are routed to the balancer, which it cannot know.
        let fine = |(level, subject, _): &(String, String, String)| {
            level == "ok" || (!announce && level == "warn" && subject == "configuration")
        };
        assert!(success && found.iter().all(fine), "{found:#?}");
        assert_found(&found, "ok", "kernel", "takes the XDP program");
        for interface in topology.interfaces() {
            assert_found(&found, "ok", &format!("interface {interface}"), "native XDP");
        }
        for (family, service) in Family::BOTH.into_iter().zip(["superset-v4", "superset-v6"]) {
            assert_found(&found, "ok", &format!("VIP {}", topology.vip(family).ip()), "");
            for n in 1..=3 {
                let subject = format!("{service}/{}", backend_host(n));
                assert_found(&found, "ok", &subject, "is reached by");
                assert_found(&found, "ok", &subject, "good answer");
            }
        }
        // It works beside the agent, and leaves it alone.
        for family in Family::BOTH {
            assert_eq!(stand.flawless(family).unwrap().len(), 3);
        }
        stand.check().unwrap();
    }
}

#[test]
fn each_fault_is_found() {
    require_agent!("each_fault_is_found");
    let topology = Topology::two_arm(3);
    let settings = Settings::default();
    let mut stand = Stand::with(topology, &settings).unwrap();
    let config = settings.text(&topology);
    let fails = |stand: &Stand, config: &str, subject: &str, part: &str| {
        let (found, success) = doctor(stand, config);
        assert_found(&found, "fail", subject, part);
        assert!(!success);
    };

    // An interface without native XDP.
    on_balancer(&stand, "ip link add bridge0 type bridge");
    on_balancer(&stand, "ip link set bridge0 address 02:00:00:00:01:01 up");
    let with_bridge = config.replacen("\"eth1\"", "\"eth1\", \"bridge0\"", 1);
    fails(&stand, &with_bridge, "interface bridge0", "has no native XDP");
    let (found, _) = doctor(&stand, &with_bridge.replacen("xdp_mode = \"native\"", "xdp_mode = \"auto\"", 1));
    assert_found(&found, "warn", "interface bridge0", "generic hook");
    on_balancer(&stand, "ip link del bridge0");

    // Ports that the host's own connections use.
    let overlapping = config.replacen("[nat]\n", "[nat]\nports = \"1024-40000\"\n", 1);
    fails(&stand, &overlapping, "configuration", "nat.ports");

    // A backend is down.
    stand.servers.kill(2);
    fails(&stand, &config, &format!("superset-v4/{}", backend_host(2)), "connection refused");

    // The route to the backends is gone.
    let backend = topology.backend(1, Family::V4).ip().to_string();
    on_balancer(&stand, &format!("ip route add unreachable {backend}/32"));
    fails(&stand, &config, &format!("superset-v4/{}", backend_host(1)), "unreachable");
    on_balancer(&stand, &format!("ip route del unreachable {backend}/32"));
    let prefix = backend.rsplit_once('.').unwrap().0;
    on_balancer(&stand, &format!("ip route del {prefix}.0/24 dev eth1"));
    fails(&stand, &config, &format!("superset-v4/{}", backend_host(1)), "no route");
}

#[test]
fn another_host_with_the_vip_is_found() {
    require_agent!("another_host_with_the_vip_is_found");
    let topology = Topology::one_arm(1);
    let settings = Settings { announce: true, ..Settings::default() };
    let stand = Stand::with(topology, &settings).unwrap();
    for family in Family::BOTH {
        let vip = topology.vip(family).ip().to_string();
        let mut add = vec!["ip", "addr", "add", &vip, "dev", "eth0"];
        add.extend((family == Family::V6).then_some("nodad"));
        stand.lab.exec(CLIENT, &add).unwrap();
        let (found, success) = doctor(&stand, &settings.text(&topology));
        assert_found(&found, "fail", &format!("VIP {vip} on eth0"), "has it, too");
        assert!(!success);
    }
}

#[test]
fn what_cannot_be_looked_at_is_a_usage_error() {
    require_agent!("what_cannot_be_looked_at_is_a_usage_error");
    let topology = Topology::two_arm(1);
    let stand = Stand::with(topology, &Settings::default()).unwrap();
    let config = stand.agent.config();
    for arguments in [
        vec!["doctor", "--config", "/nonexistent/lb.toml"],
        vec!["doctor", "--config", config.to_str().unwrap(), "--service", "nosuch"],
    ] {
        let mut command = Command::new(programs::agent().unwrap());
        let output = stand.lab.output(LB, command.args(&arguments)).unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{output:?}");
    }
}
