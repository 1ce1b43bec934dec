//! Full NAT: towards the backend a packet comes from a SNAT address, towards the client from the VIP.

use lb_common::addr::Addr;
use lb_common::backend::Backend;
use lb_common::checksum::{apply, negate};
use lb_common::headers::Tcp;
use lb_common::node::Node;
use lb_common::reason::Reason;
use lb_common::stats::{FROM_BACKEND, FROM_CLIENT};

use crate::arrival::{self, Arrival};
use crate::family::Family;
use crate::flow::{self, Hit};
use crate::forward::{Action, Hop, emit};
use crate::packet::{Both, Packet};
use crate::parse::{Frame, Segment};
use crate::step::Position;
use crate::{clock, maps, stats, track};

/// Addresses and ports (network order) that a packet gets, and what that changes in its checksums.
struct Rewrite<'a> {
    src: &'a Addr,
    dst: &'a Addr,
    sport: u16,
    dport: u16,
    ip_delta: u16,
    l4_delta: u16,
}

/// A packet of a known flow, from its client.
#[inline(always)]
pub(crate) fn to_backend<F: Family>(
    packet: &mut Packet,
    node: &Node,
    frame: &Frame,
    segment: &Segment,
    hit: &Hit,
) -> Result<Action, Reason> {
    let Some(backend) = hit.backend() else { return Err(lost(node, hit, Reason::BackendGone)) };
    if !backend.is_reachable() {
        let dead = backend.is_dead();
        return Err(if dead { lost(node, hit, Reason::BackendDead) } else { Reason::Unresolved });
    }
    if segment.ttl <= 1 {
        return Err(Reason::TtlExpired);
    }
    let now = track::on_client(node, frame, segment, hit);
    send::<F>(packet, node, frame, segment, &Leg { hit, backend, now })
}

/// The SYN that has opened the flow at a position: all that there is to note has just been written.
#[inline(always)]
pub(crate) fn launch<F: Family>(packet: &mut Packet, position: Position) -> Result<Action, Reason> {
    let node = maps::NODE.get(0).ok_or(Reason::Internal)?;
    let Arrival { frame, segment } = arrival::get().ok_or(Reason::Internal)?;
    let frame = frame.bounded();
    let hit = flow::at(node, position, segment).ok_or(Reason::TableFull)?;
    let backend = hit.backend().ok_or(Reason::BackendGone)?;
    send::<F>(packet, node, &frame, segment, &Leg { hit: &hit, backend, now: clock::now_wide() })
}

/// A packet's way from the balancer to its backend.
struct Leg<'a> {
    hit: &'a Hit,
    backend: &'a Backend,
    now: u64,
}

#[inline(always)]
fn send<F: Family>(
    packet: &mut Packet,
    node: &Node,
    frame: &Frame,
    segment: &Segment,
    leg: &Leg<'_>,
) -> Result<Action, Reason> {
    let Leg { hit, backend, now } = *leg;
    let snat = maps::SNAT.get(hit.position.block()).ok_or(Reason::Internal)?;
    // SAFETY: points into `FLOWS`; written once, before the flow became visible. Volatile, because the order of
    // these reads and those of `is_lost` matters.
    let (ip_delta, l4_delta) = unsafe {
        let slot = hit.slot;
        ((&raw const (*slot).ip_delta).read_volatile(), (&raw const (*slot).l4_delta).read_volatile())
    };
    if flow::is_lost(hit, segment) {
        return Err(Reason::TableFull);
    }
    let sport = ((node.port_base + hit.position.offset()) as u16).to_be();
    let rewrite = Rewrite { src: snat, dst: &backend.addr, sport, dport: backend.port, ip_delta, l4_delta };
    apply_to::<F>(packet, frame, &rewrite)?;
    stats::forwarded(hit.ctrl, FROM_CLIENT, segment, now);
    emit(packet, node, frame, &Hop { port_index: backend.port_index, mac: &backend.mac, vlan: &backend.vlan })
}

/// The flow ends here: its backend will not answer any more.
#[inline(always)]
fn lost(node: &Node, hit: &Hit, reason: Reason) -> Reason {
    track::end(node, hit);
    reason
}

/// A packet of a known flow, from its backend.
#[inline(always)]
pub(crate) fn to_client<F: Family>(
    packet: &mut Packet,
    node: &Node,
    frame: &Frame,
    segment: &Segment,
    hit: &Hit,
) -> Result<Action, Reason> {
    if segment.ttl <= 1 {
        return Err(Reason::TtlExpired);
    }
    let now = track::on_backend(node, segment, hit)?;
    // SAFETY: points into `FLOWS`. The key was written before the flow became visible; the way back is refreshed
    // by the client's packets, and a torn one sends this one packet astray, as a stale one would.
    let slot = unsafe { &*hit.slot };
    let rewrite = Rewrite {
        src: &hit.service.vip,
        dst: &slot.client,
        sport: hit.service.port,
        dport: slot.client_port,
        ip_delta: negate(slot.ip_delta),
        l4_delta: negate(slot.l4_delta),
    };
    apply_to::<F>(packet, frame, &rewrite)?;
    stats::forwarded(hit.ctrl, FROM_BACKEND, segment, now);
    emit(packet, node, frame, &Hop { port_index: slot.port_index, mac: &slot.mac, vlan: &slot.vlan })
}

#[inline(always)]
fn apply_to<F: Family>(packet: &mut Packet, frame: &Frame, rewrite: &Rewrite<'_>) -> Result<(), Reason> {
    let headers = packet.header_mut::<Both<F::Header, Tcp>>(frame.l3).ok_or(Reason::ShortFrame)?;
    F::forward(&mut headers.first, rewrite.src, rewrite.dst, rewrite.ip_delta);
    let tcp = &mut headers.second;
    tcp.source = rewrite.sport.to_ne_bytes();
    tcp.dest = rewrite.dport.to_ne_bytes();
    tcp.check = apply(tcp.check(), rewrite.l4_delta).to_ne_bytes();
    Ok(())
}
