//! Full NAT, both ways, to the byte.

use lb_common::reason::Reason;
use lb_tests::harness::{
    BACKEND_NEXT, CLIENT_NEXT, FRONT, Harness, World, drops, passes, redirects, reset, resets, sends,
};
use lb_tests::packet::world::{BACKENDS, CLIENT, Family, LB_SERVER_MAC, SNAT, STRANGER_MAC, VIP};
use lb_tests::packet::{Packet, TcpOption, tcp};
use lb_tests::pair::{PAIR, ifindex, in_pair};
use lb_tests::require_data_path;

/// A segment of an open connection from the client's side.
fn from_client(family: Family) -> Packet {
    tcp(family).seq(CLIENT_NEXT).ack(BACKEND_NEXT)
}

/// A segment of an open connection from the backend's side.
fn from_backend(family: Family) -> Packet {
    tcp(family).seq(BACKEND_NEXT).ack(CLIENT_NEXT)
}

#[test]
fn a_handshake_is_translated_both_ways() {
    require_data_path!("a_handshake_is_translated_both_ways");
    let mut lb = Harness::new(World::default());
    for family in Family::BOTH {
        let flow = lb.connect(CLIENT, family);
        assert!((1024..=1535).contains(&flow.snat.port), "{flow:?}");
        assert_eq!(flow.snat.ip(family), SNAT.ip(family));
    }
}

/// Whatever a segment carries, only addresses, ports, TTL and checksums change.
#[test]
fn nothing_else_changes() {
    require_data_path!("nothing_else_changes");
    let mut lb = Harness::new(World::default());
    for family in Family::BOTH {
        let flow = lb.connect(CLIENT, family);
        for (about, vary) in variations(family) {
            let (came, leaves) = (vary(from_client(family)), vary(from_client(family)));
            let leaves = leaves.from(flow.snat).to(flow.backend).forwarded();
            lb.check(&format!("{about}, from the client"), &came.from(CLIENT).to(VIP), &sends(leaves));
            let (came, leaves) = (vary(from_backend(family)), vary(from_backend(family)));
            let (came, leaves) = (came.from(flow.backend).to(flow.snat), leaves.from(VIP).to(CLIENT));
            lb.check(&format!("{about}, from the backend"), &came, &sends(leaves.forwarded()));
        }
    }
}

type Variation = (&'static str, fn(Packet) -> Packet);

fn variations(family: Family) -> Vec<Variation> {
    let mut all: Vec<Variation> = vec![
        ("a bare ACK", |p| p),
        ("data", |p| p.psh().payload(b"GET /health HTTP/1.1\r\n\r\n")),
        ("data of odd length", |p| p.payload(b"odd")),
        ("a full segment", |p| p.payload(&[0xa5; 1440])),
        ("a jumbo segment", |p| p.payload(&[0xa5; 3300])),
        ("urgent data", |p| p.urgent(1).payload(b"!")),
        ("zero window", |p| p.window(0)),
        ("options", |p| p.tcp_options(&[TcpOption::Timestamp(1, 2), TcpOption::Noop, TcpOption::Noop])),
        ("selective acknowledgement", |p| {
            p.tcp_options(&[TcpOption::SelectiveAcknowledgement((9, 10), [Some((20, 30)), None, None])])
        }),
        ("DSCP and congestion marks", |p| p.traffic_class(0xbb)),
        ("the last TTL that passes", |p| p.ttl(2)),
        ("the highest TTL", |p| p.ttl(255)),
        ("a frame padded to Ethernet's minimum", |p| p.pad_to(60)),
        ("bytes behind the packet", |p| p.payload(b"x").trailer(b"junk")),
        ("a wrong checksum stays wrong", Packet::broken_checksum),
    ];
    match family {
        Family::V4 => all.extend::<[Variation; 3]>([
            ("a wrong header checksum stays wrong", Packet::broken_ip_checksum),
            ("identification", |p| p.id(0xbeef)),
            ("fragments allowed", |p| p.dont_fragment(false)),
        ]),
        Family::V6 => all.extend::<[Variation; 1]>([("a flow label", |p| p.flow_label(0xabcde))]),
    }
    all
}

#[test]
fn a_retransmitted_syn_is_the_same_flow() {
    require_data_path!("a_retransmitted_syn_is_the_same_flow");
    let mut lb = Harness::new(World::default());
    for family in Family::BOTH {
        assert_eq!(lb.syn(CLIENT, family), lb.syn(CLIENT, family));
    }
}

#[test]
fn flows_do_not_share_a_port() {
    require_data_path!("flows_do_not_share_a_port");
    let mut lb = Harness::new(World::default());
    for family in Family::BOTH {
        let flows: Vec<_> = (0..100).map(|n| lb.syn(CLIENT.port(10_000 + n), family)).collect();
        let ports: std::collections::BTreeSet<_> = flows.iter().map(|f| f.snat.port).collect();
        assert_eq!(ports.len(), 100);
        for backend in BACKENDS {
            let share = flows.iter().filter(|f| f.backend == backend).count();
            assert!((10..=60).contains(&share), "{share} of 100 to {backend:?}");
        }
    }
}

/// The last packets of a connection still pass; then the flow is over.
#[test]
fn a_connection_ends() {
    require_data_path!("a_connection_ends");
    let mut lb = Harness::new(World::default());
    for family in Family::BOTH {
        let flow = lb.connect(CLIENT, family);
        let to_backend = |p: Packet| (p.clone().from(CLIENT).to(VIP), p.from(flow.snat).to(flow.backend));
        let to_client = |p: Packet| (p.clone().from(flow.backend).to(flow.snat), p.from(VIP).to(CLIENT));
        for (about, (came, leaves)) in [
            ("FIN of the client", to_backend(from_client(family).fin())),
            ("ACK of the backend", to_client(from_backend(family).ack(CLIENT_NEXT + 1))),
            ("FIN of the backend", to_client(from_backend(family).ack(CLIENT_NEXT + 1).fin())),
            ("last ACK", to_backend(from_client(family).seq(CLIENT_NEXT + 1).ack(BACKEND_NEXT + 1))),
            ("FIN again", to_client(from_backend(family).ack(CLIENT_NEXT + 1).fin())),
        ] {
            lb.check(about, &came, &sends(leaves.forwarded()));
        }
        lb.connect(CLIENT, family);
    }
}

#[test]
fn resets_pass_both_ways() {
    require_data_path!("resets_pass_both_ways");
    let mut world = World::default();
    for service in &mut world.services {
        service.policy.retries = 0;
    }
    let mut lb = Harness::new(world);
    for family in Family::BOTH {
        let flow = lb.connect(CLIENT, family);
        let rst = from_client(family).rst();
        let leaves = rst.clone().from(flow.snat).to(flow.backend).forwarded();
        lb.check("the client resets", &rst.from(CLIENT).to(VIP), &sends(leaves));
        let flow = lb.syn(CLIENT.port(1), family);
        let refused = tcp(family).rst().ack(CLIENT_NEXT);
        let leaves = refused.clone().from(VIP).to(flow.client).forwarded();
        lb.check("the backend refuses", &refused.from(flow.backend).to(flow.snat), &sends(leaves));
    }
}

/// Only the flow's own backend speaks for it; the rest is the host's.
#[test]
fn replies_come_from_the_backend_alone() {
    require_data_path!("replies_come_from_the_backend_alone");
    let mut lb = Harness::new(World::default());
    for family in Family::BOTH {
        let flow = lb.connect(CLIENT, family);
        let reply = || from_backend(family).payload(b"x");
        let other = BACKENDS.into_iter().find(|b| *b != flow.backend).unwrap_or(flow.backend);
        for (about, from, to) in [
            ("another backend", other, flow.snat),
            ("another port of the backend", flow.backend.port(9999), flow.snat),
            ("a port without a flow", flow.backend, flow.snat.port(flow.snat.port ^ 0x100)),
            ("a port above the range", flow.backend, flow.snat.port(40_000)),
            ("a port below the range", flow.backend, flow.snat.port(22)),
        ] {
            lb.check(about, &reply().from(from).to(to), &passes(Reason::NoService));
        }
    }
}

#[test]
fn what_is_no_flow_is_dropped_or_left_alone() {
    require_data_path!("what_is_no_flow_is_dropped_or_left_alone");
    let mut lb = Harness::new(World::default());
    for family in Family::BOTH {
        lb.connect(CLIENT, family);
        let data = || from_client(family).payload(b"x");
        for (about, packet, outcome) in [
            (
                "another client port",
                data().from(CLIENT.port(1)).to(VIP),
                resets(Reason::FlowUnknown, reset(family, BACKEND_NEXT).dst_port(1)),
            ),
            ("another VIP port", data().from(CLIENT).to(VIP.port(81)), passes(Reason::NoService)),
            (
                "a SYN to another VIP port",
                data().syn().from(CLIENT).to(VIP.port(81)),
                passes(Reason::NoService),
            ),
            ("to a pod", data().from(CLIENT).to(BACKENDS[0]), passes(Reason::NotLocal)),
            ("another MAC", data().from(CLIENT).to(VIP).dst_mac(STRANGER_MAC), passes(Reason::NotLocal)),
            ("the last hop", data().from(CLIENT).to(VIP).ttl(1), drops(Reason::TtlExpired)),
        ] {
            lb.check(about, &packet, &outcome);
        }
    }
}

/// A backend behind another interface gets frames from that one's MAC.
#[test]
fn a_second_interface() {
    require_data_path!("a_second_interface");
    in_pair(|| {
        let other = ifindex(PAIR[0]);
        let mut world = World::default();
        world.add_port(other, LB_SERVER_MAC);
        for backend in BACKENDS {
            world.add_hop(backend, other, &[]);
        }
        let mut lb = Harness::new(world);
        for family in Family::BOTH {
            let syn = tcp(family).from(CLIENT).to(VIP).syn();
            let flow = lb.learn(CLIENT, &syn);
            let leaves = syn.clone().from(flow.snat.via(LB_SERVER_MAC)).to(flow.backend).forwarded();
            lb.check("SYN", &syn, &redirects(leaves));
        }
    });
}

/// Drivers that need more of their peer for `XDP_TX` than for a redirect get a redirect.
#[test]
fn a_port_may_send_by_redirect() {
    require_data_path!("a_port_may_send_by_redirect");
    let mut world = World::default();
    for port in &mut world.node.ports {
        port.tx_by_redirect = true;
    }
    let mut lb = Harness::new(world);
    for family in Family::BOTH {
        let syn = tcp(family).from(CLIENT).to(VIP).syn();
        let flow = lb.learn(CLIENT, &syn);
        let leaves = syn.clone().from(flow.snat).to(flow.backend).forwarded();
        lb.check("SYN", &syn, &redirects(leaves));
    }
}

/// Tags of the client's side and of the backend's side have nothing to do with each other.
#[test]
fn vlan_tags_are_pushed_popped_and_rewritten() {
    require_data_path!("vlan_tags_are_pushed_popped_and_rewritten");
    let tagged = |packet: Packet, tags: &[u16]| tags.iter().fold(packet, |p, tag| p.vlan(*tag));
    let mut lb = Harness::new(World::default());
    for backend_tags in [&[][..], &[30], &[40, 50]] {
        for backend in BACKENDS {
            lb.change(|world| world.add_hop(backend, FRONT, backend_tags));
        }
        for (family, client_tags) in
            Family::BOTH.into_iter().flat_map(|f| [&[][..], &[10], &[0x600a, 20]].map(|tags| (f, tags)))
        {
            let about = format!("{client_tags:?} to {backend_tags:?}");
            let syn = || tcp(family).syn().payload(b"fast open");
            let came = tagged(syn().from(CLIENT).to(VIP), client_tags);
            let flow = lb.learn(CLIENT, &came);
            let leaves = tagged(syn().from(flow.snat).to(flow.backend).forwarded(), backend_tags);
            lb.check(&about, &came, &sends(leaves));
            let reply = || from_backend(family).payload(b"answer");
            let came = tagged(reply().from(flow.backend).to(flow.snat), backend_tags);
            let leaves = tagged(reply().from(VIP).to(CLIENT).forwarded(), client_tags);
            lb.check(&format!("{about}, back"), &came, &sends(leaves));
        }
    }
}

/// An 802.1ad tag outside keeps its ethertype on the way back.
#[test]
fn service_tags_come_back() {
    require_data_path!("service_tags_come_back");
    let mut lb = Harness::new(World::default());
    for family in Family::BOTH {
        let came = tcp(family).syn().from(CLIENT).to(VIP).service_vlan(100).vlan(20);
        let flow = lb.learn(CLIENT, &came);
        let leaves = tcp(family).syn().from(flow.snat).to(flow.backend).forwarded();
        lb.check("SYN", &came, &sends(leaves));
        let came = from_backend(family).from(flow.backend).to(flow.snat);
        let leaves = from_backend(family).from(VIP).to(CLIENT).service_vlan(100).vlan(20).forwarded();
        lb.check("back", &came, &sends(leaves));
    }
}

/// The client's packets may come by another router from one moment to the next: replies follow.
#[test]
fn replies_leave_the_way_the_client_last_came() {
    require_data_path!("replies_leave_the_way_the_client_last_came");
    let mut lb = Harness::new(World::default());
    for family in Family::BOTH {
        let flow = lb.connect(CLIENT, family);
        let moved = CLIENT.via(STRANGER_MAC);
        let data = from_client(family).payload(b"x");
        let leaves = data.clone().from(flow.snat).to(flow.backend).forwarded();
        lb.check("by another router", &data.from(moved).to(VIP), &sends(leaves));
        let reply = from_backend(family).payload(b"y");
        let leaves = reply.clone().from(VIP).to(moved).forwarded();
        lb.check("back by it", &reply.from(flow.backend).to(flow.snat), &sends(leaves));
    }
}

/// A pod that got another MAC is reached there, by the flows that it has.
#[test]
fn a_new_next_hop_counts_for_old_flows() {
    require_data_path!("a_new_next_hop_counts_for_old_flows");
    let mut lb = Harness::new(World::default());
    for family in Family::BOTH {
        let flow = lb.connect(CLIENT, family);
        let moved = flow.backend.via([2, 2, 2, 2, 2, 2]);
        lb.change(|world| world.add_hop(moved, FRONT, &[]));
        let data = from_client(family).payload(b"x");
        let leaves = data.clone().from(flow.snat).to(moved).forwarded();
        lb.check("data", &data.from(CLIENT).to(VIP), &sends(leaves));
        lb.change(|world| world.add_hop(flow.backend, FRONT, &[]));
    }
}
