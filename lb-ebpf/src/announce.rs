//! Answering for VIPs that stand on no interface: ARP (RFC 826) and neighbour discovery (RFC 4861).

use lb_common::addr::Addr;
use lb_common::checksum::{addr_sum, fold};
use lb_common::headers::{ETHERTYPE_ARP, Ethernet, LinkLayerOption, Neighbor, PROTOCOL_ICMPV6};
use lb_common::node::Node;
use lb_common::reason::Reason;
use lb_common::service::VIP_ANNOUNCE;
use network_types::arp::ArpHdr;
use network_types::ip::Ipv6Hdr;

use crate::family::address;
use crate::packet::{Both, Packet};
use crate::parse::Frame;
use crate::{maps, parse, service};

const ARP_REQUEST: [u8; 2] = [0, 1];
const ARP_REPLY: [u8; 2] = [0, 2];
/// Hardware type Ethernet, protocol type IPv4, address lengths 6 and 4.
const ARP_ETHERNET_IPV4: ([u8; 2], [u8; 2], u8, u8) = ([0, 1], [8, 0], 6, 4);

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Flags of an advertisement: solicited, override.
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const TARGET_LINK_LAYER: u8 = 2;
/// Length of a solicitation without options, and with one of eight bytes.
const BARE: u16 = 24;
const WITH_OPTION: u16 = 32;

#[inline(always)]
fn announced(vip: &Addr) -> bool {
    service::vip(vip).is_some_and(|flags| flags & VIP_ANNOUNCE != 0)
}

/// Answers a request for an announced VIP, or says that it is none.
#[inline(always)]
pub(crate) fn answer(packet: &mut Packet) -> Reason {
    let Some(node) = maps::NODE.get(0) else { return Reason::Internal };
    match parse::frame::<true>(packet, node) {
        Ok(frame) if frame.ethertype == ETHERTYPE_ARP => arp(packet, node, &frame),
        Ok(frame) => solicitation(packet, node, &frame),
        Err(reason) => reason,
    }
}

#[inline(always)]
fn arp(packet: &mut Packet, node: &Node, frame: &Frame) -> Reason {
    let Some(arp) = packet.header_mut::<ArpHdr>(frame.l3) else { return Reason::NotIp };
    let vip = arp.tpa;
    if (arp.htype, arp.ptype, arp.hlen, arp.plen) != ARP_ETHERNET_IPV4
        || arp.oper != ARP_REQUEST
        || !announced(&Addr::from_v4_word(u32::from_ne_bytes(vip)))
    {
        return Reason::NotIp;
    }
    let Some(port) = node.ports.get(usize::from(frame.port_index)) else { return Reason::Internal };
    arp.oper = ARP_REPLY;
    arp.tha = arp.sha;
    arp.tpa = arp.spa;
    arp.sha = port.mac;
    arp.spa = vip;
    address_to_sender(packet, &port.mac, &frame.mac, Reason::ArpReply)
}

#[inline(always)]
fn solicitation(packet: &mut Packet, node: &Node, frame: &Frame) -> Reason {
    let Some(h) = packet.header::<Both<Ipv6Hdr, Neighbor>>(frame.l3) else { return Reason::NotLocal };
    // A hop limit of 255 proves that it comes from this link (RFC 4861 §7.1.1).
    if h.first.next_hdr != PROTOCOL_ICMPV6
        || h.second.icmp.kind != SOLICITATION
        || h.second.icmp.code != 0
        || h.first.hop_limit != 255
        || !announced(&address(&h.second.target))
    {
        return Reason::NotLocal;
    }
    let Some(port) = node.ports.get(usize::from(frame.port_index)) else { return Reason::Internal };
    advertise(packet, frame, &port.mac)
}

#[inline(always)]
fn advertise(packet: &mut Packet, frame: &Frame, mac: &[u8; 6]) -> Reason {
    let options = frame.l3 + size_of::<Both<Ipv6Hdr, Neighbor>>();
    let has_room = packet.header::<LinkLayerOption>(options).is_some();
    let Some(h) = packet.header_mut::<Both<Ipv6Hdr, Neighbor>>(frame.l3) else { return Reason::Internal };
    // The answer is as long as the question, without what follows its first option. A question without one
    // comes from a host that knows our MAC already, or only wants to know whether the address is taken.
    let asked = u16::from_be_bytes(h.first.payload_len);
    let length = if has_room && asked >= WITH_OPTION { WITH_OPTION } else { BARE };
    let asker = address(&h.first.src_addr);
    let probing = asker == Addr::UNSPECIFIED;
    h.first.payload_len = length.to_be_bytes();
    h.first.src_addr = h.second.target;
    h.first.dst_addr = if probing { ALL_NODES } else { octets(&asker) };
    h.second.icmp.kind = ADVERTISEMENT;
    h.second.icmp.rest = [if probing { OVERRIDE } else { SOLICITED | OVERRIDE }, 0, 0, 0];
    h.second.icmp.check = [0, 0];
    let target = address(&h.second.target);
    // Source and target are the same address, so it counts twice (pseudo header: RFC 8200 §8.1).
    let mut sum = 2 * addr_sum(&target)
        + addr_sum(&address(&h.first.dst_addr))
        + u64::from(length.to_be())
        + u64::from(u16::from(PROTOCOL_ICMPV6).to_be())
        + u64::from(u16::from_ne_bytes([ADVERTISEMENT, 0]))
        + u64::from(h.second.icmp.rest[0]);
    if length == WITH_OPTION {
        let Some(option) = packet.header_mut::<LinkLayerOption>(options) else { return Reason::Internal };
        *option = LinkLayerOption { kind: TARGET_LINK_LAYER, length: 1, mac: *mac };
        sum += u64::from(u16::from_ne_bytes([TARGET_LINK_LAYER, 1]));
        for pair in [[mac[0], mac[1]], [mac[2], mac[3]], [mac[4], mac[5]]] {
            sum += u64::from(u16::from_ne_bytes(pair));
        }
    }
    let Some(h) = packet.header_mut::<Both<Ipv6Hdr, Neighbor>>(frame.l3) else { return Reason::Internal };
    h.second.icmp.check = (!fold(sum)).to_ne_bytes();
    let to = if probing { ALL_NODES_MAC } else { frame.mac };
    address_to_sender(packet, mac, &to, Reason::NeighborAdvert)
}

const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

#[inline(always)]
fn octets(a: &Addr) -> [u8; 16] {
    // SAFETY: two words are 16 bytes, and every bit pattern is a value of both types.
    unsafe { core::mem::transmute::<[u64; 2], [u8; 16]>(a.words()) }
}

#[inline(always)]
fn address_to_sender(packet: &mut Packet, src: &[u8; 6], dst: &[u8; 6], done: Reason) -> Reason {
    let Some(ethernet) = packet.header_mut::<Ethernet>(0) else { return Reason::Internal };
    ethernet.src = *src;
    ethernet.dst = *dst;
    done
}
