//! Making a flow: a backend first, then a slot, whose index is the flow's source port.

use lb_common::addr::Addr;
use lb_common::backend::Backend;
use lb_common::checksum::{addr_sum, delta};
use lb_common::flow::{Ctrl, Slot, State};
use lb_common::hash::{Place, RING_KEY, flow_hash, place, preferred_way, second_hash, tag};
use lb_common::hint::{
    Hint, age, first_way, oldest_ways, second_bucket_first, unprotected_ways, unused_ways, way_or_first,
};
use lb_common::node::Node;
use lb_common::offer::Offer;
use lb_common::reason::Reason;

use crate::arrival::{self, Arrival};
use crate::family::Family;
use crate::flow::{self, WAYS_U32};
use crate::packet::{self, Packet};
use crate::parse::{Frame, Segment};
use crate::step::Position;
use crate::{books, clock, hints, maps, parts, select, service, stats};

/// How many slots a claim looks at before it takes its second choice.
const TRIES: usize = 4;

/// Opens a flow for a SYN that belongs to none, or says why the packet is not one. `known` is the place of a closed
/// flow of the same tuple: its slot is used again, so that a tuple never has two.
#[inline(always)]
pub(crate) fn open<F: Family>(packet: &Packet, known: Position) -> Result<Position, Reason> {
    let node = maps::NODE.get(0).ok_or(Reason::Internal)?;
    let Arrival { frame, segment } = arrival::get().ok_or(Reason::Internal)?;
    let (service_id, service) = service::find(&segment.dst, segment.dport).ok_or(Reason::NoService)?;
    if !segment.is_syn() {
        return Err(Reason::FlowUnknown);
    }
    // Checked here, too, so that a packet that goes no further leaves no flow behind.
    if segment.ttl <= 1 {
        return Err(Reason::TtlExpired);
    }
    let hash = |key| flow_hash(key, &segment.src, segment.sport, &segment.dst, segment.dport);
    let (backend_id, backend) = select::backend(service_id, service, hash(RING_KEY))?;
    let ctrl = Ctrl::new(State::Syn, service_id, backend_id, backend.generation);
    let table_hash = hash(node.hash_key);
    let place = if known.is_some() { known } else { Position::NONE };
    let claimed = take_slot(table_hash, ctrl.0, place.0, segment.src.is_v4());
    if claimed == NOTHING {
        count(service_id, |s| &mut s.table_full);
        return Err(Reason::TableFull);
    }
    let position = Position(claimed as u32);
    parts::options(packet.context(), (frame.l3 + F::LEN) as u32);
    let offer = maps::OPTIONS.get(0).ok_or(Reason::Internal)?.offer.with_data(segment.payload);
    publish(node, frame, segment, position, &Opening { ctrl, backend, tag: tag(table_hash), offer: &offer });
    count(service_id, |s| &mut s.new_flows);
    if claimed & RECYCLED != 0 {
        count(service_id, |s| &mut s.recycled_embryonic);
    }
    if claimed & UNRESTED != 0 {
        count(service_id, |s| &mut s.reused_unrested);
    }
    Ok(position)
}

/// [`take_slot`]: there is no slot to be had.
const NOTHING: u64 = u64::MAX;
/// [`take_slot`]: the slot was an embryonic flow's.
const RECYCLED: u64 = 1 << 32;
/// [`take_slot`]: the slot's port has not rested for the flow's backend.
const UNRESTED: u64 = 1 << 33;

/// Takes a slot and settles the books; its position with `RECYCLED` and `UNRESTED`, or `NOTHING`.
#[inline(never)]
fn take_slot(hash: u64, ctrl: u64, known: u32, v4: bool) -> u64 {
    let ctrl = Ctrl(ctrl);
    let Some(node) = maps::NODE.get(0) else { return NOTHING };
    let known = Position(known);
    let claimed = if known.is_some() { reclaim(node, known, ctrl) } else { claim(node, v4, hash, ctrl) };
    let Some(claimed) = claimed else { return NOTHING };
    books::retire(claimed.before);
    books::add_flows(ctrl, 1);
    stats::new_flow(ctrl.backend());
    let recycled = if claimed.before.is_embryonic() { RECYCLED } else { 0 };
    let unrested = if claimed.unrested { UNRESTED } else { 0 };
    u64::from(claimed.position.0) | recycled | unrested
}

#[inline(always)]
fn slot_at(node: &Node, position: Position) -> Option<*mut Slot> {
    maps::FLOWS.get_ptr_mut(position.block() * node.buckets * WAYS_U32 + position.offset())
}

/// A slot that is ours to write: its control word is `Claiming`.
struct Claimed {
    position: Position,
    /// The control word that it had.
    before: Ctrl,
    /// Whether its port has not rested for this backend.
    unrested: bool,
}

/// Takes the slot of a closed flow of the same tuple. The client's own stack sees to it that the new
/// connection's sequence numbers follow the old one's (RFC 6191), so there is no rest to wait for.
#[inline(always)]
fn reclaim(node: &Node, position: Position, ctrl: Ctrl) -> Option<Claimed> {
    let slot = slot_at(node, position)?;
    let before = flow::ctrl(slot);
    if before.state() != State::Closed {
        return None;
    }
    take(position, slot, before, ctrl, false)
}

/// Takes the best slot of the two buckets where a flow with this hash may stand.
#[inline(always)]
fn claim(node: &Node, v4: bool, hash: u64, ctrl: Ctrl) -> Option<Claimed> {
    let (first, blocks) = if v4 { (node.v4_first, node.v4_blocks) } else { (node.v6_first, node.v6_blocks) };
    if blocks == 0 {
        return None;
    }
    let places = [place(hash, blocks, node.buckets), place(second_hash(hash), blocks, node.buckets)];
    let hints = [hint(node, first, places[0])?, hint(node, first, places[1])?];
    let at = |bucket: usize, way: u32| {
        let place = places[bucket & 1];
        Position::new(first + place.block, place.bucket * WAYS_U32 + way)
    };
    let now = clock::now();

    // Never used: nothing to look at.
    let free = [unused_ways(hints[0].tags), unused_ways(hints[1].tags)];
    let preferred = usize::from(second_bucket_first(free));
    for bucket in [preferred, preferred ^ 1] {
        if free[bucket & 1] != 0 {
            let position = at(bucket, way_or_first(free[bucket & 1], preferred_way(hash)));
            let slot = slot_at(node, position)?;
            let before = flow::ctrl(slot);
            if before.state() == State::Free
                && let Some(claimed) = take(position, slot, before, ctrl, false)
            {
                return Some(claimed);
            }
        }
    }

    // Rested: where a lookup begins, if it is one of those.
    let position = at(0, preferred_way(hash));
    let slot = slot_at(node, position)?;
    let before = flow::ctrl(slot);
    if (!before.is_open() || before.is_embryonic())
        && rest_of(node, slot, before, ctrl, now).is_over
        && let Some(claimed) = take(position, slot, before, ctrl, false)
    {
        return Some(claimed);
    }

    // Not protected: of a flow that is over and has rested for this backend, the longest ago first; otherwise the
    // best of those that were looked at.
    let mut masks = [unprotected_ways(hints[0].tags), unprotected_ways(hints[1].tags)];
    let mut second_choice = Position::NONE;
    let mut second_rank = RANKS;
    for _ in 0..TRIES {
        let oldest = oldest_ways(masks, [hints[0].ages, hints[1].ages], age(now));
        if oldest[0] | oldest[1] == 0 {
            break;
        }
        let bucket = usize::from(oldest[0] == 0);
        let way = first_way(oldest[bucket & 1]);
        masks[bucket & 1] &= !(0x80 << (way * 8));
        let position = at(bucket, way);
        let slot = slot_at(node, position)?;
        let before = flow::ctrl(slot);
        if before.is_open() && !before.is_embryonic() {
            continue;
        }
        // The second embryonic flow in a row of the oldest: this is a flood, and looking further is in vain.
        if second_rank == 0 && before.is_embryonic() {
            break;
        }
        let rest = rest_of(node, slot, before, ctrl, now);
        if rest.is_over || (rest.other && !before.is_embryonic()) {
            if let Some(claimed) = take(position, slot, before, ctrl, false) {
                return Some(claimed);
            }
            continue;
        }
        let rank = rank(before, &rest);
        if rank < second_rank {
            second_rank = rank;
            second_choice = position;
        }
    }
    if second_choice.is_some() {
        let slot = slot_at(node, second_choice)?;
        let before = flow::ctrl(slot);
        if before.state() != State::Established
            && let Some(claimed) = take(second_choice, slot, before, ctrl, before.state() == State::Closed)
        {
            return Some(claimed);
        }
    }
    last_resort(node, [at(0, 0), at(1, 0)], ctrl, now)
}

/// How long a slot has been silent, as seen by a flow that wants it.
struct Rest {
    /// Longer than its port must rest.
    is_over: bool,
    /// It served another backend, which knows nothing of its port.
    other: bool,
}

#[inline(always)]
fn rest_of(node: &Node, slot: *mut Slot, before: Ctrl, ctrl: Ctrl, now: u32) -> Rest {
    // SAFETY: points into `FLOWS`.
    let is_over = unsafe { (*slot).silence(before, now) } > node.rest_ticks;
    let other = before.backend() != ctrl.backend() || before.generation() != ctrl.generation();
    Rest { is_over, other }
}

/// Number of [`rank`]s.
const RANKS: u32 = 3;

/// Which of the slots that are not ready is taken first. A backend that was sent a SYN from a port will not believe
/// another one for as long as it tries to answer the first.
#[inline(always)]
fn rank(before: Ctrl, rest: &Rest) -> u32 {
    match (before.is_embryonic(), rest.other) {
        (true, true) => 0,
        (true, false) => 1,
        (false, _) => 2,
    }
}

/// An established flow that both sides have left without a word; or a closed one whose hint says that it is not.
#[inline(always)]
fn last_resort(node: &Node, starts: [Position; 2], ctrl: Ctrl, now: u32) -> Option<Claimed> {
    for start in starts {
        for way in 0..WAYS_U32 {
            let position = Position::new(start.block(), start.offset() + way);
            let slot = slot_at(node, position)?;
            let before = flow::ctrl(slot);
            // SAFETY: points into `FLOWS`.
            let silence = unsafe { (*slot).silence(before, now) };
            let idle = matches!(before.state(), State::Established) && silence > node.idle_ticks;
            if idle && !before.is_waiting() || matches!(before.state(), State::Closed) {
                let rest = rest_of(node, slot, before, ctrl, now);
                return take(position, slot, before, ctrl, !(rest.is_over || rest.other));
            }
        }
    }
    None
}

#[inline(always)]
fn hint(node: &Node, first: u32, place: Place) -> Option<&'static Hint> {
    maps::HINTS.get((first + place.block) * node.buckets + place.bucket)
}

/// Swaps a slot to `Claiming`, if it is still as it was when it was chosen.
#[inline(always)]
fn take(position: Position, slot: *mut Slot, before: Ctrl, ctrl: Ctrl, unrested: bool) -> Option<Claimed> {
    if matches!(before.state(), State::Claiming) {
        return None;
    }
    flow::swap(slot, before, ctrl.with_state(State::Claiming)).then_some(Claimed {
        position,
        before,
        unrested,
    })
}

/// A flow that is being made.
struct Opening<'a> {
    ctrl: Ctrl,
    backend: &'a Backend,
    tag: u8,
    offer: &'a Offer,
}

/// Writes the flow into its slot and makes it visible.
#[inline(always)]
fn publish(node: &Node, frame: &Frame, segment: &Segment, position: Position, new: &Opening<'_>) {
    let Opening { ctrl, backend, tag, offer } = *new;
    let bucket = position.block() * node.buckets + position.offset() / WAYS_U32;
    let (Some(slot), Some(hint), Some(snat)) =
        (slot_at(node, position), maps::HINTS.get_ptr_mut(bucket), maps::SNAT.get(position.block()))
    else {
        return;
    };
    let now = clock::now();
    let port = (node.port_base + position.offset()) as u16;
    let (ip_delta, l4_delta) = deltas(
        (&segment.src, &segment.dst, segment.sport, segment.dport),
        (snat, &backend.addr, port.to_be(), backend.port),
    );
    // SAFETY: points into `FLOWS`, and the slot is ours while its control word is `Claiming`.
    unsafe {
        (*slot).client = segment.src;
        (*slot).client_seen = now;
        (*slot).backend_seen = offer.sizes;
        (*slot).waiting_since = offer.timestamp;
        (*slot).client_next = segment.seq.wrapping_add(1);
        (*slot).backend_next = offer.rest;
        (*slot).client_port = segment.sport;
        (*slot).l4_delta = l4_delta;
        (*slot).ip_delta = ip_delta;
        (*slot).vlan = frame.vlan;
        packet::copy_mac(&mut (*slot).mac, &frame.mac);
        (*slot).port_index = frame.port_index;
        (*slot).reserved = 0;
    }
    hints::write_hint(hint, position.offset() % WAYS_U32, tag, age(now));
    // The swap is a full barrier: whoever sees the state sees the fields. It cannot fail, the slot is ours.
    let _ = flow::swap(slot, ctrl.with_state(State::Claiming), ctrl);
}

/// Two addresses and two ports (network order).
type Ends<'a> = (&'a Addr, &'a Addr, u16, u16);

/// What a rewrite changes in the checksums of the IPv4 header and of TCP.
#[inline(always)]
pub(crate) fn deltas(old: Ends<'_>, new: Ends<'_>) -> (u16, u16) {
    let addresses = |e: Ends<'_>| addr_sum(e.0) + addr_sum(e.1);
    let all = |e: Ends<'_>| addresses(e) + u64::from(e.2) + u64::from(e.3);
    (delta(addresses(old), addresses(new)), delta(all(old), all(new)))
}

#[inline(always)]
fn count(service: u16, field: impl Fn(&mut lb_common::stats::ServiceStats) -> &mut u64) {
    if let Some(stats) = maps::SERVICE_STATS.get_ptr_mut(u32::from(service)) {
        // SAFETY: this CPU's own value.
        *field(unsafe { &mut *stats }) += 1;
    }
}
