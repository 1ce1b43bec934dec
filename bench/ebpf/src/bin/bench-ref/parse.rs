//! From bytes to a TCP segment, with the product's checks.

use aya_ebpf::programs::XdpContext;
use lb_bench_ebpf::abi::RefNode;
use lb_bench_ebpf::packet::{self, read, v6_addr};
use lb_common::addr::Addr;
use lb_common::headers::{Ethernet, TCP_LEN, Tcp};
use lb_common::reason::Reason;
use lb_common::service::PROTOCOL_TCP;
use lb_common::tcp::flags_are_odd;

/// Length of the Ethernet header in bytes.
pub(crate) const L3: usize = size_of::<Ethernet>();

/// What is read of a packet. Ports are in network order.
pub(crate) struct Segment {
    pub(crate) src: Addr,
    pub(crate) dst: Addr,
    pub(crate) sport: u16,
    pub(crate) dport: u16,
    pub(crate) flags: u8,
    pub(crate) ttl: u8,
    /// Bytes of the IP packet.
    pub(crate) len: u32,
}

/// Layer 3.
pub(crate) struct Ip {
    src: Addr,
    dst: Addr,
    ttl: u8,
    len: u32,
}

/// An IP version.
pub(crate) trait Family {
    type Header;
    const LEN: usize = size_of::<Self::Header>();
    fn snat(node: &RefNode) -> &Addr;
    fn parse(header: &Self::Header, frame_len: u64) -> Result<Ip, Reason>;
}

pub(crate) struct V4;
pub(crate) struct V6;

impl Family for V4 {
    type Header = packet::V4;

    #[inline(always)]
    fn snat(node: &RefNode) -> &Addr {
        &node.snat[0]
    }

    #[inline(always)]
    fn parse(h: &packet::V4, frame_len: u64) -> Result<Ip, Reason> {
        let len = u32::from(u16::from_be_bytes(h.len));
        if h.vihl != 0x45 || h.frags[0] & 0x3f != 0 || h.frags[1] != 0 {
            return Err(Reason::IpHeader);
        }
        if h.protocol != PROTOCOL_TCP {
            return Err(Reason::OtherProtocol);
        }
        if len < Self::LEN as u32 || u64::from(len) + L3 as u64 > frame_len {
            return Err(Reason::IpLength);
        }
        let word = |b| Addr::from_v4_word(u32::from_ne_bytes(b));
        Ok(Ip { src: word(h.src), dst: word(h.dst), ttl: h.ttl, len })
    }
}

impl Family for V6 {
    type Header = packet::V6;

    #[inline(always)]
    fn snat(node: &RefNode) -> &Addr {
        &node.snat[1]
    }

    #[inline(always)]
    fn parse(h: &packet::V6, frame_len: u64) -> Result<Ip, Reason> {
        let len = u32::from(u16::from_be_bytes(h.len)) + Self::LEN as u32;
        if h.vcf[0] >> 4 != 6 {
            return Err(Reason::IpHeader);
        }
        if h.protocol != PROTOCOL_TCP {
            return Err(Reason::OtherProtocol);
        }
        if u64::from(len) + L3 as u64 > frame_len {
            return Err(Reason::IpLength);
        }
        Ok(Ip { src: v6_addr(&h.src), dst: v6_addr(&h.dst), ttl: h.ttl, len })
    }
}

/// Reads a frame.
#[inline(always)]
pub(crate) fn segment<F: Family>(context: &XdpContext, node: &RefNode) -> Result<Segment, Reason> {
    let ethernet = packet::at::<Ethernet>(context, 0).ok_or(Reason::ShortFrame)?;
    let frame_len = (context.data_end() - context.data()) as u64;
    if context.ingress_ifindex() as u32 != node.ifindex {
        return Err(Reason::UnknownPort);
    }
    // SAFETY: in bounds, by `at`; the MAC of the map has six bytes.
    if !unsafe { same_mac(&(*ethernet).dst, &node.mac) } {
        return Err(Reason::NotLocal);
    }
    let header = packet::at::<F::Header>(context, L3).ok_or(Reason::ShortFrame)?;
    // SAFETY: in bounds, by `at`; headers have alignment 1.
    let ip = F::parse(unsafe { &*header }, frame_len)?;
    let tcp = packet::at::<Tcp>(context, L3 + F::LEN).ok_or(Reason::ShortFrame)?;
    // SAFETY: as above.
    let tcp = unsafe { &*tcp };
    let room = ip.len.wrapping_sub(F::LEN as u32);
    let header_len = tcp.header_len();
    if room < TCP_LEN as u32 || header_len < TCP_LEN as u32 || header_len > room {
        return Err(Reason::TcpOffset);
    }
    if flags_are_odd(tcp.flags) {
        return Err(Reason::TcpFlags);
    }
    Ok(Segment {
        src: ip.src,
        dst: ip.dst,
        sport: tcp.source(),
        dport: tcp.dest(),
        flags: tcp.flags,
        ttl: ip.ttl,
        len: ip.len,
    })
}

#[inline(always)]
fn same_mac(a: &[u8; 6], b: &[u8; 6]) -> bool {
    let (a, b) = (a.as_ptr(), b.as_ptr());
    // SAFETY: four and two bytes of six.
    unsafe { read::<u32>(a) == read::<u32>(b) && read::<u16>(a.add(4)) == read::<u16>(b.add(4)) }
}
