//! From bytes to what the packet path decides on.

use lb_common::addr::Addr;
use lb_common::headers::{Ethernet, TCP_LEN, Tcp, VlanTag};
use lb_common::node::{MAX_PORTS, Node, Port};
use lb_common::offer::{OPTIONS_LEN, OptionReader};
use lb_common::reason::Reason;
use lb_common::service::PROTOCOL_TCP;
use lb_common::tcp::{ACK, SYN, flags_are_odd};
use lb_common::vlan::{ETHERTYPE_8021AD, ETHERTYPE_8021Q, VlanTags};

use crate::family::Family;
use crate::packet::{Packet, same_mac};
use crate::{maps, service};

/// Layer 2 of a frame.
pub(crate) struct Frame {
    /// Index in `Node::ports` of the interface that it came in by.
    pub(crate) port_index: u8,
    /// Whether it is addressed to that interface's own MAC; otherwise to a group.
    pub(crate) local: bool,
    /// Source MAC.
    pub(crate) mac: [u8; 6],
    pub(crate) vlan: VlanTags,
    /// Behind all tags, network order.
    pub(crate) ethertype: u16,
    /// Offset of the layer-3 header in bytes.
    pub(crate) l3: usize,
}

impl Frame {
    /// The same with an offset that the verifier can see the bound of, for one that was kept in a map.
    #[inline(always)]
    pub(crate) fn bounded(&self) -> Self {
        /// Ethernet and two tags are 22 bytes.
        const MASK: usize = 0x1f;
        Self { l3: self.l3 & MASK, ..*self }
    }
}

/// Layer 3 of a packet that is neither a fragment nor carries options.
pub(crate) struct Ip {
    pub(crate) src: Addr,
    pub(crate) dst: Addr,
    pub(crate) protocol: u8,
    /// TTL or hop limit.
    pub(crate) ttl: u8,
    /// Length of the packet in bytes, its header included.
    pub(crate) len: u32,
}

/// Layers 3 and 4 of a TCP segment. Ports are in network order.
pub(crate) struct Segment {
    pub(crate) src: Addr,
    pub(crate) dst: Addr,
    pub(crate) sport: u16,
    pub(crate) dport: u16,
    pub(crate) flags: u8,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    /// Bytes of data.
    pub(crate) payload: u32,
    pub(crate) ttl: u8,
    /// Bytes of the IP packet.
    pub(crate) len: u32,
}

impl Segment {
    /// Whether it asks for a new connection.
    #[inline(always)]
    pub(crate) fn is_syn(&self) -> bool {
        self.flags & (SYN | ACK) == SYN
    }

    /// The sequence number behind it: SYN takes one, FIN is left out because it carries no request.
    #[inline(always)]
    pub(crate) fn next_seq(&self) -> u32 {
        self.seq.wrapping_add(self.payload).wrapping_add(u32::from(self.flags & SYN != 0))
    }
}

/// The ethertype of a frame, network order: that of its first tag if it has one.
#[inline(always)]
pub(crate) fn ethertype(packet: &Packet) -> Option<u16> {
    packet.header::<Ethernet>(0).map(Ethernet::ethertype)
}

/// The ethertype behind one or two tags, network order.
#[inline(always)]
pub(crate) fn inner_ethertype(packet: &Packet) -> Option<u16> {
    let outer = packet.header::<VlanTag>(size_of::<Ethernet>())?.ethertype();
    if !is_tag(outer) {
        return Some(outer);
    }
    packet.header::<VlanTag>(size_of::<Ethernet>() + size_of::<VlanTag>()).map(VlanTag::ethertype)
}

/// Whether an ethertype (network order) announces a tag.
#[inline(always)]
pub(crate) fn is_tag(ethertype: u16) -> bool {
    ethertype == ETHERTYPE_8021Q.to_be() || ethertype == ETHERTYPE_8021AD.to_be()
}

/// Reads Ethernet and up to two tags. With `TAGGED` false the caller knows that there is none, and the compiler leaves out
/// all that is about them.
#[inline(always)]
pub(crate) fn frame<const TAGGED: bool>(packet: &Packet, node: &Node) -> Result<Frame, Reason> {
    let ethernet = packet.header::<Ethernet>(0).ok_or(Reason::ShortFrame)?;
    let port = port_of(node, packet.ingress()).ok_or(Reason::UnknownPort)?;
    let local = same_mac(&ethernet.dst, &port.mac);
    if !local && ethernet.dst[0] & 1 == 0 {
        return Err(Reason::NotLocal);
    }
    let mut frame = Frame {
        port_index: port.index as u8,
        local,
        mac: ethernet.src,
        vlan: VlanTags::default(),
        ethertype: ethernet.ethertype(),
        l3: size_of::<Ethernet>(),
    };
    if !TAGGED {
        return Ok(frame);
    }
    // Tags are counted by arithmetic on the offset and not by the path taken: otherwise the verifier would follow
    // all the rest of the program once for each number of tags.
    let tagged = tags_at(frame.ethertype);
    frame.l3 = opaque(frame.l3 + tagged * size_of::<VlanTag>());
    if tagged != 0 {
        tags(packet, &mut frame)?;
    }
    Ok(frame)
}

/// A value that the compiler knows nothing about.
#[inline(always)]
fn opaque(mut value: usize) -> usize {
    // SAFETY: copies a register to itself (an instruction, because line information is kept for each).
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) value, options(pure, nomem, nostack)) };
    value
}

/// 1 if the ethertype (network order) announces a tag, otherwise 0; without a branch.
#[inline(always)]
fn tags_at(ethertype: u16) -> usize {
    let differs = |other: u16| usize::from(ethertype ^ other.to_be());
    opaque((differs(ETHERTYPE_8021Q) * differs(ETHERTYPE_8021AD)).wrapping_sub(1)) >> 63
}

#[inline(always)]
fn tags(packet: &Packet, frame: &mut Frame) -> Result<(), Reason> {
    frame.vlan.outer_ad = u8::from(frame.ethertype == ETHERTYPE_8021AD.to_be());
    let outer = packet.header::<VlanTag>(size_of::<Ethernet>()).ok_or(Reason::ShortFrame)?;
    frame.vlan.tci[0] = outer.tci();
    frame.ethertype = outer.ethertype();
    frame.vlan.count = 1;
    let tagged = tags_at(frame.ethertype);
    frame.l3 = opaque(frame.l3 + tagged * size_of::<VlanTag>());
    if tagged != 0 {
        let inner = packet
            .header::<VlanTag>(size_of::<Ethernet>() + size_of::<VlanTag>())
            .ok_or(Reason::ShortFrame)?;
        frame.vlan.tci[1] = inner.tci();
        frame.ethertype = inner.ethertype();
        frame.vlan.count = 2;
        if is_tag(frame.ethertype) {
            return Err(Reason::VlanDepth);
        }
    }
    Ok(())
}

/// Reads what a SYN offers into `OPTIONS`. Its header, which begins at `l4`, was found to be whole.
#[inline(always)]
pub(crate) fn options(packet: &Packet, l4: usize) {
    // Its frame's head is no longer than this: a bound that the verifier can see.
    let l4 = l4 & 0x7f;
    let (Some(reader), Some(tcp)) = (maps::OPTIONS.get_ptr_mut(0), packet.header::<Tcp>(l4)) else { return };
    let len = (tcp.header_len() as usize).saturating_sub(TCP_LEN);
    // SAFETY: this CPU's own value, and an XDP program is not interrupted by another on the same CPU.
    let reader: &mut OptionReader = unsafe { &mut *reader };
    let window = u16::from_be_bytes(tcp.window);
    if len == OPTIONS_LEN
        && let Some(options) = packet.header::<[u8; OPTIONS_LEN]>(l4 + TCP_LEN)
        && reader.read_usual(window, options)
    {
        return;
    }
    // With the byte before it: a check of a single byte becomes `data < end`, of which the verifier makes nothing.
    let byte = |at| packet.header::<[u8; 2]>(l4 + TCP_LEN - 1 + at).map(|b| b[1]);
    reader.read(window, len, byte);
}

/// The configured interface with this kernel index.
#[inline(always)]
pub(crate) fn port_of(node: &Node, ifindex: u32) -> Option<&Port> {
    for i in 0..MAX_PORTS {
        if i as u32 >= node.port_count {
            return None;
        }
        if node.ports[i].ifindex == ifindex {
            return Some(&node.ports[i]);
        }
    }
    None
}

/// Reads TCP behind an IP header that is known to be whole.
#[inline(always)]
pub(crate) fn segment<F: Family>(packet: &Packet, frame: &Frame, ip: &Ip) -> Result<Segment, Reason> {
    if ip.protocol != PROTOCOL_TCP {
        return Err(Reason::OtherProtocol);
    }
    let room = ip.len.wrapping_sub(F::LEN as u32);
    if room < TCP_LEN as u32 {
        return Err(service::judge(&ip.dst, Reason::TcpShort));
    }
    let tcp = packet.header::<Tcp>(frame.l3 + F::LEN).ok_or(Reason::ShortFrame)?;
    let header_len = tcp.header_len();
    if header_len < TCP_LEN as u32 || header_len > room {
        return Err(service::judge(&ip.dst, Reason::TcpOffset));
    }
    if flags_are_odd(tcp.flags) {
        return Err(service::judge_port(&ip.dst, tcp.dest(), Reason::TcpFlags));
    }
    Ok(Segment {
        src: ip.src,
        dst: ip.dst,
        sport: tcp.source(),
        dport: tcp.dest(),
        flags: tcp.flags,
        seq: tcp.seq(),
        ack: tcp.ack(),
        payload: room - header_len,
        ttl: ip.ttl,
        len: ip.len,
    })
}
