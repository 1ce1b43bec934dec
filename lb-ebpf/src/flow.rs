//! Finding a packet's flow.

use lb_common::addr::Addr;
use lb_common::backend::Backend;
use lb_common::flow::{Ctrl, Slot, State, WAYS};
use lb_common::hash::{flow_hash, place, preferred_way, second_hash, tag};
use lb_common::hint::{first_way, ways_with_tag, without_first};
use lb_common::node::{MAX_SNAT_RANGES, Node};
use lb_common::service::Service;

use crate::parse::Segment;
use crate::step::Position;
use crate::{atomic, maps};

/// Slots of a bucket as an index factor.
pub(crate) const WAYS_U32: u32 = WAYS as u32;

/// A flow that a packet belongs to.
pub(crate) struct Hit {
    pub(crate) slot: *mut Slot,
    /// The control word as it was read before the key was compared.
    pub(crate) ctrl: Ctrl,
    pub(crate) position: Position,
    pub(crate) service: &'static Service,
}

impl Hit {
    /// Whether the backend has not answered yet.
    #[inline(always)]
    pub(crate) fn is_unanswered(&self) -> bool {
        matches!(self.ctrl.state(), State::Syn)
    }

    /// Whether the flow has ended, so that a SYN of the same tuple begins another.
    #[inline(always)]
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.ctrl.state(), State::Closed)
    }

    /// The backend of the flow, unless its id has been given to another.
    #[inline(always)]
    pub(crate) fn backend(&self) -> Option<&'static Backend> {
        let backend = maps::BACKENDS.get(u32::from(self.ctrl.backend()))?;
        (backend.is_live() && backend.generation == self.ctrl.generation()).then_some(backend)
    }

    /// Index of the bucket over all blocks.
    #[inline(always)]
    pub(crate) fn bucket(&self, node: &Node) -> u32 {
        self.position.block() * node.buckets + self.position.offset() / WAYS_U32
    }
}

/// Reads a slot's control word once.
#[inline(always)]
pub(crate) fn ctrl(slot: *mut Slot) -> Ctrl {
    // SAFETY: `slot` points into `FLOWS`; volatile, because other CPUs change it.
    Ctrl(unsafe { (&raw const (*slot).ctrl).read_volatile() })
}

/// What a client's flow is known by. Ports are in network order.
pub(crate) struct Tuple<'a> {
    pub(crate) client: &'a Addr,
    pub(crate) client_port: u16,
    pub(crate) vip: &'a Addr,
    pub(crate) vip_port: u16,
}

impl<'a> Tuple<'a> {
    /// Of a packet from a client.
    #[inline(always)]
    pub(crate) fn of(segment: &'a Segment) -> Self {
        Self { client: &segment.src, client_port: segment.sport, vip: &segment.dst, vip_port: segment.dport }
    }
}

/// The flow of a packet from a client.
#[inline(always)]
pub(crate) fn of_client(node: &Node, tuple: &Tuple<'_>) -> Option<Hit> {
    let (first, blocks) =
        if tuple.client.is_v4() { (node.v4_first, node.v4_blocks) } else { (node.v6_first, node.v6_blocks) };
    let mut hash = flow_hash(node.hash_key, tuple.client, tuple.client_port, tuple.vip, tuple.vip_port);
    // Most flows stand where they would rather stand. Then the hint, a second cache line, is not read at all.
    let wanted = place(hash, blocks, node.buckets);
    if let Some(hit) = in_way(node, first + wanted.block, wanted.bucket, preferred_way(hash), tuple) {
        return Some(hit);
    }
    let tag = tag(hash);
    for _ in 0..2 {
        let place = place(hash, blocks, node.buckets);
        let block = first + place.block;
        let hint = maps::HINTS.get(block * node.buckets + place.bucket)?;
        let mut ways = ways_with_tag(hint.tags, tag);
        for _ in 0..WAYS {
            if ways == 0 {
                break;
            }
            if let Some(hit) = in_way(node, block, place.bucket, first_way(ways), tuple) {
                return Some(hit);
            }
            ways = without_first(ways);
        }
        hash = second_hash(hash);
    }
    None
}

/// The flow in a way of a bucket, if it is the tuple's.
#[inline(always)]
fn in_way(node: &Node, block: u32, bucket: u32, way: u32, tuple: &Tuple<'_>) -> Option<Hit> {
    let slot = maps::FLOWS.get_ptr_mut((block * node.buckets + bucket) * WAYS_U32 + way)?;
    let (ctrl, service) = matches(slot, tuple)?;
    Some(Hit { slot, ctrl, position: Position::new(block, bucket * WAYS_U32 + way), service })
}

/// Whether a slot is the flow's. The control word is read first: see the module page of `lb_common::flow`.
#[inline(always)]
fn matches(slot: *mut Slot, tuple: &Tuple<'_>) -> Option<(Ctrl, &'static Service)> {
    let ctrl = ctrl(slot);
    // SAFETY: `slot` points into `FLOWS`. A torn read can only fail the comparison or belong to a slot that is
    // being reused for the very same tuple.
    let same = unsafe { (*slot).client == *tuple.client && (*slot).client_port == tuple.client_port };
    if !same || !ctrl.is_used() {
        return None;
    }
    let service = maps::SERVICES.get(u32::from(ctrl.service()))?;
    (service.vip == *tuple.vip && service.port == tuple.vip_port).then_some((ctrl, service))
}

/// The client's flow at a position where the caller has just opened it; unless the slot, which is embryonic, has been
/// given away since.
#[inline(always)]
pub(crate) fn at(node: &Node, position: Position, segment: &Segment) -> Option<Hit> {
    let size = node.buckets * WAYS_U32;
    let slot = maps::FLOWS.get_ptr_mut(position.block() * size + position.offset())?;
    let (ctrl, service) = matches(slot, &Tuple::of(segment))?;
    Some(Hit { slot, ctrl, position, service })
}

/// Whether the slot of an embryonic flow was given to another client, or the flow to another backend, since it was
/// looked up. What was read from the
/// slot before this answer belongs to the segment's flow if it is no.
#[inline(always)]
pub(crate) fn is_lost(hit: &Hit, segment: &Segment) -> bool {
    if !hit.ctrl.is_embryonic() {
        return false;
    }
    // The control word first: see `matches`.
    let ctrl = ctrl(hit.slot);
    let used = ctrl.is_used() && ctrl.backend() == hit.ctrl.backend();
    // SAFETY: points into `FLOWS`.
    let same = unsafe { (*hit.slot).client == segment.src && (*hit.slot).client_port == segment.sport };
    !(used && same)
}

/// The flow of a packet from a backend, found by its destination alone and checked against its source.
#[inline(always)]
pub(crate) fn of_reply(node: &Node, segment: &Segment) -> Option<Hit> {
    of_snat(node, &segment.dst, segment.dport, &segment.src, segment.sport)
}

/// The flow that holds a SNAT address and port, if its backend is the one given (ports in network order).
#[inline(always)]
pub(crate) fn of_snat(node: &Node, snat: &Addr, snat_port: u16, backend: &Addr, port: u16) -> Option<Hit> {
    // The port first: most packets of clients go to one that is in no SNAT range.
    let offset = u32::from(u16::from_be(snat_port)).wrapping_sub(node.port_base);
    let size = node.buckets * WAYS_U32;
    if offset >= size {
        return None;
    }
    let block = block_of(node, snat)?;
    let slot = maps::FLOWS.get_ptr_mut(block * size + offset)?;
    let ctrl = ctrl(slot);
    if !ctrl.is_used() {
        return None;
    }
    let service = maps::SERVICES.get(u32::from(ctrl.service()))?;
    let hit = Hit { slot, ctrl, position: Position::new(block, offset), service };
    let owner = hit.backend()?;
    (owner.addr == *backend && owner.port == port).then_some(hit)
}

/// The block of a SNAT address.
#[inline(always)]
fn block_of(node: &Node, address: &Addr) -> Option<u32> {
    for i in 0..MAX_SNAT_RANGES {
        if i as u32 >= node.range_count {
            return None;
        }
        let range = &node.ranges[i];
        if let Some(offset) = address.offset_from(&range.base)
            && offset < range.count
        {
            return Some(range.first_block + offset);
        }
    }
    None
}

/// Swaps a slot's control word.
#[inline(always)]
pub(crate) fn swap(slot: *mut Slot, old: Ctrl, new: Ctrl) -> bool {
    // SAFETY: `slot` points into `FLOWS`; `ctrl` is its first, aligned word.
    unsafe { atomic::compare_and_swap(&raw mut (*slot).ctrl, old.0, new.0) }
}
