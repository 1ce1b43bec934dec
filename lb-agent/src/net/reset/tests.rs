use std::net::SocketAddr;

use etherparse::{NetSlice, SlicedPacket, TcpSlice, TransportSlice};
use lb_common::addr::Addr;
use lb_common::flow::State;
use lb_common::node::{Node, Port};
use lb_common::service::Service;
use lb_common::tcp::FIN;
use proptest::prelude::*;

use super::*;

const SERVICE: u16 = 3;

/// A flow's slot in this state, and tables that know its service and the interface at index 1.
fn flow(state: State, vip: SocketAddr, client: SocketAddr) -> (Slot, Tables) {
    let slot = Slot {
        ctrl: Ctrl::new(state, SERVICE, 5, 9).0,
        client: Addr::from(client.ip()),
        client_port: client.port().to_be(),
        client_next: 1000,
        backend_next: 5000,
        mac: [2, 0, 0, 0, 0, 1],
        port_index: 1,
        ..Slot::EMPTY
    };
    let service = Service { vip: Addr::from(vip.ip()), port: vip.port().to_be(), ..Service::EMPTY };
    let mut node = Node::EMPTY;
    node.ports[1] = Port { ifindex: 7, mac: [2, 0, 0, 0, 0, 0xaa], ..Port::EMPTY };
    (slot, Tables { node, services: [(SERVICE, service)].into(), ..Tables::default() })
}

fn v4(state: State) -> (Slot, Tables) {
    flow(state, "192.0.2.100:80".parse().unwrap(), "198.51.100.7:40000".parse().unwrap())
}

#[test]
fn only_clients_whose_backend_has_answered_are_told() {
    for state in State::ALL {
        let (slot, tables) = v4(state);
        let told = matches!(state, State::Answered | State::Established);
        assert_eq!(Reset::of(&slot, &tables).is_some(), told, "{state:?}");
    }
    let (slot, tables) = v4(State::Established);
    assert_eq!(Reset::of(&slot, &Tables { node: tables.node, ..Tables::default() }), None, "no service");
    assert_eq!(Reset::of(&slot, &Tables { node: Node::EMPTY, ..tables.clone() }), None, "no interface");
    assert_eq!(Reset::of(&Slot { port_index: 200, ..slot }, &tables), None, "no such index");
}

/// The numbers are those that either end expects, its FIN included.
#[test]
fn a_fin_is_counted() {
    let (slot, tables) = v4(State::Established);
    let ctrl = Ctrl(slot.ctrl);
    for (side, want) in
        [(None, (5000, 1000)), (Some(Side::Backend), (5001, 1000)), (Some(Side::Client), (5000, 1001))]
    {
        let ctrl = side.map_or(ctrl, |side| ctrl.after(side, FIN | ACK));
        let reset = Reset::of(&Slot { ctrl: ctrl.0, ..slot }, &tables).unwrap();
        assert_eq!((reset.seq, reset.ack), want, "{side:?}");
    }
    let full = Slot { backend_next: u32::MAX, client_next: u32::MAX, ..slot };
    let fin = Slot { ctrl: ctrl.after(Side::Backend, FIN).0, ..full };
    assert_eq!(Reset::of(&fin, &tables).unwrap().seq, 0);
}

fn addresses() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    prop_oneof![
        any::<[[u8; 4]; 2]>().prop_map(|[a, b]| (a.into(), b.into())),
        any::<[[u8; 16]; 2]>()
            .prop_filter("IPv4 in IPv6", |all| all.iter().all(|a| a[0] != 0))
            .prop_map(|[a, b]| (a.into(), b.into())),
    ]
}

fn tags() -> impl Strategy<Value = VlanTags> {
    (0..3u8, 0..2u8, any::<[u16; 2]>()).prop_map(|(count, outer_ad, tci)| VlanTags { count, outer_ad, tci })
}

proptest! {
    /// What leaves is what an independent library reads, with all of its checksums right.
    #[test]
    fn frames_are_what_they_should_be(
        (vip, client) in addresses(), vip_port: u16, client_port: u16, vlan in tags(), seq: u32, ack: u32,
        mac: [u8; 6],
    ) {
        let (slot, tables) = flow(State::Established, (vip, vip_port).into(), (client, client_port).into());
        let slot = Slot { mac, vlan, backend_next: seq, client_next: ack, ..slot };
        let reset = Reset::of(&slot, &tables).unwrap();
        prop_assert_eq!(reset.ifindex, 7);
        let frame = reset.frame();
        prop_assert_eq!((&frame[..6], &frame[6..12]), (&mac[..], &tables.node.ports[1].mac[..]));
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        let ids: Vec<u16> =
            vlan.tci.iter().take(vlan.count.into()).map(|tci| u16::from_be(*tci) & 0xfff).collect();
        prop_assert_eq!(packet.vlan_ids().iter().map(|id| id.value()).collect::<Vec<_>>(), ids);
        if vlan.count > 0 {
            let outer = if vlan.outer_ad == 0 { [0x81, 0] } else { [0x88, 0xa8] };
            prop_assert_eq!(&frame[12..14], &outer[..]);
        }
        let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { panic!("not TCP") };
        match packet.net.as_ref().unwrap() {
            NetSlice::Ipv4(ip) => {
                let h = ip.header();
                prop_assert_eq!(h.header_checksum(), h.to_header().calc_header_checksum());
                prop_assert_eq!((IpAddr::from(h.source_addr()), h.destination_addr().into()), (vip, client));
                prop_assert_eq!(usize::from(h.total_len()), frame.len() - 14 - 4 * usize::from(vlan.count));
                prop_assert_eq!(tcp.checksum(), tcp.calc_checksum_ipv4(h.source(), h.destination()).unwrap());
            }
            NetSlice::Ipv6(ip) => {
                let h = ip.header();
                prop_assert_eq!((IpAddr::from(h.source_addr()), h.destination_addr().into()), (vip, client));
                prop_assert_eq!(usize::from(h.payload_length()), TCP_LEN);
                prop_assert_eq!(tcp.checksum(), tcp.calc_checksum_ipv6(h.source(), h.destination()).unwrap());
            }
            NetSlice::Arp(_) => panic!("not IP"),
        }
        check(tcp, (vip_port, client_port), (seq, ack));
    }
}

fn check(tcp: &TcpSlice<'_>, ports: (u16, u16), numbers: (u32, u32)) {
    assert_eq!((tcp.source_port(), tcp.destination_port()), ports);
    assert_eq!((tcp.sequence_number(), tcp.acknowledgment_number()), numbers);
    assert!(tcp.rst() && tcp.ack() && !tcp.syn() && !tcp.fin() && !tcp.psh() && !tcp.urg());
    assert!(tcp.payload().is_empty() && tcp.options().is_empty());
    assert_eq!(tcp.window_size(), 0);
}
