//! What differs between IPv4 and IPv6, so that everything else is written once.

use lb_common::addr::Addr;
use lb_common::checksum;
use lb_common::headers::{
    EXTENSION_DESTINATION, EXTENSION_FRAGMENT, EXTENSION_HOP_BY_HOP, EXTENSION_ROUTING, PROTOCOL_ICMP,
    PROTOCOL_ICMPV6,
};
use lb_common::reason::Reason;
use lb_common::service::PROTOCOL_TCP;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::packet::{Packet, Wire};
use crate::parse::{Frame, Ip};
use crate::service;

/// TTL and hop limit of packets that we make ourselves (RFC 1340 and its successors recommend 64).
const OWN_TTL: u8 = 64;

/// An IP version.
pub(crate) trait Family {
    /// The fixed header.
    type Header: Wire;
    /// Its length in bytes.
    const LEN: usize;
    /// Protocol number of its ICMP.
    const ICMP: u8;
    /// Whether its ICMP checksum covers the addresses (RFC 4443 §2.3).
    const PSEUDO_HEADER: bool;
    /// Type of its echo request.
    const ECHO_REQUEST: u8;
    /// Type of its echo reply.
    const ECHO_REPLY: u8;

    /// Reads and checks the header of a packet; what is odd about one to a VIP is a reason to drop it.
    fn parse(packet: &Packet, frame: &Frame) -> Result<Ip, Reason>;
    /// Addresses of a header inside an ICMP error, if it is one of TCP without options.
    fn embedded(header: &Self::Header) -> Option<(Addr, Addr)>;
    /// Whether an ICMP type is an error about another packet.
    fn is_error(kind: u8) -> bool;
    /// Writes addresses; `delta` is the change of their sum.
    fn set_addresses(header: &mut Self::Header, src: &Addr, dst: &Addr, delta: u16);
    /// The same for a packet that goes on: TTL or hop limit falls by one.
    fn forward(header: &mut Self::Header, src: &Addr, dst: &Addr, delta: u16);
    /// Writes the header of a packet of our own, with so many bytes behind it.
    fn compose(header: &mut Self::Header, src: &Addr, dst: &Addr, payload: u16);
    /// Turns a header around for an answer of our own.
    fn turn_around(header: &mut Self::Header);
}

/// IPv4 (RFC 791).
pub(crate) struct V4;
/// IPv6 (RFC 8200).
pub(crate) struct V6;

impl Family for V4 {
    type Header = Ipv4Hdr;
    const LEN: usize = size_of::<Ipv4Hdr>();
    const ICMP: u8 = PROTOCOL_ICMP;
    const PSEUDO_HEADER: bool = false;
    const ECHO_REQUEST: u8 = 8;
    const ECHO_REPLY: u8 = 0;

    #[inline(always)]
    fn parse(packet: &Packet, frame: &Frame) -> Result<Ip, Reason> {
        let h = packet.header::<Ipv4Hdr>(frame.l3).ok_or(Reason::ShortFrame)?;
        let dst = Addr::from_v4_word(u32::from_ne_bytes(h.dst_addr));
        let len = u32::from(u16::from_be_bytes(h.tot_len));
        let ip = Ip {
            src: Addr::from_v4_word(u32::from_ne_bytes(h.src_addr)),
            dst,
            protocol: h.proto,
            ttl: h.ttl,
            len,
        };
        if h.vihl != 0x45 || h.frags[0] & 0x3f != 0 || h.frags[1] != 0 || !fits(packet, frame, len, 20) {
            return Err(odd_v4(packet, frame, h, &dst));
        }
        Ok(ip)
    }

    #[inline(always)]
    fn embedded(h: &Ipv4Hdr) -> Option<(Addr, Addr)> {
        if h.vihl != 0x45 || h.proto != PROTOCOL_TCP || h.frags[0] & 0x1f != 0 || h.frags[1] != 0 {
            return None;
        }
        let word = |b| Addr::from_v4_word(u32::from_ne_bytes(b));
        Some((word(h.src_addr), word(h.dst_addr)))
    }

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        // Destination unreachable, source quench, time exceeded, parameter problem.
        matches!(kind, 3 | 4 | 11 | 12)
    }

    #[inline(always)]
    fn set_addresses(h: &mut Ipv4Hdr, src: &Addr, dst: &Addr, delta: u16) {
        h.src_addr = src.v4_word().to_ne_bytes();
        h.dst_addr = dst.v4_word().to_ne_bytes();
        h.check = checksum::apply(u16::from_ne_bytes(h.check), delta).to_ne_bytes();
    }

    #[inline(always)]
    fn forward(h: &mut Ipv4Hdr, src: &Addr, dst: &Addr, delta: u16) {
        h.ttl = h.ttl.wrapping_sub(1);
        // TTL is the first byte of its 16-bit word: the word as it stands in memory falls by one.
        Self::set_addresses(h, src, dst, checksum::both(delta, checksum::negate(1)));
    }

    #[inline(always)]
    fn compose(h: &mut Ipv4Hdr, src: &Addr, dst: &Addr, payload: u16) {
        let len = Self::LEN as u16 + payload;
        h.vihl = 0x45;
        h.tos = 0;
        h.tot_len = len.to_be_bytes();
        h.id = [0; 2];
        // Don't fragment: then the identification need not be unique (RFC 6864 §4.1).
        h.frags = [0x40, 0];
        h.ttl = OWN_TTL;
        h.proto = PROTOCOL_TCP;
        h.src_addr = src.v4_word().to_ne_bytes();
        h.dst_addr = dst.v4_word().to_ne_bytes();
        let word = |host: u16| u64::from(host.to_be());
        let fixed = word(0x4500) + word(0x4000) + word(u16::from(OWN_TTL) << 8 | u16::from(PROTOCOL_TCP));
        let sum = fixed + word(len) + u64::from(src.v4_word()) + u64::from(dst.v4_word());
        h.check = (!checksum::fold(sum)).to_ne_bytes();
    }

    #[inline(always)]
    fn turn_around(h: &mut Ipv4Hdr) {
        core::mem::swap(&mut h.src_addr, &mut h.dst_addr);
        let delta = checksum::delta(u64::from(h.ttl), u64::from(OWN_TTL));
        h.ttl = OWN_TTL;
        h.check = checksum::apply(u16::from_ne_bytes(h.check), delta).to_ne_bytes();
    }
}

/// Why an IPv4 packet is out of the ordinary. Only a packet to a VIP is judged.
#[inline(always)]
fn odd_v4(packet: &Packet, frame: &Frame, h: &Ipv4Hdr, dst: &Addr) -> Reason {
    if h.vihl >> 4 != 4 || h.vihl & 0x0f < 5 {
        return Reason::IpHeader;
    }
    if h.proto != PROTOCOL_TCP && h.proto != PROTOCOL_ICMP {
        return Reason::OtherProtocol;
    }
    let header_len = u32::from(h.vihl & 0x0f) * 4;
    if !fits(packet, frame, u32::from(u16::from_be_bytes(h.tot_len)), header_len) {
        return service::judge(dst, Reason::IpLength);
    }
    if h.proto == PROTOCOL_ICMP {
        return Reason::IcmpOther;
    }
    if h.frags[0] & 0x3f != 0 || h.frags[1] != 0 {
        return service::judge(dst, Reason::Fragment);
    }
    service::judge(dst, Reason::IpOptions)
}

/// Whether an IP packet of `len` bytes holds its header and lies within the frame.
#[inline(always)]
fn fits(packet: &Packet, frame: &Frame, len: u32, header_len: u32) -> bool {
    let end = u64::from(len) + frame.l3 as u64;
    len >= header_len && (end <= packet.linear_len() || end <= packet.len())
}

impl Family for V6 {
    type Header = Ipv6Hdr;
    const LEN: usize = size_of::<Ipv6Hdr>();
    const ICMP: u8 = PROTOCOL_ICMPV6;
    const PSEUDO_HEADER: bool = true;
    const ECHO_REQUEST: u8 = 128;
    const ECHO_REPLY: u8 = 129;

    #[inline(always)]
    fn parse(packet: &Packet, frame: &Frame) -> Result<Ip, Reason> {
        let h = packet.header::<Ipv6Hdr>(frame.l3).ok_or(Reason::ShortFrame)?;
        if h.vcf[0] >> 4 != 6 {
            return Err(Reason::IpHeader);
        }
        let (src, dst) = (address(&h.src_addr), address(&h.dst_addr));
        let len = u32::from(u16::from_be_bytes(h.payload_len)) + Self::LEN as u32;
        if matches!(
            h.next_hdr,
            EXTENSION_HOP_BY_HOP | EXTENSION_ROUTING | EXTENSION_FRAGMENT | EXTENSION_DESTINATION
        ) {
            return Err(extended(packet, frame, h.next_hdr, &dst));
        }
        if !fits(packet, frame, len, Self::LEN as u32) {
            return Err(service::judge(&dst, Reason::IpLength));
        }
        Ok(Ip { src, dst, protocol: h.next_hdr, ttl: h.hop_limit, len })
    }

    #[inline(always)]
    fn embedded(h: &Ipv6Hdr) -> Option<(Addr, Addr)> {
        if h.vcf[0] >> 4 != 6 || h.next_hdr != PROTOCOL_TCP {
            return None;
        }
        Some((address(&h.src_addr), address(&h.dst_addr)))
    }

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        // Destination unreachable, packet too big, time exceeded, parameter problem.
        matches!(kind, 1..=4)
    }

    #[inline(always)]
    fn set_addresses(h: &mut Ipv6Hdr, src: &Addr, dst: &Addr, _delta: u16) {
        h.src_addr = bytes(src);
        h.dst_addr = bytes(dst);
    }

    #[inline(always)]
    fn forward(h: &mut Ipv6Hdr, src: &Addr, dst: &Addr, delta: u16) {
        h.hop_limit = h.hop_limit.wrapping_sub(1);
        Self::set_addresses(h, src, dst, delta);
    }

    #[inline(always)]
    fn compose(h: &mut Ipv6Hdr, src: &Addr, dst: &Addr, payload: u16) {
        h.vcf = [0x60, 0, 0, 0];
        h.payload_len = payload.to_be_bytes();
        h.next_hdr = PROTOCOL_TCP;
        h.hop_limit = OWN_TTL;
        Self::set_addresses(h, src, dst, 0);
    }

    #[inline(always)]
    fn turn_around(h: &mut Ipv6Hdr) {
        core::mem::swap(&mut h.src_addr, &mut h.dst_addr);
        h.hop_limit = OWN_TTL;
    }
}

/// Judges a packet with extension headers by the first one: TCP behind it to a VIP is not supported; more
/// headers behind it might hide TCP; anything else is the host's.
#[inline(always)]
fn extended(packet: &Packet, frame: &Frame, first: u8, dst: &Addr) -> Reason {
    let Some(&[next]) = packet.header::<[u8; 1]>(frame.l3 + V6::LEN) else { return Reason::ShortFrame };
    if next == PROTOCOL_ICMPV6 {
        return Reason::IcmpOther;
    }
    if !matches!(
        next,
        PROTOCOL_TCP | EXTENSION_HOP_BY_HOP | EXTENSION_ROUTING | EXTENSION_FRAGMENT | EXTENSION_DESTINATION
    ) {
        return Reason::OtherProtocol;
    }
    let reason = if first == EXTENSION_FRAGMENT { Reason::Fragment } else { Reason::IpOptions };
    service::judge(dst, reason)
}

/// An IPv6 address from packet memory.
#[inline(always)]
pub(crate) fn address(bytes: &[u8; 16]) -> Addr {
    let p = bytes.as_ptr().cast::<u64>();
    // SAFETY: 16 bytes are two words; read without alignment.
    Addr::from_words(unsafe { [p.read_unaligned(), p.add(1).read_unaligned()] })
}

/// An IPv6 address for packet memory.
#[inline(always)]
fn bytes(a: &Addr) -> [u8; 16] {
    // SAFETY: two words are 16 bytes, and every bit pattern is a value of both types.
    unsafe { core::mem::transmute::<[u64; 2], [u8; 16]>(a.words()) }
}
