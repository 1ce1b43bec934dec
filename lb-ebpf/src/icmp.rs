//! ICMP and ICMPv6: echo to a VIP is answered; errors about a flow follow it to the other side.
//!
//! An error carries the packet that caused it. Its addresses and ports are those that we wrote, so the receiver
//! would not know it: it is rewritten as the flow's packets are, backwards (RFC 5508 §4, RFC 792, RFC 4443).

use lb_common::addr::Addr;
use lb_common::backend::Backend;
use lb_common::checksum::{addr_sum, apply, delta, fold};
use lb_common::headers::{Ethernet, Icmp, Tcp};
use lb_common::node::Node;
use lb_common::reason::Reason;
use network_types::ip::Ipv4Hdr;

use crate::family::Family;
use crate::flow::{self, Hit, Tuple};
use crate::forward::{Action, Hop, emit};
use crate::packet::{Both, Packet, Wire};
use crate::parse::{Frame, Ip};
use crate::{maps, parse, service};

/// The 8 bytes of layer 4 that every ICMP error holds (RFC 792): for TCP both ports and the sequence number.
type Ports = [[u8; 2]; 4];

// SAFETY: bytes.
unsafe impl Wire for Ports {}

/// An ICMP header, the header of the packet that it is about, and that one's ports.
type About<F> = Both<Icmp, Both<<F as Family>::Header, Ports>>;

/// What the addresses and ports become, outside and in the embedded packet (ports in network order).
struct Rewrite<'a> {
    outer: (&'a Addr, &'a Addr),
    inner: (&'a Addr, &'a Addr),
    ports: (u16, u16),
}

/// Every ICMP packet that is addressed to one of our MACs.
#[inline(always)]
pub(crate) fn handle<F: Family>(packet: &mut Packet) -> Result<Action, Reason> {
    let node = maps::NODE.get(0).ok_or(Reason::Internal)?;
    let frame = parse::frame::<true>(packet, node)?;
    let ip = F::parse(packet, &frame)?;
    let icmp = packet.header::<Icmp>(frame.l3 + F::LEN).ok_or(Reason::IcmpOther)?;
    if icmp.kind == F::ECHO_REQUEST && icmp.code == 0 {
        return Err(echo::<F>(packet, &frame, &ip));
    }
    if !F::is_error(icmp.kind) {
        return Err(Reason::IcmpOther);
    }
    error::<F>(packet, node, &frame, &ip)
}

/// Turns an echo request to a VIP into its reply.
#[inline(always)]
fn echo<F: Family>(packet: &mut Packet, frame: &Frame, ip: &Ip) -> Reason {
    if service::vip(&ip.dst).is_none() {
        return Reason::IcmpOther;
    }
    let Some(headers) = packet.header_mut::<Both<F::Header, Icmp>>(frame.l3) else { return Reason::Internal };
    F::turn_around(&mut headers.first);
    let change = delta(u64::from(F::ECHO_REQUEST), u64::from(F::ECHO_REPLY));
    headers.second.kind = F::ECHO_REPLY;
    headers.second.check = apply(headers.second.check(), change).to_ne_bytes();
    let Some(ethernet) = packet.header_mut::<Ethernet>(0) else { return Reason::Internal };
    core::mem::swap(&mut ethernet.src, &mut ethernet.dst);
    Reason::EchoReply
}

#[inline(always)]
fn error<F: Family>(
    packet: &mut Packet,
    node: &'static Node,
    frame: &Frame,
    ip: &Ip,
) -> Result<Action, Reason> {
    let Some(about) = packet.header::<About<F>>(frame.l3 + F::LEN) else {
        return Err(service::judge(&ip.dst, Reason::IcmpShort));
    };
    if (ip.len as usize) < F::LEN + size_of::<About<F>>() {
        return Err(service::judge(&ip.dst, Reason::IcmpShort));
    }
    // Only a packet that left with the address that the error came back to is ours.
    let (src, dst) = F::embedded(&about.second.first).ok_or(Reason::IcmpOther)?;
    if src != ip.dst {
        return Err(Reason::IcmpOther);
    }
    let [source, dest, ..] = about.second.second;
    let (sport, dport) = (u16::from_ne_bytes(source), u16::from_ne_bytes(dest));
    if let Some(hit) = flow::of_snat(node, &src, sport, &dst, dport) {
        return to_client::<F>(packet, node, frame, ip, &hit);
    }
    let tuple = Tuple { client: &dst, client_port: dport, vip: &src, vip_port: sport };
    match flow::of_client(node, &tuple) {
        Some(hit) => to_backend::<F>(packet, node, frame, ip, &hit),
        None => Err(service::judge_port(&src, sport, Reason::IcmpNoFlow)),
    }
}

/// The network behind us complains about a packet that went to the backend: tell the client.
#[inline(always)]
fn to_client<F: Family>(
    packet: &mut Packet,
    node: &Node,
    frame: &Frame,
    ip: &Ip,
    hit: &Hit,
) -> Result<Action, Reason> {
    // SAFETY: points into `FLOWS`; see `forward::nat::to_client`.
    let slot = unsafe { &*hit.slot };
    let vip = &hit.service.vip;
    let rewrite = Rewrite {
        outer: (vip, &slot.client),
        inner: (&slot.client, vip),
        ports: (slot.client_port, hit.service.port),
    };
    rewrite_error::<F>(packet, frame, ip, &rewrite)?;
    emit(packet, node, frame, &Hop { port_index: slot.port_index, mac: &slot.mac, vlan: &slot.vlan })
}

/// The network before us complains about a packet that went to the client: tell the backend.
#[inline(always)]
fn to_backend<F: Family>(
    packet: &mut Packet,
    node: &Node,
    frame: &Frame,
    ip: &Ip,
    hit: &Hit,
) -> Result<Action, Reason> {
    let backend: &Backend = hit.backend().ok_or(Reason::BackendGone)?;
    if !backend.is_resolved() {
        return Err(Reason::Unresolved);
    }
    let snat = maps::SNAT.get(hit.position.block()).ok_or(Reason::Internal)?;
    let snat_port = ((node.port_base + hit.position.offset()) as u16).to_be();
    let rewrite = Rewrite {
        outer: (snat, &backend.addr),
        inner: (&backend.addr, snat),
        ports: (backend.port, snat_port),
    };
    rewrite_error::<F>(packet, frame, ip, &rewrite)?;
    emit(packet, node, frame, &Hop { port_index: backend.port_index, mac: &backend.mac, vlan: &backend.vlan })
}

#[inline(always)]
fn rewrite_error<F: Family>(
    packet: &mut Packet,
    frame: &Frame,
    ip: &Ip,
    new: &Rewrite<'_>,
) -> Result<(), Reason> {
    if ip.ttl <= 1 {
        return Err(Reason::TtlExpired);
    }
    let inner_l4 = frame.l3 + F::LEN + size_of::<Icmp>() + F::LEN;
    let sum = |pair: (&Addr, &Addr)| addr_sum(pair.0) + addr_sum(pair.1);
    let outer_delta = delta(addr_sum(&ip.src) + addr_sum(&ip.dst), sum(new.outer));

    let about = packet.header_mut::<About<F>>(frame.l3 + F::LEN).ok_or(Reason::IcmpShort)?;
    let (src, dst) = F::embedded(&about.second.first).ok_or(Reason::IcmpShort)?;
    let inner_delta = delta(addr_sum(&src) + addr_sum(&dst), sum(new.inner));
    let [source, dest, ..] = about.second.second;
    let old_ports = u64::from(u16::from_ne_bytes(source)) + u64::from(u16::from_ne_bytes(dest));
    let ports_delta = delta(old_ports, u64::from(new.ports.0) + u64::from(new.ports.1));
    about.second.second[0] = new.ports.0.to_ne_bytes();
    about.second.second[1] = new.ports.1.to_ne_bytes();
    F::set_addresses(&mut about.second.first, new.inner.0, new.inner.1, inner_delta);

    let check_delta = inner_checksum(packet, ip, frame, inner_l4, inner_delta, ports_delta);
    let mut change = u64::from(ports_delta) + u64::from(check_delta);
    if F::PSEUDO_HEADER {
        // Without a header checksum to cancel them, the embedded addresses count; so do our own.
        change += u64::from(inner_delta) + u64::from(outer_delta);
    }
    let headers = packet.header_mut::<Both<F::Header, Icmp>>(frame.l3).ok_or(Reason::IcmpShort)?;
    F::forward(&mut headers.first, new.outer.0, new.outer.1, outer_delta);
    headers.second.check = apply(headers.second.check(), fold(change)).to_ne_bytes();
    Ok(())
}

/// Mends the embedded segment's own checksum when the error holds so much of it; returns what that changes.
#[inline(always)]
fn inner_checksum(packet: &mut Packet, ip: &Ip, frame: &Frame, at: usize, addresses: u16, ports: u16) -> u16 {
    if frame.l3 + (ip.len as usize) < at + size_of::<Tcp>() {
        return 0;
    }
    let Some(tcp) = packet.header_mut::<Tcp>(at) else { return 0 };
    let before = tcp.check();
    let after = apply(before, fold(u64::from(addresses) + u64::from(ports)));
    tcp.check = after.to_ne_bytes();
    delta(u64::from(before), u64::from(after))
}

const _: () = assert!(size_of::<Ports>() == 8 && size_of::<Ipv4Hdr>() == 20, "sizes that RFC 792 speaks of");
