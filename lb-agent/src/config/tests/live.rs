//! What a running agent makes of another configuration.

use super::*;

/// The valid file, with these changes of lines.
fn changed(changes: &[(usize, &str)]) -> Config {
    parse("lb.toml", &with(changes)).unwrap()
}

/// As many lines as it has, with `line` after another.
fn with_line(after: usize, line: &str) -> Config {
    changed(&[(after, &format!("{}\n{line}", VALID[after - 1]))])
}

#[test]
fn what_needs_a_restart_is_named_key_by_key() {
    let old = changed(&[]);
    let advice = "restart the agent, or set it back";
    let cannot = |line: u32, key: &str, now: &str| {
        format!("lb.toml:{line}: {key}: cannot be changed while the agent runs, where it is {now}; {advice}")
    };
    let rows = [
        (changed(&[(2, "interfaces = [\"eth0\"]")]), vec![cannot(2, "agent.interfaces", "eth0, eth1")]),
        (with_line(2, "xdp_mode = \"generic\""), vec![cannot(3, "agent.xdp_mode", "auto")]),
        (with_line(2, "admin = \"127.0.0.1:9471\""), vec![cannot(3, "agent.admin", "127.0.0.1:9470")]),
        (
            with_line(2, "socket = \"/run/lb.sock\""),
            vec![cannot(3, "agent.socket", "/run/evenkeel/admin.sock")],
        ),
        (
            changed(&[(4, "addresses = [\"10.77.0.1\", \"10.77.1.0/30\", \"10.77.2.0\", \"fd77::1\"]")]),
            vec![cannot(4, "nat.addresses", "10.77.0.1/32, 10.77.1.0/30, fd77::1/128")],
        ),
        // Another order gives every address another block.
        (
            changed(&[(4, "addresses = [\"10.77.1.0/30\", \"10.77.0.1\", \"fd77::1\"]")]),
            vec![cannot(4, "nat.addresses", "10.77.0.1/32, 10.77.1.0/30, fd77::1/128")],
        ),
        (changed(&[(5, "ports = \"1024-1087\"")]), vec![cannot(5, "nat.ports", "1024-32767")]),
        // All of them, in the order of the file. A key that is gone is where it would stand.
        (
            changed(&[
                (2, "interfaces = [\"eth2\"]\nadmin = \"127.0.0.1:1\""),
                (5, "ports = \"2048-32767\""),
            ]),
            vec![
                cannot(2, "agent.interfaces", "eth0, eth1"),
                cannot(3, "agent.admin", "127.0.0.1:9470"),
                cannot(6, "nat.ports", "1024-32767"),
            ],
        ),
        (changed(&[(5, "")]), vec![]),
        (changed(&[(2, "interfaces = [\"eth1\", \"eth0\"]")]), vec![]),
        (changed(&[(4, "addresses = [\"fd77::1\", \"10.77.0.1\", \"10.77.1.0/30\"]")]), vec![]),
    ];
    for (new, want) in rows {
        let errors: Vec<String> = restart_needed(&old, &new).iter().map(ToString::to_string).collect();
        assert_eq!(errors, want);
    }
}

/// Everything else can be changed while the agent runs, and is named when it is.
#[test]
fn every_other_difference_is_named_and_needs_no_restart() {
    let old = changed(&[]);
    let service = |line: &'static str| with_line(8, line);
    let health = |line: &'static str| with_line(10, line);
    let backend = |line: &'static str| with_line(13, line);
    let one = |line: &str| vec![line.to_owned()];
    let superset = |keys: &str| one(&format!("service superset: changed {keys}"));
    let first = |keys: &str| one(&format!("backend superset/superset-1: changed {keys}"));
    let rows = [
        (changed(&[]), vec![]),
        (with_line(2, "zone = \"a\"\nreset_rate = 1"), one("agent: changed zone, reset_rate")),
        (with_line(2, "announce = \"arp\""), one("agent: changed announce")),
        (with_line(2, "watch = true"), one("agent: changed watch")),
        (with_line(2, "log_format = \"json\""), one("agent: changed log_format")),
        (with_line(2, "admin_token_file = \"/t\""), one("agent: changed admin_token_file")),
        (with_line(5, "rest = \"1s\"\nidle_timeout = \"2s\""), one("nat: changed rest, idle_timeout")),
        (changed(&[(8, "vip = \"10.77.0.100:443\"")]), superset("vip")),
        (service("scheduler = \"maglev\""), superset("scheduler")),
        (service("requests = false"), superset("requests")),
        (service("retries = 0\nslow_start = \"9s\""), superset("retries, slow_start")),
        (service("zone_preference = \"none\""), superset("zone_preference")),
        (service("zone_spill = 3.0\nmin_healthy = \"50%\""), superset("zone_spill, min_healthy")),
        (service("drain_idle = \"1s\"\ndrain_deadline = \"2s\""), superset("drain_idle, drain_deadline")),
        (health("rise = 7"), superset("health")),
        (health("headers = { Cookie = \"secret\" }"), superset("health")),
        (backend("weight = 7\npriority = 1\nzone = \"a\""), first("weight, priority, zone")),
        // The order has no meaning.
        (changed(&[(12, VALID[14]), (13, VALID[15]), (15, VALID[11]), (16, VALID[12])]), vec![]),
        // Another name, or another address, is another backend.
        (
            changed(&[(12, "name = \"new\"")]),
            vec![
                "backend superset/superset-1: removed (10.77.0.11:8088)".to_owned(),
                "backend superset/new: added (10.77.0.11:8088)".to_owned(),
            ],
        ),
        (
            changed(&[(16, "address = \"10.77.0.13:8088\"")]),
            vec![
                "backend superset/superset-2: removed (10.77.0.12:8088)".to_owned(),
                "backend superset/superset-2: added (10.77.0.13:8088)".to_owned(),
            ],
        ),
        (
            changed(&[(18, "name = \"seven\"")]),
            vec![
                "service six: removed, with its backends".to_owned(),
                "service seven: added at [fd77::100]:80, with backends: 1".to_owned(),
            ],
        ),
    ];
    for (new, want) in rows {
        assert_eq!(differences(&old, &new), want);
        assert_eq!(restart_needed(&old, &new), vec![]);
        assert_eq!(differences(&old, &new).is_empty(), differences(&new, &old).is_empty());
    }
}
