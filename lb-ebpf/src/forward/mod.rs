//! Sending a frame out: by which interface, with which Ethernet header and tags.

pub(crate) mod nat;
pub(crate) mod own;
pub(crate) mod reset;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_TX};
use lb_common::headers::{Ethernet, VlanTag};
use lb_common::node::{Node, PORT_TX_BY_REDIRECT, Port};
use lb_common::reason::Reason;
use lb_common::vlan::{ETHERTYPE_8021AD, ETHERTYPE_8021Q, VlanTags};

use crate::packet::{Packet, copy_mac};
use crate::parse::Frame;
use crate::{maps, parse};

/// What the kernel is told to do with a finished frame.
#[derive(Clone, Copy)]
#[must_use]
pub(crate) struct Action(u32);

impl Action {
    /// Out by this interface.
    #[inline(always)]
    fn send(port: &Port, packet: &Packet) -> Self {
        if port.ifindex == packet.ingress() && port.flags & PORT_TX_BY_REDIRECT == 0 {
            return Self(XDP_TX);
        }
        // A redirect to an entry that is missing must not leak a rewritten frame to the host.
        Self(maps::DEVICES.redirect(u32::from(port.index), u64::from(XDP_DROP)).unwrap_or(XDP_DROP))
    }

    #[inline(always)]
    pub(crate) fn verdict(self) -> u32 {
        self.0
    }
}

/// Where a frame goes on layer 2.
pub(crate) struct Hop<'a> {
    pub(crate) port_index: u8,
    pub(crate) mac: &'a [u8; 6],
    pub(crate) vlan: &'a VlanTags,
}

/// Sends a frame that was turned into an answer to its own sender.
#[inline(always)]
pub(crate) fn reply(packet: &Packet) -> Action {
    let port = maps::NODE.get(0).and_then(|node| parse::port_of(node, packet.ingress()));
    port.map_or(Action(XDP_DROP), |port| Action::send(port, packet))
}

/// Sends a frame that was turned into an answer back to where it came from, by the MACs that it came with.
#[inline(always)]
pub(crate) fn turn_back(packet: &mut Packet, node: &Node) -> Result<Action, Reason> {
    let ethernet = packet.header_mut::<Ethernet>(0).ok_or(Reason::Resize)?;
    core::mem::swap(&mut ethernet.src, &mut ethernet.dst);
    let port = parse::port_of(node, packet.ingress()).ok_or(Reason::UnknownPort)?;
    Ok(Action::send(port, packet))
}

/// Writes the Ethernet header and the tags for the hop, growing or shrinking the frame when it must carry more
/// or fewer tags than it did.
#[inline(always)]
pub(crate) fn emit(packet: &mut Packet, node: &Node, frame: &Frame, hop: &Hop<'_>) -> Result<Action, Reason> {
    let out = node.ports.get(usize::from(hop.port_index)).ok_or(Reason::Internal)?;
    if frame.vlan.count != hop.vlan.count {
        let surplus = i32::from(frame.vlan.count) - i32::from(hop.vlan.count);
        if !packet.trim_head(surplus * size_of::<VlanTag>() as i32) {
            return Err(Reason::Resize);
        }
    }
    let ethernet = packet.header_mut::<Ethernet>(0).ok_or(Reason::Resize)?;
    copy_mac(&mut ethernet.dst, hop.mac);
    copy_mac(&mut ethernet.src, &out.mac);
    if frame.vlan.count | hop.vlan.count != 0 {
        write_tags(packet, hop.vlan, frame.ethertype)?;
    }
    Ok(Action::send(out, packet))
}

#[inline(always)]
fn write_tags(packet: &mut Packet, vlan: &VlanTags, inner: u16) -> Result<(), Reason> {
    let outer = if vlan.outer_ad != 0 { ETHERTYPE_8021AD } else { ETHERTYPE_8021Q }.to_be();
    let first = if vlan.count == 0 { inner } else { outer };
    packet.header_mut::<Ethernet>(0).ok_or(Reason::Resize)?.ethertype = first.to_ne_bytes();
    for i in 0..2 {
        if i >= vlan.count {
            break;
        }
        let last = i + 1 == vlan.count;
        let next = if last { inner } else { ETHERTYPE_8021Q.to_be() };
        let at = size_of::<Ethernet>() + size_of::<VlanTag>() * usize::from(i);
        let tag = packet.header_mut::<VlanTag>(at).ok_or(Reason::Resize)?;
        tag.tci = vlan.tci[usize::from(i & 1)].to_ne_bytes();
        tag.ethertype = next.to_ne_bytes();
    }
    Ok(())
}
