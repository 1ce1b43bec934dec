mod any;
mod errors;
mod live;
mod passive;
mod request;

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::admin::token::TokenFile;
use crate::model::{DrainSpec, Forwarding, HealthSpec, PassiveSpec, Policy, ProbeKind, Scheduler};

const EXAMPLE: &str = include_str!("../../../config/lb.example.toml");

/// Line by line, so that a test can replace one and say which: `[agent]` is line 1.
const VALID: [&str; 21] = [
    "[agent]",
    "interfaces = [\"eth0\", \"eth1\"]",
    "[nat]",
    "addresses = [\"10.77.0.1\", \"10.77.1.0/30\", \"fd77::1\"]",
    "ports = \"1024-32767\"",
    "[[service]]",
    "name = \"superset\"",
    "vip = \"10.77.0.100:80\"",
    "[service.health]",
    "path = \"/health\"",
    "[[service.backend]]",
    "name = \"superset-1\"",
    "address = \"10.77.0.11:8088\"",
    "[[service.backend]]",
    "name = \"superset-2\"",
    "address = \"10.77.0.12:8088\"",
    "[[service]]",
    "name = \"six\"",
    "vip = \"[fd77::100]:80\"",
    "[[service.backend]]",
    "address = \"[fd77::11]:8088\"",
];

fn valid() -> String {
    VALID.join("\n")
}

/// The valid file with other text in the place of some lines. An empty text removes what was there.
fn with(changes: &[(usize, &str)]) -> String {
    let mut lines = VALID.map(str::to_owned);
    for (line, text) in changes {
        (*text).clone_into(&mut lines[line - 1]);
    }
    lines.join("\n")
}

/// Errors as the user sees them, without the file's name.
fn errors(text: &str) -> Vec<String> {
    match parse("lb.toml", text) {
        Ok(_) => Vec::new(),
        Err(e) => e.to_string().lines().map(|l| l.strip_prefix("lb.toml:").unwrap().to_owned()).collect(),
    }
}

#[test]
fn example_parses_and_shows_defaults() {
    let config = parse("lb.example.toml", EXAMPLE).unwrap();
    assert_eq!(config.agent.interfaces, ["eth0"]);
    assert_eq!(config.nat.slots(), 31_744);
    assert_eq!(config.services[0].backends.iter().map(|b| b.weight).collect::<Vec<_>>(), [100, 100, 50]);
    // Every default that is written there is the one that counts: the same file without comment signs.
    let shown = |line: &str| {
        line.split_once(" = ").is_some_and(|(k, _)| k.chars().all(|c| c == '_' || c.is_ascii_lowercase()))
    };
    let uncomment = |line: &'static str| match line.strip_prefix("# ") {
        Some(rest)
            if shown(rest)
                && !["host", "headers", "admin_token_file", "zone = "]
                    .iter()
                    .any(|k| rest.starts_with(k)) =>
        {
            rest
        }
        Some(_) | None => line,
    };
    let explicit: Vec<&str> = EXAMPLE.lines().map(uncomment).collect();
    assert!(explicit.iter().filter(|l| shown(l)).count() > 25);
    let other = parse("lb.example.toml", &explicit.join("\n")).unwrap();
    assert_eq!((config.agent, config.nat, config.services), (other.agent, other.nat, other.services));
}

/// Every key that the reader asks for stands in the example, under its own section.
#[test]
fn example_has_every_key() {
    let mut section = String::new();
    let mut documented = BTreeSet::new();
    for line in EXAMPLE.lines() {
        let line = line.trim_start_matches("# ");
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).to_owned();
        } else if let Some((key, _)) = line.split_once(" = ") {
            documented.insert(format!("{section}.{key}"));
        }
    }
    // Unknown keys make the reader list what it knows.
    let text = "[agent]\nzzzzzzzz=1\n[nat]\nzzzzzzzz=1\n[[service]]\nzzzzzzzz=1\n[service.health]\nzzzzzzzz=1\n[service.health.passive]\nzzzzzzzz=1\n[[service.backend]]\nzzzzzzzz=1";
    let mut known = BTreeSet::new();
    for error in parse("f", text).unwrap_err().errors().iter().filter(|e| e.reason == "unknown key") {
        let section = error.key.trim_end_matches(".zzzzzzzz").replace("[0]", "");
        let keys = error.advice.split_once("known here: ").unwrap().1;
        known.extend(keys.split(", ").map(|key| format!("{section}.{key}")));
    }
    known.retain(|key| {
        !["service.health", "service.health.passive", "service.backend"].contains(&key.as_str())
    });
    assert!(known.len() >= 25, "{known:?}");
    let missing: Vec<_> = known.difference(&documented).collect();
    assert!(missing.is_empty(), "not in the example: {missing:?}");
}

#[test]
fn values_and_defaults() {
    let text = with(&[
        (
            2,
            "interfaces = [\"eth0\"]\nxdp_mode = \"native\"\nadmin = \"[::1]:1\"\nsocket = \"/run/x.sock\"\nadmin_token_file = \"/etc/token\"\nannounce = \"arp\"\nlog_format = \"json\"\nreset_rate = 0\nzone = \"rack-7\"",
        ),
        (5, "rest = \"90s\"\nidle_timeout = \"24h\""),
        (
            8,
            "vip = \"10.77.0.100:80\"\nscheduler = \"least-conn\"\nretries = 0\nmin_healthy = \"50%\"\nslow_start = \"30s\"\nzone_preference = \"none\"\nzone_spill = 1.25\nrequests = false\ndrain_idle = \"0s\"\ndrain_deadline = \"1h\"",
        ),
        (
            10,
            "path = \"/x?y=1\"\nhost = \"h:1\"\nexpect_status = \"200-399\"\nexpect_body = \"OK\"\ngrace = \"0s\"",
        ),
        (13, "address = \"10.77.0.11:8088\"\nweight = 65535\npriority = 255\nzone = \"b\""),
        (
            18,
            "name = \"six\"\nscheduler = \"round-robin\"\nhealth = { type = \"tcp\", interval = \"1m 30s\", rise = 1 }",
        ),
    ]);
    let config = parse("lb.toml", &text).unwrap();
    let long = format!("interfaces = [\"eth0\"]\nsocket = \"/{}\"", "x".repeat(107));
    assert_eq!(
        errors(&with(&[(2, &long)])),
        ["3: agent.socket: has 108 bytes; use a path of at most 107 bytes"]
    );
    let agent = AgentConfig {
        interfaces: vec!["eth0".into()],
        xdp_mode: XdpMode::Native,
        admin: "[::1]:1".parse().unwrap(),
        socket: "/run/x.sock".into(),
        admin_token_file: Some(TokenFile::new("/etc/token".into())),
        announce: Announce::Arp,
        log_format: LogFormat::Json,
        zone: Some("rack-7".into()),
        reset_rate: 0,
        watch: false,
    };
    assert_eq!(config.agent, agent);
    assert_eq!((config.nat.ports, config.nat.rest.as_secs()), ((1024, 32_767), 90));
    assert_eq!(config.nat.idle_timeout.as_secs(), 24 * 3600);
    assert_eq!((config.nat.blocks(), config.nat.slots()), (6, 6 * 31_744));
    let [superset, six] = &config.services[..] else { panic!("two services") };
    assert_eq!(
        (superset.forwarding, superset.scheduler, superset.requests),
        (Forwarding::Nat, Scheduler::LeastConn, false)
    );
    let slow_start = Duration::from_secs(30);
    let policy = Policy { retries: 0, min_healthy: 50, slow_start, prefer_zone: false, zone_spill: 320 };
    assert_eq!(superset.policy, policy);
    assert_eq!((six.policy, six.policy.retries), (Policy::default(), 2));
    let probe = ProbeKind::Http {
        path: "/x?y=1".into(),
        host: Some("h:1".into()),
        headers: vec![],
        status: (200, 399),
        body: Some("OK".into()),
    };
    let health = HealthSpec {
        probe,
        interval: Duration::from_secs(2),
        timeout: Duration::from_secs(1),
        rise: 2,
        fall: 3,
        grace: Duration::ZERO,
        dead_after: Duration::from_secs(30),
        passive: PassiveSpec::default(),
    };
    assert_eq!(superset.health, health);
    assert_eq!(superset.drain, DrainSpec { idle: Duration::ZERO, deadline: Duration::from_secs(3600) });
    assert_eq!(six.drain, DrainSpec::default());
    let zones = [0, 1].map(|i| superset.backends[i].zone.as_deref());
    assert_eq!((superset.backends[0].weight, superset.backends[0].priority), (65_535, 255));
    assert_eq!(zones, [Some("b"), None]);
    assert_eq!(
        (six.scheduler, &six.health.probe, six.health.rise),
        (Scheduler::RoundRobin, &ProbeKind::Tcp, 1)
    );
    assert_eq!(six.health.interval.as_secs(), 90);
    assert_eq!(six.backends[0].name, "[fd77::11]:8088", "the address where there is no name");
}

#[test]
fn services_and_backends_may_be_none() {
    assert!(
        parse("f", "agent.interfaces = [\"e\"]\nnat.addresses = [\"10.0.0.1\"]").unwrap().services.is_empty()
    );
    let config = parse("f", &with(&[(20, ""), (21, "")])).unwrap();
    assert!(config.services[1].backends.is_empty());
}

#[test]
fn a_file_that_is_not_there() {
    let got = load(Path::new("/does/not/exist.toml")).unwrap_err().to_string();
    assert!(got.starts_with("/does/not/exist.toml: cannot be read: No such file"), "{got}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lb.toml");
    std::fs::write(&path, EXAMPLE).unwrap();
    assert_eq!(load(&path).unwrap().source.file, path.display().to_string());
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(
        load(&path).unwrap_err().to_string().contains("cannot be read: stream did not contain valid UTF-8")
    );
}

#[test]
fn what_the_node_says() {
    let config = parse("lb.toml", &valid()).unwrap();
    let probe = |interfaces: &[&str], range| NodeProbe {
        interfaces: interfaces.iter().map(|&i| i.to_owned()).collect(),
        local_port_range: range,
    };
    let good = [Some((32_768, 60_999)), None, Some((1, 1023))];
    for range in good {
        assert_eq!(check_node(&config, &probe(&["lo", "eth0", "eth1"], range)), []);
    }
    let errors = check_node(&config, &probe(&["lo", "eth0"], Some((32_767, 60_999))));
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(
        lines[0],
        "lb.toml:2: agent.interfaces[1]: there is no interface \"eth1\"; name one of eth0, lo"
    );
    assert!(
        lines[1].starts_with(
            "lb.toml:5: nat.ports: 1024-32767 overlaps net.ipv4.ip_local_port_range (32767-60999)"
        )
    );
}
