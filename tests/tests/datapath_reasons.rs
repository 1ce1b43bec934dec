//! Every reason why a packet is not forwarded, and what becomes of it.

use std::collections::BTreeSet;

use lb_common::reason::{Reason, Verdict};
use lb_tests::harness::{
    BACKEND_NEXT, CLIENT_NEXT, Harness, World, answers, drops, passes, reset, resets, sends, service,
};
use lb_tests::packet::world::{CLIENT, Family, HOST, ROUTER, STRANGER_MAC, VIP};
use lb_tests::packet::{
    IcmpError, Packet, arp_reply, arp_request, icmp, icmp_error, ip, neighbor_advertisement,
    neighbor_solicitation, ping, pong, raw, tcp, udp,
};
use lb_tests::require_data_path;

/// A packet that is never forwarded, whatever came before.
type Row = (Reason, &'static str, Packet);

/// Rows that hold for both families, with the default world.
fn rows(family: Family) -> Vec<Row> {
    let to_vip = || tcp(family).from(CLIENT).to(VIP).syn();
    let to_host = || tcp(family).from(CLIENT).to(HOST).syn();
    let reply = || tcp(family).from(VIP).to(CLIENT.port(9)).ack(1);
    let error = |quoted| icmp_error(IcmpError::PortUnreachable, &reply(), quoted).from(ROUTER).to(VIP);
    let ip_header = match family {
        Family::V4 => 20,
        Family::V6 => 40,
    };
    vec![
        (Reason::NotIp, "LLDP", raw(0x88cc, &[0; 46]).dst_mac(VIP.mac)),
        (Reason::NotLocal, "another machine's", to_vip().dst_mac(STRANGER_MAC)),
        (Reason::NotLocal, "everybody's", to_vip().dst_mac([0xff; 6])),
        (Reason::VlanDepth, "three tags", to_vip().vlan(1).vlan(2).vlan(3)),
        (Reason::ShortFrame, "nothing but Ethernet", to_vip().cut(14)),
        (Reason::ShortFrame, "ends in a tag", to_vip().vlan(1).cut(16)),
        (Reason::ShortFrame, "ends in the second tag", to_vip().vlan(1).vlan(2).cut(20)),
        (Reason::ShortFrame, "ends in the IP header", to_vip().cut(14 + ip_header - 1)),
        (Reason::OtherProtocol, "UDP to a VIP", udp(family).from(CLIENT).to(VIP).payload(b"quic")),
        (Reason::OtherProtocol, "SCTP to a VIP", ip(family, 132).from(CLIENT).to(VIP).payload(&[0; 40])),
        (Reason::NoService, "the host's SSH", to_host()),
        (Reason::NoService, "another port of the VIP", to_vip().dst_port(81)),
        (Reason::NoService, "odd flags to the host", to_host().fin()),
        (
            Reason::NoService,
            "no TCP header to the host",
            ip(family, 6).from(CLIENT).to(HOST).payload(&[0; 4]),
        ),
        (Reason::NoService, "a fragment to the host", to_host().fragment(0, true)),
        (Reason::NoService, "too long for the frame, to the host", to_host().ip_length(999)),
        (Reason::IcmpOther, "ping to the host", ping(family, 1, 1).from(CLIENT).to(HOST)),
        (Reason::IcmpOther, "an echo reply", pong(family, 1, 1).from(CLIENT).to(VIP)),
        (Reason::IcmpOther, "router solicitation", icmp(family, 133, 0, [0; 4]).from(CLIENT).to(VIP)),
        (Reason::IpHeader, "another version", to_vip().ip_version(5)),
        (Reason::IpLength, "longer than the frame", to_vip().ip_length(61)),
        (Reason::Fragment, "the first fragment", to_vip().fragment(0, true)),
        (Reason::Fragment, "a later fragment", to_vip().fragment(185, false)),
        (Reason::TtlExpired, "one hop too many", to_vip().ttl(1)),
        (Reason::TtlExpired, "TTL 0", to_vip().ttl(0)),
        (Reason::TcpShort, "19 bytes", ip(family, 6).from(CLIENT).to(VIP).payload(&[0; 19])),
        (Reason::TcpShort, "none, but padding", ip(family, 6).from(CLIENT).to(VIP).pad_to(80)),
        (Reason::TcpOffset, "inside the header", to_vip().data_offset(4)),
        (Reason::TcpOffset, "behind the packet", to_vip().data_offset(6).pad_to(90)),
        (Reason::TcpFlags, "none", to_vip().tcp_flags(0)),
        (Reason::TcpFlags, "SYN and FIN", to_vip().fin()),
        (Reason::TcpFlags, "SYN and RST", to_vip().rst()),
        (Reason::StrayReset, "RST", tcp(family).from(CLIENT.port(9)).to(VIP).rst()),
        (Reason::StrayReset, "RST and ACK", tcp(family).from(CLIENT.port(9)).to(VIP).rst().ack(5)),
        (Reason::IcmpShort, "seven bytes of TCP", error(ip_header + 7)),
        (Reason::IcmpShort, "half an IP header", error(12)),
        (Reason::IcmpNoFlow, "about nothing we know", error(ip_header + 8)),
    ]
}

fn rows_v4() -> Vec<Row> {
    let to_vip = || tcp(Family::V4).from(CLIENT).to(VIP).syn();
    vec![
        (Reason::NotIp, "ARP for the host", arp_request((CLIENT.mac, CLIENT.v4), HOST.v4)),
        (Reason::NotIp, "an ARP reply", arp_reply((CLIENT.mac, CLIENT.v4), (VIP.mac, VIP.v4))),
        (Reason::IpHeader, "header of 16 bytes", to_vip().ihl(4)),
        (Reason::IpLength, "shorter than its header", to_vip().ip_length(19)),
        (Reason::IpOptions, "four NOPs", to_vip().ip_options(&[1; 4])),
        (Reason::IpOptions, "as many as there can be", to_vip().ip_options(&[1; 40])),
        (Reason::NoService, "options to the host", to_vip().dst_ip(HOST.v4.into()).ip_options(&[1; 4])),
        (Reason::IcmpOther, "IGMP is no ICMP error", icmp(Family::V4, 17, 0, [0; 4]).from(CLIENT).to(VIP)),
    ]
}

fn rows_v6() -> Vec<Row> {
    let to_vip = || tcp(Family::V6).from(CLIENT).to(VIP).syn();
    let sender = Some(CLIENT.mac);
    vec![
        (Reason::NotLocal, "for the host", neighbor_solicitation(HOST.v6, sender).from(CLIENT)),
        (Reason::NotLocal, "not from this link", neighbor_solicitation(VIP.v6, sender).from(CLIENT).ttl(254)),
        (
            Reason::IcmpOther,
            "an advertisement",
            neighbor_advertisement(VIP.v6, [9; 6], 0).from(CLIENT).to(VIP),
        ),
        (Reason::IpOptions, "hop-by-hop", to_vip().hop_by_hop()),
        (Reason::IpOptions, "routing", to_vip().routing_header()),
        (Reason::IpOptions, "destination", to_vip().destination_options()),
        (Reason::IpOptions, "two of them", to_vip().hop_by_hop().destination_options()),
        (Reason::NoService, "to the host", to_vip().dst_ip(HOST.v6.into()).hop_by_hop()),
    ]
}

/// Reasons with tests of their own below: they need a world, or an answer.
const ELSEWHERE: [Reason; 12] = [
    Reason::UnknownPort,
    Reason::NoBackend,
    Reason::Unresolved,
    Reason::FlowUnknown,
    Reason::BackendGone,
    Reason::BackendDead,
    Reason::ResetLimited,
    Reason::SynRetried,
    Reason::TableFull,
    Reason::EchoReply,
    Reason::ArpReply,
    Reason::NeighborAdvert,
];

/// Reasons that only a fault in the program or a driver brings about.
const UNREACHABLE: [Reason; 2] = [Reason::Resize, Reason::Internal];

#[test]
fn every_reason_has_a_row() {
    let all = Family::BOTH.into_iter().flat_map(rows).chain(rows_v4()).chain(rows_v6());
    let covered: BTreeSet<_> = all.map(|row| row.0).chain(ELSEWHERE).chain(UNREACHABLE).collect();
    let missing: Vec<_> = Reason::ALL.iter().filter(|r| !covered.contains(r)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn each_packet_has_its_reason() {
    require_data_path!("each_packet_has_its_reason");
    let mut lb = Harness::new(World::default());
    lb.change(|world| world.node.announce = true);
    let of_family = |f: Family| rows(f).into_iter().map(move |row| (format!("{f:?}"), row));
    let single = rows_v4().into_iter().chain(rows_v6()).map(|row| (String::new(), row));
    lb.check_all(Family::BOTH.into_iter().flat_map(of_family).chain(single).map(
        |(family, (reason, about, packet))| {
            let outcome = match reason.verdict() {
                Verdict::Pass => passes(reason),
                Verdict::Drop => drops(reason),
                Verdict::Reply | Verdict::Reset | Verdict::Sent => {
                    unreachable!("{}: what is sent has a frame, and a test of its own", reason.name())
                }
            };
            (format!("{}, {about} {family}", reason.name()), packet, outcome)
        },
    ));
}

/// A SYN that goes no further leaves no flow behind, so what follows it belongs to none.
#[test]
fn a_dropped_syn_opens_no_flow() {
    require_data_path!("a_dropped_syn_opens_no_flow");
    let mut lb = Harness::new(World::default());
    for family in Family::BOTH {
        let segment = || tcp(family).from(CLIENT).to(VIP);
        for (reason, syn) in [
            (Reason::TtlExpired, segment().syn().ttl(1)),
            (Reason::TcpFlags, segment().syn().fin()),
            (Reason::TcpOffset, segment().syn().data_offset(4)),
        ] {
            lb.check("SYN", &syn, &drops(reason));
            lb.check("ACK", &segment().ack(1), &resets(Reason::FlowUnknown, reset(family, 1)));
        }
    }
}

#[test]
fn echo_to_a_vip_is_answered() {
    require_data_path!("echo_to_a_vip_is_answered");
    let mut lb = Harness::new(World::default());
    for family in Family::BOTH {
        for payload in [&b""[..], b"odd", &[0xff; 56], &[0; 1472]] {
            let question = ping(family, 0xffff, 7).from(CLIENT).to(VIP).payload(payload).ttl(3);
            let answer = pong(family, 0xffff, 7).from(VIP).to(CLIENT).payload(payload);
            lb.check("ping", &question, &answers(Reason::EchoReply, answer.clone()));
            lb.check("in a VLAN", &question.vlan(5), &answers(Reason::EchoReply, answer.vlan(5)));
        }
    }
}

#[test]
fn arp_for_an_announced_vip_is_answered() {
    require_data_path!("arp_for_an_announced_vip_is_answered");
    let mut lb = Harness::new(World::default());
    let question = || arp_request((CLIENT.mac, CLIENT.v4), VIP.v4).pad_to(60);
    lb.check("not announced", &question(), &passes(Reason::NotIp));
    lb.change(|world| world.node.announce = true);
    let answer = || arp_reply((VIP.mac, VIP.v4), (CLIENT.mac, CLIENT.v4)).pad_to(60);
    lb.check("announced", &question(), &answers(Reason::ArpReply, answer()));
    lb.check("in a VLAN", &question().vlan(5), &answers(Reason::ArpReply, answer().vlan(5)));
    lb.check("asked directly", &question().dst_mac(VIP.mac), &answers(Reason::ArpReply, answer()));
}

#[test]
fn solicitations_for_an_announced_vip_are_answered() {
    require_data_path!("solicitations_for_an_announced_vip_are_answered");
    let mut lb = Harness::new(World::default());
    let question = || neighbor_solicitation(VIP.v6, Some(CLIENT.mac)).from(CLIENT);
    lb.check("not announced", &question(), &passes(Reason::NotLocal));
    lb.change(|world| world.node.announce = true);
    let answer = || neighbor_advertisement(VIP.v6, VIP.mac, 0x60).from(VIP).to(CLIENT);
    lb.check("announced", &question(), &answers(Reason::NeighborAdvert, answer()));
    lb.check("in a VLAN", &question().vlan(5), &answers(Reason::NeighborAdvert, answer().vlan(5)));
}

#[test]
fn an_interface_without_configuration_is_left_alone() {
    require_data_path!("an_interface_without_configuration_is_left_alone");
    let mut world = World::default();
    world.node.ports.remove(0);
    let mut lb = Harness::new(world);
    for family in Family::BOTH {
        lb.check("SYN", &tcp(family).from(CLIENT).to(VIP).syn(), &passes(Reason::UnknownPort));
    }
}

#[test]
fn a_service_without_backends_drops() {
    require_data_path!("a_service_without_backends_drops");
    let mut world = World::default();
    world.services.clear();
    for family in Family::BOTH {
        world.add_service(service(family, VIP, &[]));
    }
    let mut lb = Harness::new(world);
    for family in Family::BOTH {
        lb.check("SYN", &tcp(family).from(CLIENT).to(VIP).syn(), &drops(Reason::NoBackend));
        let data = tcp(family).from(CLIENT).to(VIP).ack(1);
        lb.check("data", &data, &resets(Reason::FlowUnknown, reset(family, 1)));
    }
}

#[test]
fn backends_without_a_next_hop_get_nothing() {
    require_data_path!("backends_without_a_next_hop_get_nothing");
    let mut lb = Harness::new(World::default());
    let flows = Family::BOTH.map(|family| (family, lb.connect(CLIENT, family)));
    lb.change(|world| world.hops.clear());
    for (family, flow) in flows {
        let other = tcp(family).from(CLIENT.port(1)).to(VIP).syn();
        lb.check("a new flow", &other, &drops(Reason::Unresolved));
        let data = tcp(family).seq(CLIENT_NEXT).ack(BACKEND_NEXT).payload(b"x");
        lb.check("an old flow", &data.clone().from(CLIENT).to(VIP), &drops(Reason::Unresolved));
        let leaves = data.clone().from(VIP).to(CLIENT).forwarded();
        lb.check("its replies", &data.from(flow.backend).to(flow.snat), &sends(leaves));
    }
}

#[test]
fn flows_of_a_removed_backend_end() {
    require_data_path!("flows_of_a_removed_backend_end");
    let mut lb = Harness::new(World::default());
    let flows = Family::BOTH.map(|family| (family, lb.connect(CLIENT, family)));
    lb.change(|world| {
        for service in &mut world.services {
            service.backends.clear();
        }
    });
    for (family, flow) in flows {
        let data = tcp(family).seq(CLIENT_NEXT).ack(BACKEND_NEXT).payload(b"x");
        let told = resets(Reason::BackendGone, reset(family, BACKEND_NEXT));
        lb.check("data", &data.clone().from(CLIENT).to(VIP), &told);
        let again = resets(Reason::BackendGone, reset(family, BACKEND_NEXT));
        lb.check("more data", &data.clone().from(CLIENT).to(VIP), &again);
        let reply = data.from(flow.backend).to(flow.snat);
        lb.check("a reply", &reply, &passes(Reason::NoService));
    }
}

/// Live flows are never pushed out by new ones.
#[test]
fn a_full_table_keeps_its_flows() {
    require_data_path!("a_full_table_keeps_its_flows");
    let mut world = World::default();
    world.node.snat_ports = (1024, 1031);
    let mut lb = Harness::new(world);
    for family in Family::BOTH {
        let flows: Vec<_> = (0..8).map(|n| lb.connect(CLIENT.port(n + 1), family)).collect();
        let ninth = tcp(family).from(CLIENT.port(9)).to(VIP).syn();
        lb.check("the ninth", &ninth, &drops(Reason::TableFull));
        for flow in flows {
            let data = tcp(family).seq(CLIENT_NEXT).ack(BACKEND_NEXT).payload(b"x");
            let leaves = data.clone().from(flow.snat).to(flow.backend).forwarded();
            lb.check("data of the eight", &data.from(flow.client).to(VIP), &sends(leaves));
        }
    }
}

/// Errors about either half of a flow reach the other end in its own terms, whether they quote all of the packet
/// or only what they must.
#[test]
fn icmp_errors_follow_the_flow() {
    require_data_path!("icmp_errors_follow_the_flow");
    let mut lb = Harness::new(World::default());
    let kinds = [
        IcmpError::HostUnreachable,
        IcmpError::PortUnreachable,
        IcmpError::TooBig(1400),
        IcmpError::TimeExceeded,
        IcmpError::ParameterProblem,
    ];
    for (family, ip_header) in [(Family::V4, 20), (Family::V6, 40)] {
        let flow = lb.connect(CLIENT, family);
        let segment = || tcp(family).seq(77).ack(88).payload(&[0x5a; 101]);
        for (kind, quoted) in kinds.into_iter().flat_map(|k| [8, 20, 1000].map(|n| (k, ip_header + n))) {
            let about = format!("{kind:?} quoting {quoted}");
            let error = |about: Packet| icmp_error(kind, &about, quoted);
            let came = error(segment().from(VIP).to(CLIENT)).from(ROUTER).to(VIP);
            let leaves = error(segment().from(flow.backend).to(flow.snat)).from(flow.snat).to(flow.backend);
            lb.check(&format!("{about}, from the client's side"), &came, &sends(leaves.forwarded()));
            let came = error(segment().from(flow.snat).to(flow.backend)).from(ROUTER).to(flow.snat);
            let leaves = error(segment().from(CLIENT).to(VIP)).from(VIP).to(CLIENT);
            lb.check(&format!("{about}, from the backend's side"), &came, &sends(leaves.forwarded()));
        }
    }
}
