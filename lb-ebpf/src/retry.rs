//! A SYN that its backend refused, or did not answer, goes to another one. The client never knows.
//!
//! The flow stays in its slot, so it keeps its source port; what the client offered is in the slot, too
//! ([`lb_common::offer`]).

use lb_common::abi::ticks;
use lb_common::flow::{Ctrl, Slot, State};
use lb_common::hash::{RING_KEY, flow_hash};
use lb_common::node::Node;
use lb_common::offer::Offer;
use lb_common::reason::Reason;
use lb_common::service::Service;
use lb_common::stats::{REFUSED, UNANSWERED};
use lb_common::tcp::SYN;

use crate::claim::deltas;
use crate::family::Family;
use crate::flow::{self, Hit};
use crate::forward::own::Own;
use crate::forward::{Action, Hop, emit};
use crate::packet::Packet;
use crate::parse::Segment;
use crate::select::{self, Choice};
use crate::step::Position;
use crate::{books, clock, maps, parse, stats};

/// How long a client waits for an answer before a SYN that it sends again is a sign of the backend's silence, in ticks.
/// Stacks send it again after a second (RFC 6298 §2.1).
const PATIENCE: u32 = ticks(900_000_000);

/// Whether a client's packet is its SYN again, after the backend has left the first one unanswered.
#[inline(always)]
pub(crate) fn is_due(hit: &Hit, segment: &Segment) -> bool {
    // SAFETY: points into `FLOWS`.
    hit.is_unanswered()
        && segment.is_syn()
        && clock::now().wrapping_sub(unsafe { (*hit.slot).client_seen }) > PATIENCE
}

/// Moves the flow at a position to another backend, if there is one; a client's SYN has come again.
#[inline(always)]
pub(crate) fn unanswered<F: Family>(packet: &Packet, position: Position) -> Result<(), Reason> {
    let node = maps::NODE.get(0).ok_or(Reason::Internal)?;
    let frame = parse::frame::<true>(packet, node)?;
    let segment = parse::segment::<F>(packet, &frame, &F::parse(packet, &frame)?)?;
    let hit = flow::at(node, position, &segment).ok_or(Reason::TableFull)?;
    if !hit.is_unanswered() {
        return Ok(());
    }
    stats::unanswered(hit.ctrl.backend());
    books::failed(hit.ctrl, UNANSWERED);
    // SAFETY: points into `FLOWS`. The time is of the client's side, and it is this packet's.
    unsafe { (*hit.slot).client_seen = clock::now() };
    let _ = move_on(node, &hit);
    Ok(())
}

/// Turns a backend's RST in answer to our SYN into a SYN to another backend, if there is one.
#[inline(always)]
pub(crate) fn refused<F: Family>(packet: &mut Packet) -> Result<Option<Action>, Reason> {
    let node = maps::NODE.get(0).ok_or(Reason::Internal)?;
    let frame = parse::frame::<true>(packet, node)?;
    let segment = parse::segment::<F>(packet, &frame, &F::parse(packet, &frame)?)?;
    let hit = flow::of_reply(node, &segment).ok_or(Reason::TableFull)?;
    if !hit.is_unanswered() {
        return Err(Reason::TableFull);
    }
    stats::refused(hit.ctrl.backend());
    books::failed(hit.ctrl, REFUSED);
    let Some((offer, (_, backend))) = move_on(node, &hit) else { return Ok(None) };
    let snat = maps::SNAT.get(hit.position.block()).ok_or(Reason::Internal)?;
    // SAFETY: points into `FLOWS`.
    let seq = unsafe { (*hit.slot).client_next }.wrapping_sub(1);
    let syn = Own {
        src: snat,
        dst: &backend.addr,
        sport: segment.dport,
        dport: backend.port,
        seq,
        ack: 0,
        flags: SYN,
        window: offer.window(),
        options: Some(offer.options()),
    };
    syn.write::<F>(packet, &frame)?;
    stats::count(Reason::SynRetried);
    let hop = Hop { port_index: backend.port_index, mac: &backend.mac, vlan: &backend.vlan };
    emit(packet, node, &frame, &hop).map(Some)
}

/// Gives the flow to a backend that has not had it. `None` if there is none, or not any more to be tried.
#[inline(always)]
fn move_on(node: &Node, hit: &Hit) -> Option<(Offer, Choice)> {
    // SAFETY: points into `FLOWS`; these words are written before the flow is visible, and by moves alone after that.
    let offer = unsafe { (*hit.slot).offer() };
    if offer.retries() >= hit.service.retries {
        return None;
    }
    let offer = offer.after(hit.ctrl.backend());
    let choice = select::another(u32::from(hit.ctrl.service()), hash(hit), &offer.tried())?;
    relocate(node, hit, &offer, choice).then_some((offer, choice))
}

/// The flow's hash on the ring.
#[inline(always)]
fn hash(hit: &Hit) -> u64 {
    // SAFETY: points into `FLOWS`; the key was written before the flow was visible.
    let slot: &Slot = unsafe { &*hit.slot };
    flow_hash(RING_KEY, &slot.client, slot.client_port, &hit.service.vip, hit.service.port)
}

/// Changes the flow's backend in its slot. False when another CPU was first.
#[inline(always)]
fn relocate(node: &Node, hit: &Hit, offer: &Offer, (id, backend): Choice) -> bool {
    let service: &Service = hit.service;
    let Some(snat) = maps::SNAT.get(hit.position.block()) else { return false };
    let next = Ctrl::new(State::Syn, hit.ctrl.service(), id, backend.generation);
    let owned = next.with_state(State::Claiming);
    if !flow::swap(hit.slot, hit.ctrl, owned) {
        return false;
    }
    let sport = ((node.port_base + hit.position.offset()) as u16).to_be();
    // SAFETY: points into `FLOWS`, and the slot is ours while its control word is `Claiming`.
    unsafe {
        let (client, port) = ((*hit.slot).client, (*hit.slot).client_port);
        let before = (&client, &service.vip, port, service.port);
        ((*hit.slot).ip_delta, (*hit.slot).l4_delta) =
            deltas(before, (snat, &backend.addr, sport, backend.port));
        (*hit.slot).backend_seen = offer.sizes;
        (*hit.slot).backend_next = offer.rest;
        (*hit.slot).waiting_since = offer.timestamp;
    }
    // It cannot fail, the slot is ours.
    let _ = flow::swap(hit.slot, owned, next);
    books::add_flows(hit.ctrl, u64::MAX);
    books::add_flows(next, 1);
    stats::moved(hit.ctrl.backend());
    stats::new_flow(id);
    true
}
