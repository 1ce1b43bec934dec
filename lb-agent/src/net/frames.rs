//! Frames that tell a segment where an address is now. Pure.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::checksum;

pub(super) const BROADCAST: [u8; 6] = [0xff; 6];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// RFC 2464 §7: 33:33 and the last four bytes of the group.
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

pub(super) const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
pub(super) const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
pub(super) const ARP_REQUEST: u8 = 1;
const ARP_REPLY: u8 = 2;
pub(super) const NEXT_HEADER_ICMPV6: u8 = 58;
pub(super) const NEIGHBOR_ADVERTISEMENT: u8 = 136;

/// The frames that announce `address` at `mac`.
///
/// IPv4: an ARP announcement as a request (RFC 5227 §3) and the same as a reply, since there are hosts that
/// believe only one of them. IPv6: one unsolicited neighbour advertisement (RFC 4861 §7.2.6).
#[must_use]
pub fn announcement(address: IpAddr, mac: [u8; 6]) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(v4) => vec![gratuitous_arp(v4, mac, ARP_REQUEST), gratuitous_arp(v4, mac, ARP_REPLY)],
        IpAddr::V6(v6) => vec![unsolicited_advertisement(v6, mac)],
    }
}

/// 42 bytes; the interface pads.
fn gratuitous_arp(address: Ipv4Addr, mac: [u8; 6], operation: u8) -> Vec<u8> {
    let target_mac = if operation == ARP_REQUEST { [0; 6] } else { mac };
    let mut frame = Vec::with_capacity(42);
    frame.extend(BROADCAST);
    frame.extend(mac);
    frame.extend(ETHERTYPE_ARP);
    // Ethernet, IPv4, and the lengths of their addresses.
    frame.extend([0, 1, 0x08, 0, 6, 4, 0, operation]);
    frame.extend(mac);
    frame.extend(address.octets());
    frame.extend(target_mac);
    frame.extend(address.octets());
    frame
}

/// 86 bytes.
fn unsolicited_advertisement(address: Ipv6Addr, mac: [u8; 6]) -> Vec<u8> {
    let message = advertisement(address, mac);
    let length = [0, 32];
    let mut frame = Vec::with_capacity(86);
    frame.extend(ALL_NODES_MAC);
    frame.extend(mac);
    frame.extend(ETHERTYPE_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length);
    // Receivers discard what a router may have forwarded (RFC 4861 §7.1.2).
    frame.extend([NEXT_HEADER_ICMPV6, 255]);
    frame.extend(address.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

fn advertisement(address: Ipv6Addr, mac: [u8; 6]) -> [u8; 32] {
    /// Override what is cached; neither a router nor an answer.
    const OVERRIDE: u8 = 1 << 5;
    /// Target link-layer address, 8 bytes long.
    const TARGET_MAC: [u8; 2] = [2, 1];
    let mut message = [0; 32];
    message[0] = NEIGHBOR_ADVERTISEMENT;
    message[4] = OVERRIDE;
    message[8..24].copy_from_slice(&address.octets());
    message[24..26].copy_from_slice(&TARGET_MAC);
    message[26..].copy_from_slice(&mac);
    let sum = icmpv6_checksum(address, ALL_NODES, &message);
    message[2..4].copy_from_slice(&sum);
    message
}

/// Of a message of less than 256 bytes whose checksum field is zero: RFC 4443 §2.3, over the pseudo-header and the message.
pub(super) fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> [u8; 2] {
    let length = u8::try_from(message.len()).unwrap_or(u8::MAX);
    let pseudo = [
        checksum::sum(&source.octets()),
        checksum::sum(&destination.octets()),
        checksum::sum(&[0, 0, 0, length]),
        checksum::sum(&[0, 0, 0, NEXT_HEADER_ICMPV6]),
    ];
    (!checksum::fold(pseudo.into_iter().sum::<u64>() + checksum::sum(message))).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::icmpv6::NeighborAdvertisementHeader;
    use etherparse::{ArpOperation, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice};

    const MAC: [u8; 6] = [2, 0xaa, 0xbb, 0xcc, 0xdd, 0xee];

    #[test]
    fn arp() {
        let vip = Ipv4Addr::new(10, 77, 0, 100);
        let frames = announcement(vip.into(), MAC);
        let wanted = [(ArpOperation::REQUEST, [0; 6]), (ArpOperation::REPLY, MAC)];
        assert_eq!(frames.len(), wanted.len());
        for (frame, (operation, target)) in frames.iter().zip(wanted) {
            let ethernet = etherparse::Ethernet2HeaderSlice::from_slice(frame).unwrap();
            assert_eq!((ethernet.destination(), ethernet.source()), ([0xff; 6], MAC));
            assert_eq!(ethernet.ether_type(), etherparse::EtherType::ARP);
            let arp = etherparse::ArpPacket::from_slice(&frame[14..]).unwrap();
            assert_eq!(arp.packet_len(), frame.len() - 14);
            let arp = arp.try_eth_ipv4().unwrap();
            assert_eq!(arp.operation, operation);
            assert_eq!((arp.sender_mac, arp.sender_ipv4), (MAC, vip.octets()));
            assert_eq!((arp.target_mac, arp.target_ipv4), (target, vip.octets()));
        }
    }

    #[test]
    fn neighbour_advertisement() {
        for vip in ["2001:db8::100", "fe80::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] {
            let vip: Ipv6Addr = vip.parse().unwrap();
            let frames = announcement(vip.into(), MAC);
            assert_eq!(frames.len(), 1);
            let packet = SlicedPacket::from_ethernet(&frames[0]).unwrap();
            let ethernet = etherparse::Ethernet2HeaderSlice::from_slice(&frames[0]).unwrap();
            assert_eq!((ethernet.destination(), ethernet.source()), ([0x33, 0x33, 0, 0, 0, 1], MAC));
            let Some(NetSlice::Ipv6(ip)) = packet.net else { panic!("not IPv6") };
            let header = ip.header();
            assert_eq!((header.hop_limit(), header.payload_length()), (255, 32));
            assert_eq!(header.source_addr(), vip);
            assert_eq!(header.destination_addr(), ALL_NODES);
            let Some(TransportSlice::Icmpv6(icmp)) = packet.transport else { panic!("not ICMPv6") };
            assert!(icmp.is_checksum_valid(header.source(), header.destination()));
            let flags = NeighborAdvertisementHeader { router: false, solicited: false, r#override: true };
            assert_eq!(icmp.icmp_type(), Icmpv6Type::NeighborAdvertisement(flags));
            assert_eq!(icmp.payload()[..16], vip.octets());
            assert_eq!(icmp.payload()[16..], [2, 1, MAC[0], MAC[1], MAC[2], MAC[3], MAC[4], MAC[5]]);
        }
    }
}
