//! Frames that ask a segment whether somebody has an address, and what answers say. Pure.
//!
//! The question is one that nobody remembers: it comes from no address (RFC 5227 §2.1.1, RFC 4862 §5.4.2).
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::net::frames::{
    ARP_REQUEST, BROADCAST, ETHERTYPE_ARP, ETHERTYPE_IPV6, NEIGHBOR_ADVERTISEMENT, NEXT_HEADER_ICMPV6,
    icmpv6_checksum,
};

const NEIGHBOR_SOLICITATION: u8 = 135;
/// Ethernet, IPv4, and the lengths of their addresses.
const ARP_HEAD: [u8; 6] = [0, 1, 0x08, 0, 6, 4];

/// `EtherType` of the answers.
#[must_use]
pub const fn protocol(address: IpAddr) -> u16 {
    u16::from_be_bytes(if address.is_ipv4() { ETHERTYPE_ARP } else { ETHERTYPE_IPV6 })
}

/// A frame from `mac` that asks who has `address`.
#[must_use]
pub fn probe(address: IpAddr, mac: [u8; 6]) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => arp(v4, mac),
        IpAddr::V6(v6) => solicitation(v6, mac),
    }
}

/// The MAC of whoever says in this frame that the address is theirs.
#[must_use]
pub fn holder(frame: &[u8], address: IpAddr) -> Option<[u8; 6]> {
    let (head, packet) = frame.split_at_checked(14)?;
    match address {
        IpAddr::V4(v4) if head.ends_with(&ETHERTYPE_ARP) => {
            let same = packet.starts_with(&ARP_HEAD) && packet.get(14..18)? == v4.octets();
            packet.get(8..14).filter(|_| same)?.try_into().ok()
        }
        IpAddr::V6(v6) if head.ends_with(&ETHERTYPE_IPV6) => {
            let message = packet.get(40..)?;
            // Nobody behind a router can say so (RFC 4861 §7.1.2).
            let told =
                packet.get(6..8)? == [NEXT_HEADER_ICMPV6, 255] && *message.first()? == NEIGHBOR_ADVERTISEMENT;
            let same = told && message.get(8..24)? == v6.octets();
            head.get(6..12).filter(|_| same)?.try_into().ok()
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// 42 bytes; the interface pads.
fn arp(address: Ipv4Addr, mac: [u8; 6]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend(BROADCAST);
    frame.extend(mac);
    frame.extend(ETHERTYPE_ARP);
    frame.extend(ARP_HEAD);
    frame.extend([0, ARP_REQUEST]);
    frame.extend(mac);
    frame.extend([0; 4]);
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}

/// 78 bytes. Without the sender's MAC, which does not go with the unspecified address (RFC 4861 §4.3).
fn solicitation(address: Ipv6Addr, mac: [u8; 6]) -> Vec<u8> {
    let [.., a, b, c] = address.octets();
    // RFC 4291 §2.7.1, and its MAC by RFC 2464 §7.
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    let mut message = [0; 24];
    message[0] = NEIGHBOR_SOLICITATION;
    message[8..].copy_from_slice(&address.octets());
    let sum = icmpv6_checksum(Ipv6Addr::UNSPECIFIED, group, &message);
    message[2..4].copy_from_slice(&sum);
    let mut frame = Vec::with_capacity(78);
    frame.extend([0x33, 0x33, 0xff, a, b, c]);
    frame.extend(mac);
    frame.extend(ETHERTYPE_IPV6);
    frame.extend([0x60, 0, 0, 0, 0, 24, NEXT_HEADER_ICMPV6, 255]);
    frame.extend(Ipv6Addr::UNSPECIFIED.octets());
    frame.extend(group.octets());
    frame.extend(message);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::frames::announcement;
    use etherparse::{ArpOperation, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    const MAC: [u8; 6] = [2, 0xaa, 0xbb, 0xcc, 0xdd, 0xee];

    #[test]
    fn arp_probe() {
        let frame = probe(IpAddr::from([10, 77, 0, 100]), MAC);
        let ethernet = etherparse::Ethernet2HeaderSlice::from_slice(&frame).unwrap();
        assert_eq!((ethernet.destination(), ethernet.source()), ([0xff; 6], MAC));
        let arp = etherparse::ArpPacket::from_slice(&frame[14..]).unwrap().try_eth_ipv4().unwrap();
        assert_eq!(arp.operation, ArpOperation::REQUEST);
        assert_eq!((arp.sender_mac, arp.sender_ipv4), (MAC, [0; 4]));
        assert_eq!((arp.target_mac, arp.target_ipv4), ([0; 6], [10, 77, 0, 100]));
    }

    #[test]
    fn neighbour_solicitation() {
        let address: Ipv6Addr = "2001:db8::1:a0b:c0d".parse().unwrap();
        let frame = probe(address.into(), MAC);
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        let ethernet = etherparse::Ethernet2HeaderSlice::from_slice(&frame).unwrap();
        assert_eq!(ethernet.destination(), [0x33, 0x33, 0xff, 0x0b, 0x0c, 0x0d]);
        let Some(NetSlice::Ipv6(ip)) = packet.net else { panic!("not IPv6") };
        let header = ip.header();
        assert_eq!((header.hop_limit(), header.payload_length()), (255, 24));
        assert_eq!(header.source_addr(), Ipv6Addr::UNSPECIFIED);
        assert_eq!(header.destination_addr(), "ff02::1:ff0b:c0d".parse::<Ipv6Addr>().unwrap());
        let Some(TransportSlice::Icmpv6(icmp)) = packet.transport else { panic!("not ICMPv6") };
        assert!(icmp.is_checksum_valid(header.source(), header.destination()));
        assert_eq!(icmp.icmp_type(), Icmpv6Type::NeighborSolicitation);
        assert_eq!(icmp.payload(), address.octets());
    }

    #[test]
    fn announcements_name_their_holder_and_questions_do_not() {
        for (vip, other) in [("10.77.0.100", "10.77.0.101"), ("2001:db8::100", "2001:db8::101")] {
            let (vip, other): (IpAddr, IpAddr) = (vip.parse().unwrap(), other.parse().unwrap());
            for frame in announcement(vip, MAC) {
                assert_eq!(holder(&frame, vip), Some(MAC));
                assert_eq!(holder(&frame, other), None);
                assert_eq!(u16::from_be_bytes([frame[12], frame[13]]), protocol(vip));
            }
            assert_eq!(holder(&probe(vip, MAC), vip), None);
        }
    }

    proptest! {
        #[test]
        fn any_frame_can_be_read(frame: Vec<u8>, v4: [u8; 4], v6: [u8; 16]) {
            let _ = (holder(&frame, v4.into()), holder(&frame, v6.into()));
        }
    }
}
