//! `lb_agent::net` against the kernel: next hops, interfaces and announcements, in network namespaces.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic here is how a test fails"
)]

#[path = "net_hops/rig.rs"]
mod rig;

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;

use lb_agent::model::NextHop;
use lb_agent::net::announce::announce;
use lb_agent::net::hops::Hops;
use lb_agent::net::links::{PortError, read_ports};
use lb_agent::net::resolve::HopError;
use lb_common::vlan::VlanTags;
use lb_tests::{privilege, require_root};
use rig::{
    EVENTUALLY, LB_MAC, Lab, NEW_MAC, POD_MAC, SOON, addresses, all_lead_to, expect, fails, ip, mac,
    port_index, sysctl, try_ip,
};

#[test]
fn privileged_ports() {
    require_root!("privileged_ports");
    let lab = Lab::new();
    lab.run(async || {
        let ports = read_ports(&["eth0".to_owned(), "eth9".to_owned(), "lo".to_owned()]).await.unwrap();
        let port = ports[0].as_ref().unwrap();
        assert_eq!((port.facts.name.as_str(), port.facts.mac), ("eth0", mac(LB_MAC)));
        assert!(port.facts.tx_by_redirect, "veth");
        assert!(port.up && port.mtu == 1500, "{port:?}");
        assert!(
            matches!(&ports[1], Err(PortError::Missing { known, .. }) if known.contains("eth0")),
            "{ports:?}"
        );
        assert!(matches!(&ports[2], Err(PortError::NotEthernet { .. })), "{ports:?}");
    });
}

/// Linux 6.3 is the first to say which devices take redirected frames.
fn kernel_says_who_takes_redirects() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|n| n.parse::<u32>().unwrap_or_default());
    (numbers.next(), numbers.next()) >= (Some(6), Some(3))
}

/// No event of rtnetlink tells of this change.
#[test]
fn privileged_peer_of_a_veth_turns_gro_on() {
    require_root!("privileged_peer_of_a_veth_turns_gro_on");
    let lab = Lab::new();
    lab.watch(async |_watcher, mut hops| {
        if !kernel_says_who_takes_redirects() {
            assert!(hops.borrow().redirect.is_empty(), "{:?}", hops.borrow());
            return;
        }
        // Known when the watcher starts, without an event.
        assert_eq!(hops.borrow().redirect.get("eth0"), Some(&false));
        for (setting, takes) in [("on", true), ("off", false)] {
            let args = ["netns", "exec", &lab.pod, "ethtool", "-K", "eth0", "gro", setting];
            ip(&args.join(" "));
            expect(&mut hops, setting, SOON, |h| h.redirect.get("eth0") == Some(&takes)).await;
        }
        lab.lb("link del eth0");
        expect(&mut hops, "interface gone", SOON, |h| h.redirect.is_empty()).await;
    });
}

#[test]
fn privileged_neighbours_on_the_link() {
    require_root!("privileged_neighbours_on_the_link");
    let targets = ["10.0.0.5", "2001:db8::5"];
    Lab::new().watch(async |watcher, mut hops| {
        assert_eq!(hops.borrow().ports["eth0"].as_ref().unwrap().facts.mac, mac(LB_MAC));
        watcher.set_targets(addresses(&targets));
        expect(&mut hops, "next hops", EVENTUALLY, |h| all_lead_to(h, &targets, POD_MAC)).await;
        watcher.set_targets(addresses(&targets[..1]));
        expect(&mut hops, "one target less", SOON, |h| {
            h.next.len() == 1 && all_lead_to(h, &targets[..1], POD_MAC)
        })
        .await;
    });
}

#[test]
fn privileged_gateways() {
    require_root!("privileged_gateways");
    let targets = ["192.0.2.9", "198.51.100.9", "2001:db8:9::9"];
    let lab = Lab::new();
    lab.lb("route add 192.0.2.0/24 via 10.0.0.5");
    lab.lb("route add 198.51.100.0/24 via inet6 2001:db8::5 dev eth0");
    lab.lb("-6 route add 2001:db8:9::/48 via 2001:db8::5");
    lab.watch(async |watcher, mut hops| {
        watcher.set_targets(addresses(&targets));
        expect(&mut hops, "next hops", EVENTUALLY, |h| all_lead_to(h, &targets, POD_MAC)).await;
    });
}

#[test]
fn privileged_neighbour_says_that_its_mac_changed() {
    require_root!("privileged_neighbour_says_that_its_mac_changed");
    let targets = ["10.0.0.5", "2001:db8::5"];
    let lab = Lab::new();
    sysctl(&lab.pod, "net/ipv4/conf/eth0/arp_notify", "1");
    sysctl(&lab.pod, "net/ipv6/conf/eth0/ndisc_notify", "1");
    lab.watch(async |watcher, mut hops| {
        watcher.set_targets(addresses(&targets));
        expect(&mut hops, "next hops", EVENTUALLY, |h| all_lead_to(h, &targets, POD_MAC)).await;
        lab.pod(&format!("link set eth0 address {NEW_MAC}"));
        expect(&mut hops, "new MAC", SOON, |h| all_lead_to(h, &targets, NEW_MAC)).await;
    });
}

/// Nothing tells of the change, and the kernel itself sends nothing: that the neighbour is kept warm finds it.
#[test]
fn privileged_neighbour_changes_its_mac_in_silence() {
    require_root!("privileged_neighbour_changes_its_mac_in_silence");
    let target = ["10.0.0.5"];
    let lab = Lab::new();
    sysctl(&lab.lb, "net/ipv4/neigh/eth0/base_reachable_time_ms", "500");
    lab.watch(async |watcher, mut hops| {
        watcher.set_targets(addresses(&target));
        expect(&mut hops, "next hop", EVENTUALLY, |h| all_lead_to(h, &target, POD_MAC)).await;
        lab.pod(&format!("link set eth0 address {NEW_MAC}"));
        expect(&mut hops, "new MAC", EVENTUALLY, |h| all_lead_to(h, &target, NEW_MAC)).await;
    });
}

#[test]
fn privileged_neighbour_dies_and_returns() {
    require_root!("privileged_neighbour_dies_and_returns");
    let target = ["10.0.0.5"];
    let lab = Lab::new();
    sysctl(&lab.lb, "net/ipv4/neigh/eth0/base_reachable_time_ms", "500");
    lab.watch(async |watcher, mut hops| {
        watcher.set_targets(addresses(&target));
        expect(&mut hops, "next hop", EVENTUALLY, |h| all_lead_to(h, &target, POD_MAC)).await;
        lab.pod("addr del 10.0.0.5/24 dev eth0");
        let message = "neighbour 10.0.0.5 on eth0 does not answer";
        expect(&mut hops, "silence", EVENTUALLY, |h| fails(h, target[0], message)).await;
        lab.pod("addr add 10.0.0.5/24 dev eth0");
        expect(&mut hops, "next hop again", EVENTUALLY, |h| all_lead_to(h, &target, POD_MAC)).await;
    });
}

#[test]
fn privileged_routes_come_and_go() {
    require_root!("privileged_routes_come_and_go");
    let target = ["192.0.2.9"];
    let lab = Lab::new();
    lab.lb("link add eth1 type veth peer name eth2");
    lab.lb("addr add 10.1.0.2/24 dev eth1");
    lab.lb("link set eth2 up");
    lab.lb("link set eth1 up");
    lab.watch(async |watcher, mut hops| {
        watcher.set_targets(addresses(&target));
        expect(&mut hops, "no route", SOON, |h| fails(h, target[0], "no route to 192.0.2.9")).await;

        lab.lb("route add 192.0.2.0/24 via 10.0.0.5");
        expect(&mut hops, "next hop", EVENTUALLY, |h| all_lead_to(h, &target, POD_MAC)).await;

        lab.lb("route replace 192.0.2.0/24 via 10.1.0.5");
        let other = "the route to 192.0.2.9 leads out of eth1, which is not in agent.interfaces";
        expect(&mut hops, "another interface", SOON, |h| fails(h, target[0], other)).await;

        for kind in ["blackhole", "unreachable", "prohibit"] {
            lab.lb(&format!("route replace {kind} 192.0.2.0/24"));
            let message = format!("the route to 192.0.2.9 is of type {kind}");
            expect(&mut hops, kind, SOON, |h| fails(h, target[0], &message)).await;
        }

        lab.lb("route del 192.0.2.0/24");
        expect(&mut hops, "no route again", SOON, |h| fails(h, target[0], "no route to 192.0.2.9")).await;

        lab.lb("route add 192.0.2.9/32 via 10.0.0.5");
        expect(&mut hops, "next hop again", SOON, |h| all_lead_to(h, &target, POD_MAC)).await;

        lab.lb("addr add 192.0.2.9/32 dev lo");
        let local = HopError::Local([192, 0, 2, 9].into()).to_string();
        expect(&mut hops, "local", SOON, |h| fails(h, target[0], &local)).await;
    });
}

#[test]
fn privileged_ipv6_routes_come_and_go() {
    require_root!("privileged_ipv6_routes_come_and_go");
    let target = ["2001:db8:9::9"];
    let lab = Lab::new();
    lab.watch(async |watcher, mut hops| {
        watcher.set_targets(addresses(&target));
        expect(&mut hops, "no route", SOON, |h| fails(h, target[0], "no route to 2001:db8:9::9")).await;
        lab.lb("-6 route add 2001:db8:9::/48 via 2001:db8::5");
        expect(&mut hops, "next hop", EVENTUALLY, |h| all_lead_to(h, &target, POD_MAC)).await;
        for kind in ["blackhole", "unreachable", "prohibit"] {
            lab.lb(&format!("-6 route replace {kind} 2001:db8:9::/64"));
            let message = format!("the route to 2001:db8:9::9 is of type {kind}");
            expect(&mut hops, kind, SOON, |h| fails(h, target[0], &message)).await;
        }
        lab.lb("-6 route del 2001:db8:9::/64");
        expect(&mut hops, "next hop again", SOON, |h| all_lead_to(h, &target, POD_MAC)).await;
        lab.lb("addr add 2001:db8:9::9/128 dev lo");
        let local = HopError::Local(target[0].parse().unwrap()).to_string();
        expect(&mut hops, "local", SOON, |h| fails(h, target[0], &local)).await;
    });
}

#[test]
fn privileged_interface_changes() {
    require_root!("privileged_interface_changes");
    let target = ["10.0.0.5"];
    let lab = Lab::new();
    lab.watch(async |watcher, mut hops| {
        watcher.set_targets(addresses(&target));
        expect(&mut hops, "next hop", EVENTUALLY, |h| all_lead_to(h, &target, POD_MAC)).await;
        let first = port_index(&hops.borrow());

        lab.pod("link set eth0 down");
        let down = "the route to 10.0.0.5 leads out of eth0, which is down";
        // The kernel reports carriers at most once a second (net/core/link_watch.c).
        expect(&mut hops, "no carrier", EVENTUALLY, |h| fails(h, target[0], down)).await;
        assert!(!hops.borrow().ports["eth0"].as_ref().unwrap().up);
        lab.pod("link set eth0 up");
        expect(&mut hops, "carrier", EVENTUALLY, |h| all_lead_to(h, &target, POD_MAC)).await;

        lab.lb(&format!("link set eth0 address {NEW_MAC}"));
        let own_mac = |h: &Hops| h.ports["eth0"].as_ref().is_ok_and(|p| p.facts.mac == mac(NEW_MAC));
        expect(&mut hops, "own MAC", SOON, own_mac).await;

        lab.lb("link del eth0");
        let gone = |h: &Hops| {
            matches!(h.ports["eth0"], Err(PortError::Missing { .. }))
                && fails(h, target[0], "no route to 10.0.0.5")
        };
        expect(&mut hops, "interface gone", SOON, gone).await;

        lab.connect();
        expect(&mut hops, "interface back", EVENTUALLY, |h| all_lead_to(h, &target, POD_MAC)).await;
        assert_ne!(port_index(&hops.borrow()), first);
    });
}

#[test]
fn privileged_vlan_sub_interfaces() {
    require_root!("privileged_vlan_sub_interfaces");
    let lab = Lab::new();
    let (ok, _, why) = try_ip(&format!("-n {} link add link eth0 name eth0.10 type vlan id 10", lab.lb));
    if !ok {
        // Where the runner has a 6.1 kernel, `kernel_6_1` runs this test there and asks that it is not skipped.
        if std::env::var_os("EVENKEEL_IN_VM").is_none() && lb_tests::vm::Kit::find().is_ok() {
            return;
        }
        privilege::skipped(
            "privileged_vlan_sub_interfaces",
            &format!("no VLAN interfaces here: {}", why.trim()),
        );
        return;
    }
    lab.pod("link add link eth0 name eth0.10 type vlan id 10");
    for (ns, host) in [(&lab.lb, 2), (&lab.pod, 5)] {
        ip(&format!("-n {ns} link add link eth0 name s20 type vlan id 20 protocol 802.1ad"));
        ip(&format!("-n {ns} link add link s20 name s20.30 type vlan id 30"));
        ip(&format!("-n {ns} link set s20 up"));
        for (dev, net) in [("eth0.10", "10.10.0"), ("s20.30", "10.20.0")] {
            ip(&format!("-n {ns} addr add {net}.{host}/24 dev {dev}"));
            ip(&format!("-n {ns} link set {dev} up"));
        }
    }
    lab.watch(async |watcher, mut hops| {
        watcher.set_targets(addresses(&["10.10.0.5", "10.20.0.5"]));
        let one = VlanTags { count: 1, outer_ad: 0, tci: [10_u16.to_be(), 0] };
        let two = VlanTags { count: 2, outer_ad: 1, tci: [20_u16.to_be(), 30_u16.to_be()] };
        expect(&mut hops, "tags", EVENTUALLY, |h| {
            let hop = |vlan| Some(Ok(NextHop { ifindex: port_index(h), mac: mac(POD_MAC), vlan }));
            let at = |target: [u8; 4]| h.next.get(&target.into()).cloned();
            at([10, 10, 0, 5]) == hop(one) && at([10, 20, 0, 5]) == hop(two)
        })
        .await;
    });
}

/// More events than the socket holds arrive while nobody reads; the last one matters.
#[test]
fn privileged_lost_events() {
    require_root!("privileged_lost_events");
    let target = ["10.0.0.77"];
    let lab = Lab::new();
    let mut batch = String::new();
    for round in 0..200 {
        for host in 100..250 {
            writeln!(batch, "neigh replace 10.0.0.{host} lladdr 02:00:00:00:{round:02x}:{host:02x} dev eth0")
                .unwrap();
        }
    }
    writeln!(batch, "neigh replace 10.0.0.77 lladdr {NEW_MAC} dev eth0").unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(batch.as_bytes()).unwrap();
    lab.watch(async |watcher, mut hops| {
        watcher.set_targets(addresses(&target));
        let message = "neighbour 10.0.0.77 on eth0 does not answer";
        expect(&mut hops, "silence", EVENTUALLY, |h| fails(h, target[0], message)).await;
        // Blocks the only thread of the runtime, on purpose.
        lab.lb(&format!("-batch {}", file.path().display()));
        expect(&mut hops, "read anew", EVENTUALLY, |h| all_lead_to(h, &target, NEW_MAC)).await;
    });
}

#[test]
fn privileged_announcements_replace_what_neighbours_believe() {
    require_root!("privileged_announcements_replace_what_neighbours_believe");
    let vips = ["10.0.0.100", "2001:db8::100"];
    let lab = Lab::new();
    for vip in vips {
        lab.pod(&format!("neigh replace {vip} lladdr {NEW_MAC} dev eth0 nud stale"));
    }
    let vips: Vec<IpAddr> = addresses(&vips).into_iter().collect();
    lab.run(async || announce(&vips, &["eth0".to_owned()]).await.unwrap());
    let (_, table, _) = try_ip(&format!("-n {} neigh show dev eth0", lab.pod));
    for vip in vips {
        let believed = table.lines().find(|line| line.starts_with(&format!("{vip} "))).unwrap_or_default();
        assert!(believed.contains(LB_MAC), "{vip}:\n{table}");
    }
}
