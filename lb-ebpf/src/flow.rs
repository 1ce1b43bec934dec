//! Finding a packet's flow, and what the packet changes in it.

use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};
use lb_common::abi::ticks;
use lb_common::addr::Addr;
use lb_common::backend::Backend;
use lb_common::flow::{Ctrl, Side, Slot, State, WAYS};
use lb_common::hash::{flow_hash, place, preferred_way, second_hash, tag};
use lb_common::hint::{Hint, TAG_PROTECTED, age, first_way, ways_with_tag, without_first};
use lb_common::node::{MAX_SNAT_RANGES, Node};
use lb_common::service::{SERVICE_REQUESTS, Service};
use lb_common::tcp::{RST, SYN, after};

use crate::parse::{Frame, Segment};
use crate::step::Position;
use crate::{atomic, maps, packet, stats};

/// Slots of a bucket as an index factor.
pub(crate) const WAYS_U32: u32 = WAYS as u32;

/// A RST further than this from the sequence number that we expect does not end a flow: the receiver will not
/// believe it either, and a forged one would have to guess.
const RST_WINDOW: u32 = 1 << 22;

/// How often a change of a control word is tried. The other side's packet may come first, on another CPU, and
/// changes it twice at most: the waiting mark and the state.
const SWAPS: usize = 3;

/// A flow that a packet belongs to.
pub(crate) struct Hit {
    pub(crate) slot: *mut Slot,
    /// The control word as it was read before the key was compared.
    pub(crate) ctrl: Ctrl,
    pub(crate) position: Position,
    pub(crate) service: &'static Service,
}

impl Hit {
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
    fn bucket(&self, node: &Node) -> u32 {
        self.position.block() * node.buckets + self.position.offset() / WAYS_U32
    }
}

/// Coarse time in ticks: resolution of one jiffy, and no read of the hardware clock. Good enough for
/// "last seen", which is compared with seconds.
#[inline(always)]
pub(crate) fn now() -> u32 {
    // SAFETY: a helper without arguments.
    ticks(unsafe { bpf_ktime_get_coarse_ns() })
}

/// Exact time in ticks, for the time to first byte: read once at a request and once at its response.
#[inline(always)]
fn exact_now() -> u32 {
    // SAFETY: a helper without arguments.
    ticks(unsafe { bpf_ktime_get_ns() })
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

/// Whether the slot of an embryonic flow was given to another client since it was looked up. What was read from the
/// slot before this answer belongs to the segment's flow if it is no.
#[inline(always)]
pub(crate) fn is_lost(hit: &Hit, segment: &Segment) -> bool {
    if !hit.ctrl.is_embryonic() {
        return false;
    }
    // The control word first: see `matches`.
    let used = ctrl(hit.slot).is_used();
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
    let block = block_of(node, snat)?;
    let offset = u32::from(u16::from_be(snat_port)).wrapping_sub(node.port_base);
    let size = node.buckets * WAYS_U32;
    if offset >= size {
        return None;
    }
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

/// Records a packet from the client.
#[inline(always)]
pub(crate) fn on_client(node: &Node, frame: &Frame, segment: &Segment, hit: &Hit) {
    let slot = hit.slot;
    // SAFETY: `slot` points into `FLOWS`; these fields are written by the client's side alone, and a race of two
    // of its packets leaves the value of one of them.
    unsafe {
        (*slot).client_seen = now();
        // The way back: it changes when the client's router fails over.
        if !packet::same_mac(&(*slot).mac, &frame.mac)
            || (*slot).vlan != frame.vlan
            || (*slot).port_index != frame.port_index
        {
            packet::copy_mac(&mut (*slot).mac, &frame.mac);
            (*slot).vlan = frame.vlan;
            (*slot).port_index = frame.port_index;
        }
        let next = segment.next_seq();
        // A client that has given up may begin again on the same port, with any number, before there is an answer.
        let begins = segment.is_syn() && matches!(hit.ctrl.state(), State::Syn);
        if begins || (segment.payload != 0 && after(next, (*slot).client_next)) {
            (*slot).client_next = next;
            if segment.payload != 0 {
                request(hit);
            }
        }
        let expected = (*slot).client_next;
        advance(node, Side::Client, segment, expected, hit);
    }
}

/// Records a packet from the backend.
#[inline(always)]
pub(crate) fn on_backend(node: &Node, segment: &Segment, hit: &Hit) {
    let slot = hit.slot;
    // SAFETY: as in `on_client`, for the backend's side.
    unsafe {
        (*slot).backend_seen = now();
        let next = segment.next_seq();
        if segment.flags & SYN != 0 {
            (*slot).backend_next = next;
        } else if segment.payload != 0 && after(next, (*slot).backend_next) {
            (*slot).backend_next = next;
            response(hit);
        }
        let expected = (*slot).backend_next;
        advance(node, Side::Backend, segment, expected, hit);
    }
}

/// New data from the client: the flow waits from now on, if it did not already.
#[inline(always)]
fn request(hit: &Hit) {
    if hit.service.flags & SERVICE_REQUESTS == 0 || ctrl(hit.slot).is_waiting() {
        return;
    }
    // SAFETY: points into `FLOWS`. Written before the mark, so that whoever sees the mark sees its time.
    unsafe { (*hit.slot).waiting_since = exact_now() };
    for _ in 0..SWAPS {
        let ctrl = ctrl(hit.slot);
        if ctrl.is_waiting() || !ctrl.is_open() {
            return;
        }
        if swap(hit.slot, ctrl, ctrl.with_waiting(true)) {
            return add_waiting(ctrl, 1);
        }
    }
}

/// New data from the backend: the flow has its answer.
#[inline(always)]
fn response(hit: &Hit) {
    for _ in 0..SWAPS {
        let ctrl = ctrl(hit.slot);
        if !ctrl.is_waiting() {
            return;
        }
        // SAFETY: points into `FLOWS`.
        let since = unsafe { (*hit.slot).waiting_since };
        if swap(hit.slot, ctrl, ctrl.with_waiting(false)) {
            add_waiting(ctrl, u64::MAX);
            return stats::first_byte(ctrl.backend(), exact_now().wrapping_sub(since));
        }
    }
}

/// Moves the flow through its states. Most packets change nothing and cost one comparison.
#[inline(always)]
fn advance(node: &Node, side: Side, segment: &Segment, expected: u32, hit: &Hit) {
    for _ in 0..SWAPS {
        let ctrl = ctrl(hit.slot);
        let next = ctrl.after(side, segment.flags);
        if next == ctrl || (segment.flags & RST != 0 && !is_credible(side, segment, expected, hit, ctrl)) {
            return;
        }
        if swap(hit.slot, ctrl, next) {
            return settle(node, side, hit, ctrl, next);
        }
    }
}

/// Brings the hint and the books in line with a flow's new state.
#[inline(always)]
fn settle(node: &Node, side: Side, hit: &Hit, ctrl: Ctrl, next: Ctrl) {
    if matches!(next.state(), State::Established) {
        mark(node, hit, |byte| byte | TAG_PROTECTED);
    }
    if !next.is_open() {
        if matches!((ctrl.state(), side), (State::Syn, Side::Backend)) {
            stats::refused(ctrl.backend());
        }
        retire(ctrl);
        mark(node, hit, |byte| byte & !TAG_PROTECTED);
    }
}

/// Whether the other side will believe a RST: in the window, or in answer to our SYN (RFC 9293 §3.10.7.3).
#[inline(always)]
fn is_credible(side: Side, segment: &Segment, expected: u32, hit: &Hit, ctrl: Ctrl) -> bool {
    if matches!((ctrl.state(), side), (State::Syn, Side::Backend)) {
        // SAFETY: points into `FLOWS`.
        return segment.ack == unsafe { (*hit.slot).client_next };
    }
    segment.seq.wrapping_sub(expected).wrapping_add(RST_WINDOW) < 2 * RST_WINDOW
}

/// Takes a flow that has ended out of its backend's load. Called by whoever won the swap that ended it.
#[inline(always)]
pub(crate) fn retire(ended: Ctrl) {
    if !ended.is_open() {
        return;
    }
    if ended.is_waiting() {
        add_waiting(ended, u64::MAX);
    }
    add_flows(ended, u64::MAX);
}

/// Changes the number of flows of a flow's backend.
#[inline(always)]
pub(crate) fn add_flows(ctrl: Ctrl, change: u64) {
    if is_current(ctrl)
        && let Some(load) = maps::LOAD.get_ptr_mut(u32::from(ctrl.backend()))
    {
        // SAFETY: points into `LOAD`, whose fields are aligned words.
        unsafe { atomic::fetch_add(&raw mut (*load).flows, change) };
    }
}

#[inline(always)]
fn add_waiting(ctrl: Ctrl, change: u64) {
    if is_current(ctrl)
        && let Some(load) = maps::LOAD.get_ptr_mut(u32::from(ctrl.backend()))
    {
        // SAFETY: as in `add_flows`.
        unsafe { atomic::fetch_add(&raw mut (*load).waiting, change) };
    }
}

/// Whether the backend's load is still this flow's to change: a new generation starts from zero.
#[inline(always)]
fn is_current(ctrl: Ctrl) -> bool {
    maps::BACKENDS.get(u32::from(ctrl.backend())).is_some_and(|b| b.generation == ctrl.generation())
}

/// Swaps a slot's control word.
#[inline(always)]
pub(crate) fn swap(slot: *mut Slot, old: Ctrl, new: Ctrl) -> bool {
    // SAFETY: `slot` points into `FLOWS`; `ctrl` is its first, aligned word.
    unsafe { atomic::compare_and_swap(&raw mut (*slot).ctrl, old.0, new.0) }
}

/// Changes a flow's tag in its bucket's hint, and its age to now.
#[inline(always)]
fn mark(node: &Node, hit: &Hit, change: impl Fn(u8) -> u8) {
    if let Some(hint) = maps::HINTS.get_ptr_mut(hit.bucket(node)) {
        update_tag(hint, hit.position.offset() % WAYS_U32, change, age(now()));
    }
}

/// Changes one slot's tag, and its age.
#[inline(always)]
pub(crate) fn update_tag(hint: *mut Hint, way: u32, change: impl Fn(u8) -> u8, age: u8) {
    // SAFETY: the masked way is below 8, the bytes of `tags`.
    let tag = unsafe { (&raw const (*hint).tags).cast::<u8>().add((way & 7) as usize).read_volatile() };
    write_hint(hint, way, change(tag), age);
}

/// Writes the two bytes of one slot. Byte stores, so that the owners of the other slots are not disturbed.
#[inline(always)]
pub(crate) fn write_hint(hint: *mut Hint, way: u32, tag: u8, age: u8) {
    let way = (way & 7) as usize;
    // SAFETY: `way` is below 8, the bytes of each word.
    unsafe {
        (&raw mut (*hint).tags).cast::<u8>().add(way).write_volatile(tag);
        (&raw mut (*hint).ages).cast::<u8>().add(way).write_volatile(age);
    }
}
