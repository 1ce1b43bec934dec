//! ICMP and ICMPv6 messages, neighbour discovery and ARP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::transport::Transport;
use super::world::{Family, Mac};
use super::{Packet, raw};

/// ICMP errors that the data path must carry, by what they say; type and code depend on the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// No route to the host.
    HostUnreachable,
    /// Nobody listens.
    PortUnreachable,
    /// IPv4 "fragmentation needed" or ICMPv6 "packet too big", with the next hop's MTU.
    TooBig(u16),
    /// The TTL or hop limit ran out.
    TimeExceeded,
    /// A header field is wrong.
    ParameterProblem,
}

impl IcmpError {
    fn message(self, family: Family) -> Transport {
        let (kind, code, rest) = match (self, family) {
            (Self::HostUnreachable, Family::V4) => (3, 1, 0),
            (Self::HostUnreachable, Family::V6) => (1, 3, 0),
            (Self::PortUnreachable, Family::V4) => (3, 3, 0),
            (Self::PortUnreachable, Family::V6) => (1, 4, 0),
            (Self::TooBig(mtu), Family::V4) => (3, 4, mtu),
            (Self::TooBig(mtu), Family::V6) => (2, 0, mtu),
            (Self::TimeExceeded, Family::V4) => (11, 0, 0),
            (Self::TimeExceeded, Family::V6) => (3, 0, 0),
            (Self::ParameterProblem, Family::V4) => (12, 0, 0),
            (Self::ParameterProblem, Family::V6) => (4, 0, 0),
        };
        Transport::Icmp { kind, code, rest: u32::from(rest).to_be_bytes() }
    }
}

/// An ICMP error that quotes the first `quoted` bytes of the IP packet `about`. RFC 792 asks for the IP
/// header and 8 bytes (28 without options), RFC 4443 for as much as fits 1280 bytes.
pub fn icmp_error(error: IcmpError, about: &Packet, quoted: usize) -> Packet {
    let mut quote = about.ip_bytes();
    quote.truncate(quoted);
    Packet::new(about.family(), error.message(about.family())).payload(&quote)
}

/// An ICMP or ICMPv6 message of any type; `rest` are the four bytes after the checksum.
pub fn icmp(family: Family, kind: u8, code: u8, rest: [u8; 4]) -> Packet {
    Packet::new(family, Transport::Icmp { kind, code, rest })
}

/// An echo request.
pub fn ping(family: Family, id: u16, sequence: u16) -> Packet {
    let kind = match family {
        Family::V4 => 8,
        Family::V6 => 128,
    };
    icmp(family, kind, 0, echo_rest(id, sequence))
}

/// An echo reply.
pub fn pong(family: Family, id: u16, sequence: u16) -> Packet {
    let kind = match family {
        Family::V4 => 0,
        Family::V6 => 129,
    };
    icmp(family, kind, 0, echo_rest(id, sequence))
}

fn echo_rest(id: u16, sequence: u16) -> [u8; 4] {
    (u32::from(id) << 16 | u32::from(sequence)).to_be_bytes()
}

/// Link-layer address options of RFC 4861 §4.6.1.
fn link_layer_option(kind: u8, mac: Mac) -> Vec<u8> {
    [&[kind, 1], mac.as_slice()].concat()
}

/// The MAC that IPv6 multicast to `group` goes to (RFC 2464 §7).
#[must_use]
pub fn multicast_mac(group: Ipv6Addr) -> Mac {
    let o = group.octets();
    [0x33, 0x33, o[12], o[13], o[14], o[15]]
}

/// The group that a neighbour solicitation for `target` is sent to (RFC 4291 §2.7.1).
#[must_use]
pub fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let o = target.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(o[13]), u16::from_be_bytes([o[14], o[15]]))
}

/// A neighbour solicitation for `target` to its solicited-node group, with hop limit 255; `source_link` is
/// the source link-layer address option. The sender is set with [`Packet::from`].
pub fn neighbor_solicitation(target: Ipv6Addr, source_link: Option<Mac>) -> Packet {
    let group = solicited_node(target);
    let mut body = target.octets().to_vec();
    body.extend(source_link.map(|mac| link_layer_option(1, mac)).unwrap_or_default());
    icmp(Family::V6, 135, 0, [0; 4])
        .dst_ip(IpAddr::V6(group))
        .dst_mac(multicast_mac(group))
        .ttl(255)
        .payload(&body)
}

/// A solicited neighbour advertisement that says that `target` is at `mac`, with hop limit 255; `flags` is
/// the byte of RFC 4861 §4.4 (router 0x80, solicited 0x40, override 0x20).
pub fn neighbor_advertisement(target: Ipv6Addr, mac: Mac, flags: u8) -> Packet {
    let body = [target.octets().to_vec(), link_layer_option(2, mac)].concat();
    icmp(Family::V6, 136, 0, [flags, 0, 0, 0]).ttl(255).payload(&body)
}

/// An ARP request: who has `target`, tell `sender`. To everybody.
pub fn arp_request(sender: (Mac, Ipv4Addr), target: Ipv4Addr) -> Packet {
    arp(1, sender, ([0; 6], target)).src_mac(sender.0).dst_mac([0xff; 6])
}

/// An ARP reply: `sender` tells `target` its MAC.
pub fn arp_reply(sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Packet {
    arp(2, sender, target).src_mac(sender.0).dst_mac(target.0)
}

fn arp(operation: u8, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Packet {
    let mut body = vec![0, 1, 0x08, 0, 6, 4, 0, operation];
    for (mac, ip) in [sender, target] {
        body.extend(mac);
        body.extend(ip.octets());
    }
    raw(0x0806, &body)
}
