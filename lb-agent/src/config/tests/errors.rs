//! What is wrong with a file, each line of it as the user reads it.

use super::*;

/// One change of the valid file, and the one error that it makes.
#[test]
fn each_error() {
    let v6_only = "addresses = [\"fd77::1\"]";
    let cases: &[(&[(usize, &str)], &str)] = &[
        (
            &[(2, "interface = [\"eth0\"]\ninterfaces = [\"eth0\"]")],
            "2: agent.interface: unknown key; did you mean interfaces?",
        ),
        (&[(17, "[[services]]"), (20, ""), (21, "")], "17: services: unknown key; did you mean service?"),
        (&[(2, "")], "1: agent.interfaces: is missing; add it"),
        (&[(2, "interfaces = \"eth0\"")], "2: agent.interfaces: is a string; give an array"),
        (&[(2, "interfaces = [\n\"eth0\",\n7]")], "4: agent.interfaces[1]: is an integer; give a string"),
        (&[(2, "interfaces = []")], "2: agent.interfaces: names no interface"),
        (&[(2, "interfaces = [\"a b\"]")], "2: agent.interfaces[0]: \"a b\" is not an interface name"),
        (
            &[(2, "interfaces = [\"eth0\", \"eth0\"]")],
            "2: agent.interfaces[1]: eth0 is the interface of agent.interfaces[0]",
        ),
        (
            &[(2, "interfaces = [\"eth0\"]\nxdp_mode = \"skb\"")],
            "3: agent.xdp_mode: \"skb\" is not known; use \"auto\" or",
        ),
        (&[(2, "interfaces = [\"eth0\"]\nadmin = 9470")], "3: agent.admin: is an integer; give ADDRESS:PORT"),
        (&[(2, "interfaces = [\"eth0\"]\nadmin = \"127.0.0.1:0\"")], "3: agent.admin: port 0 is no port"),
        (
            &[(2, "interfaces = [\"eth0\"]\nsocket = \"admin.sock\"")],
            "3: agent.socket: \"admin.sock\" is not the absolute path of a file",
        ),
        (
            &[(2, "interfaces = [\"eth0\"]\nadmin_token_file = \"/etc/\"")],
            "3: agent.admin_token_file: \"/etc/\" is not the absolute path of a file",
        ),
        (&[(2, "interfaces = [\"eth0\"]\nannounce = \"bgp\"")], "3: agent.announce: \"bgp\" is not known"),
        (&[(2, "interfaces = [\"eth0\"]\nlog_format = true")], "3: agent.log_format: is a boolean; give"),
        (
            &[(2, "interfaces = [\"eth0\"]\nreset_rate = 1000001")],
            "3: agent.reset_rate: 1000001 is out of range; give a whole number of 0 to 1000000",
        ),
        (
            &[(3, "[nat]\nrest = \"0s\"")],
            "4: nat.rest: \"0s\" is out of range; give a duration of 1s to 1day",
        ),
        (&[(3, "[nat]\nidle_timeout = \"25h\"")], "4: nat.idle_timeout: \"25h\" is out of range"),
        (&[(3, "[nat]\nrest = 60")], "4: nat.rest: is an integer; give a duration"),
        (&[(3, "[nat]\nrest = \"soon\"")], "4: nat.rest: \"soon\" is not a duration"),
        (
            &[(7, "name = \"superset\"\ndrain_idle = \"61m\"")],
            "8: service[0].drain_idle: \"61m\" is out of range; give a duration of 0s to 1h",
        ),
        (
            &[(7, "name = \"superset\"\ndrain_deadline = \"0s\"")],
            "8: service[0].drain_deadline: \"0s\" is out of range; give a duration of 1s to 1day",
        ),
        (&[(4, "")], "3: nat.addresses: is missing"),
        (
            &[(4, "addresses = [\"10.77.0.1/24\", \"fd77::1\"]")],
            "4: nat.addresses[0]: \"10.77.0.1/24\" has bits behind the prefix; give \"10.77.0.1\" for the one address or \"10.77.0.0/24\" for all",
        ),
        (
            &[(4, "addresses = [\"10.0.0.0/19\", \"fd77::1\"]")],
            "4: nat.addresses: holds 8193 addresses; name 4096 at most",
        ),
        (
            &[(4, "addresses = [\"10.77.1.0/30\", \"10.77.1.2\", \"fd77::1\"]")],
            "4: nat.addresses[1]: 10.77.1.2 overlaps 10.77.1.0/30 (nat.addresses[0])",
        ),
        (
            &[(4, "addresses = [\"10.77.0.1\", \"224.0.0.1\", \"fd77::1\"]")],
            "4: nat.addresses[1]: 224.0.0.1 is a multicast address",
        ),
        (
            &[(4, "addresses = [\"host\", \"10.77.0.1\", \"fd77::1\"]")],
            "4: nat.addresses[0]: \"host\" is not an address or prefix",
        ),
        (&[(4, "addresses = []")], "4: nat.addresses: names no address; name an address that this node owns"),
        (&[(4, v6_only)], "8: service[0].vip: 10.77.0.100 is IPv4, and nat.addresses has no IPv4 address"),
        (
            &[(4, "addresses = [\"10.77.0.1\", \"10.77.0.11\", \"fd77::1\"]")],
            "13: service[0].backend[0].address: 10.77.0.11 is a SNAT address (nat.addresses[1])",
        ),
        (
            &[
                (4, "addresses = [\"10.77.0.1\", \"10.77.0.100\", \"fd77::1\"]"),
                (8, "vip = \"10.77.0.100:1024\""),
            ],
            "8: service[0].vip: 10.77.0.100:1024 is a SNAT address (nat.addresses[1]) and port (nat.ports) too",
        ),
        (&[(5, "ports = \"0-100\"")], "5: nat.ports: \"0-100\" begins with port 0"),
        (&[(5, "ports = \"2000-1000\"")], "5: nat.ports: \"2000-1000\" ends before it begins"),
        (&[(5, "ports = \"1000-1006\"")], "5: nat.ports: \"1000-1006\" holds less than eight ports"),
        (&[(5, "ports = \"1000-70000\"")], "5: nat.ports: \"1000-70000\" is not a range of ports"),
        (&[(5, "ports = 1000")], "5: nat.ports: is an integer; give a string"),
        (&[(7, "")], "6: service[0].name: is missing; add it, as name = \"superset\""),
        (&[(7, "name = \"a b\"")], "7: service[0].name: \"a b\" is not a name"),
        (
            &[(7, "name = \"six\"")],
            "18: service[1].name: six is the name of another service: service[0].name",
        ),
        (&[(8, "")], "6: service[0].vip: is missing"),
        (&[(8, "vip = \"10.77.0.100\"")], "8: service[0].vip: \"10.77.0.100\" is not an address and port"),
        (&[(8, "vip = \"10.77.0.100:0\"")], "8: service[0].vip: port 0 is no port"),
        (&[(8, "vip = \"0.0.0.0:80\"")], "8: service[0].vip: 0.0.0.0 is the unspecified address"),
        (&[(8, "vip = \"127.0.0.1:80\"")], "8: service[0].vip: 127.0.0.1 is a loopback address"),
        (
            &[(8, "vip = \"255.255.255.255:80\"")],
            "8: service[0].vip: 255.255.255.255 is the broadcast address",
        ),
        (
            &[(8, "vip = \"[::ffff:10.0.0.1]:80\"")],
            "8: service[0].vip: ::ffff:10.0.0.1 is an IPv4-mapped address; write it as IPv4",
        ),
        (&[(19, "vip = \"[fe80::1]:80\"")], "19: service[1].vip: fe80::1 is a link-local address"),
        (
            &[
                (8, "vip = \"[fd77::100]:80\""),
                (13, "address = \"[fd77::21]:1\""),
                (16, "address = \"[fd77::22]:1\""),
            ],
            "19: service[1].vip: [fd77::100]:80 is the VIP of another service: service[0].vip",
        ),
        (
            &[(7, "name = \"a\"\nforwarding = \"l2\"")],
            "8: service[0].forwarding: \"l2\" is not available yet; use \"nat\"",
        ),
        (
            &[(7, "name = \"a\"\nforwarding = \"ipip\"")],
            "8: service[0].forwarding: \"ipip\" is not available yet",
        ),
        (
            &[(7, "name = \"a\"\nscheduler = \"random\"")],
            "8: service[0].scheduler: \"random\" is not known; use \"least-waiting\" or",
        ),
        (
            &[(7, "name = \"a\"\nretries = 3")],
            "8: service[0].retries: 3 is out of range; give a whole number of 0 to 2",
        ),
        (
            &[(7, "name = \"a\"\nrequests = \"yes\"")],
            "8: service[0].requests: is a string; give true or false",
        ),
        (
            &[(7, "name = \"a\"\nmin_healthy = 50")],
            "8: service[0].min_healthy: is an integer; give a string, as \"50%\"",
        ),
        (
            &[(7, "name = \"a\"\nmin_healthy = \"101%\"")],
            "8: service[0].min_healthy: \"101%\" is not a share; give a whole number of percent",
        ),
        (&[(7, "name = \"a\"\nmin_healthy = \"0.5\"")], "8: service[0].min_healthy: \"0.5\" is not a share"),
        (
            &[(13, "address = \"10.77.0.11:8088\"\npriority = 256")],
            "14: service[0].backend[0].priority: 256 is out of range; give a whole number of 0 to 255",
        ),
        (
            &[(7, "name = \"a\"\nslow_start = \"2h\"")],
            "8: service[0].slow_start: \"2h\" is out of range; give a duration of 0s to 1h",
        ),
        (
            &[(7, "name = \"a\"\nzone_preference = \"only\"")],
            "8: service[0].zone_preference: \"only\" is not known; use \"prefer\" or \"none\"",
        ),
        (
            &[(7, "name = \"a\"\nzone_spill = 0.99")],
            "8: service[0].zone_spill: 0.99 is out of range; give a number of 1 to 100, as 2.0",
        ),
        (&[(7, "name = \"a\"\nzone_spill = nan")], "8: service[0].zone_spill: nan is out of range"),
        (&[(7, "name = \"a\"\nzone_spill = \"2\"")], "8: service[0].zone_spill: is a string; give a number"),
        (
            &[(7, "name = \"a\"\nscheduler = \"round-robin\"\nzone_spill = 2")],
            "9: service[0].zone_spill: has no meaning with scheduler \"round-robin\"; remove it, or",
        ),
        (
            &[(7, "name = \"a\"\nscheduler = \"round-robin\"\nzone_preference = \"prefer\"")],
            "9: service[0].zone_preference: has no meaning with scheduler \"round-robin\"",
        ),
        (&[(2, "interfaces = [\"eth0\"]\nzone = \"rack 7\"")], "3: agent.zone: \"rack 7\" is not a name"),
        (
            &[(13, "address = \"10.77.0.11:8088\"\nzone = 7")],
            "14: service[0].backend[0].zone: is an integer; give a string",
        ),
        (&[(9, "[service.helth]")], "9: service[0].helth: unknown key; did you mean health?"),
        (
            &[(10, "type = \"icmp\"")],
            "10: service[0].health.type: \"icmp\" is not known; use \"http\" or \"tcp\"",
        ),
        (
            &[(10, "type = \"tcp\"\npath = \"/\"")],
            "11: service[0].health.path: has no meaning for checks of type \"tcp\"",
        ),
        (&[(10, "path = \"health\"")], "10: service[0].health.path: \"health\" is not a path"),
        (&[(10, "path = \"/a b\"")], "10: service[0].health.path: \"/a b\" is not a path"),
        (&[(10, "host = \"a b\"")], "10: service[0].health.host: \"a b\" is not a host"),
        (
            &[(10, "interval = \"0s\"")],
            "10: service[0].health.interval: \"0s\" is out of range; give a duration of 100ms to 1h",
        ),
        (&[(10, "timeout = \"0s\"")], "10: service[0].health.timeout: \"0s\" is out of range"),
        (&[(10, "dead_after = \"0s\"")], "10: service[0].health.dead_after: \"0s\" is out of range"),
        (&[(10, "grace = \"2d\"")], "10: service[0].health.grace: \"2d\" is out of range"),
        (
            &[(10, "rise = 0")],
            "10: service[0].health.rise: 0 is out of range; give a whole number of 1 to 100",
        ),
        (&[(10, "fall = 1.5")], "10: service[0].health.fall: is a float; give a whole number"),
        (&[(10, "expect_status = 999")], "10: service[0].health.expect_status: \"999\" is not a status"),
        (
            &[(10, "expect_status = \"300-200\"")],
            "10: service[0].health.expect_status: \"300-200\" is not a status",
        ),
        (&[(10, "expect_body = \"\"")], "10: service[0].health.expect_body: has 0 bytes"),
        (&[(9, "health = 3"), (10, "")], "9: service[0].health: is an integer; give a table"),
        (&[(13, "")], "11: service[0].backend[0].address: is missing"),
        (
            &[(13, "address = \"10.77.0.11:8088\"\nwieght = 1")],
            "14: service[0].backend[0].wieght: unknown key; did you mean weight?",
        ),
        (
            &[(13, "address = \"10.77.0.11:8088\"\nweight = 0")],
            "14: service[0].backend[0].weight: 0 is out of range; give a whole number of 1 to 65535",
        ),
        (
            &[(13, "address = \"10.77.0.11:8088\"\nweight = 65536")],
            "14: service[0].backend[0].weight: 65536 is out of range",
        ),
        (
            &[(13, "address = \"10.77.0.11:8088\"\nweight = -99999999999999999999")],
            "14: service[0].backend[0].weight: -99999999999999999999 is out of range",
        ),
        (
            &[(15, "name = \"superset-1\"")],
            "15: service[0].backend[1].name: superset-1 is the name of another backend: service[0].backend[0].name",
        ),
        (
            &[(16, "address = \"10.77.0.11:8088\"")],
            "16: service[0].backend[1].address: 10.77.0.11:8088 is the address of another backend: service[0].backend[0].address",
        ),
        (
            &[(16, "address = \"[fd77::12]:8088\"")],
            "16: service[0].backend[1].address: IPv6 backend of an IPv4 VIP: NAT between families is not supported",
        ),
        (
            &[(16, "address = \"10.77.0.100:8088\"")],
            "16: service[0].backend[1].address: 10.77.0.100 is a VIP (service[0].vip)",
        ),
        (
            &[(16, "address = \"superset:8088\"")],
            "16: service[0].backend[1].address: \"superset:8088\" is not an address and port",
        ),
        (
            &[(16, "address = \"10.77.0.12:8088\"\naddress = \"10.77.0.13:8088\"")],
            "17: syntax: duplicate key; correct the TOML",
        ),
        (&[(4, "addresses = [\"10.77.0.1\"")], "5: syntax: "),
        (
            &[(1, "\"wr\\nong\" = 1\n[agent]")],
            "1: \"wr\\nong\": unknown key; remove it; known here: agent, nat, service",
        ),
    ];
    assert_eq!(errors(&valid()), Vec::<String>::new());
    for (changes, want) in cases {
        let got = errors(&with(changes));
        assert!(
            got.len() == 1 && got[0].starts_with(want),
            "{changes:?}\nwant {want}\ngot  {}",
            got.join("\n     ")
        );
    }
}

#[test]
fn limits() {
    let many = |n: usize, f: &dyn Fn(usize) -> String| (0..n).map(f).collect::<Vec<_>>();
    let list = |n, f: &dyn Fn(usize) -> String| many(n, f).join(", ");
    let interfaces = list(17, &|i| format!("\"eth{i}\""));
    let first = |text: &str| errors(text).first().cloned().unwrap_or_default();
    let got = first(&with(&[(2, &format!("interfaces = [{interfaces}]"))]));
    assert!(got.starts_with("2: agent.interfaces: has 17 interfaces; 16 is the most"), "{got}");
    let addresses = list(17, &|i| format!("\"10.78.0.{i}\""));
    let got = first(&with(&[(4, &format!("addresses = [\"fd77::1\", {addresses}]"))]));
    assert!(got.starts_with("4: nat.addresses: has 18 entries; 16 is the most"), "{got}");
    let got = first(&with(&[
        (4, "addresses = [\"10.64.0.0/21\", \"10.65.0.0/22\", \"fd77::1\"]"),
        (5, "ports = \"1-65535\""),
    ]));
    assert!(got.starts_with("5: nat.ports: make a flow table of 201367544 slots"), "{got}");
    let services =
        many(1025, &|i| format!("[[service]]\nname = \"s{i}\"\nvip = \"10.79.0.1:{}\"", i + 1)).join("\n");
    let head = "[agent]\ninterfaces = [\"e\"]\n[nat]\naddresses = [\"10.0.0.1\"]\n";
    let got = errors(&format!("{head}{services}"));
    assert_eq!(got, ["5: service: has 1025 services; 1024 is the most"]);
    let backends =
        many(4096, &|i| format!("[[service.backend]]\naddress = \"10.80.0.1:{}\"", i + 1)).join("\n");
    let got = errors(&format!("{head}[[service]]\nname = \"a\"\nvip = \"10.79.0.1:80\"\n{backends}"));
    assert_eq!(got, ["5: service: has 4096 backends over all services; 4095 is the most"]);
}

#[test]
fn all_errors_at_once_in_the_order_of_the_file() {
    let text = with(&[
        (2, "interfaces = [\"eth0\"]\nadmin = \"nowhere\""),
        (5, "ports = \"9-1\""),
        (8, "vip = 80"),
        (10, "pth = \"/\""),
        (13, "address = \"10.77.0.1:8088\""),
        (21, "address = \"10.77.0.12:8088\""),
    ]);
    let got = errors(&text);
    let keys: Vec<&str> = got.iter().map(|e| e.split(": ").nth(1).unwrap()).collect();
    assert_eq!(
        keys,
        [
            "agent.admin",
            "nat.ports",
            "service[0].vip",
            "service[0].health.pth",
            "service[0].backend[0].address",
            "service[1].backend[0].address"
        ],
        "{got:#?}"
    );
}

#[test]
fn an_empty_file_names_what_is_required() {
    let got = errors("");
    assert_eq!(got.len(), 2);
    assert!(got[0].starts_with("1: agent.interfaces: is missing"), "{got:?}");
    assert!(got[1].starts_with("1: nat.addresses: is missing"), "{got:?}");
}
