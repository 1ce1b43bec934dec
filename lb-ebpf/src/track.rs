//! What a packet changes in its flow: when it was last heard, its state, and whether it waits.

use lb_common::flow::{Ctrl, Side, State};
use lb_common::node::Node;
use lb_common::reason::Reason;
use lb_common::service::SERVICE_REQUESTS;
use lb_common::tcp::{ACK, RST, SYN, after};

use crate::books::{self, add_waiting, retire};
use crate::clock::{exact_now, now_wide};
use crate::flow::{Hit, ctrl, swap};
use crate::hints::protect;
use crate::parse::{Frame, Segment};
use crate::{packet, stats};

/// A RST further than this from the sequence number that we expect does not end a flow: the receiver will not
/// believe it either, and a forged one would have to guess.
const RST_WINDOW: u32 = 1 << 22;

/// How often a change of a control word is tried. The other side's packet may come first, on another CPU, and
/// changes it twice at most: the waiting mark and the state.
const SWAPS: usize = 3;

/// Records a packet from the client, and returns its time.
#[inline(always)]
pub(crate) fn on_client(node: &Node, frame: &Frame, segment: &Segment, hit: &Hit) -> u64 {
    let slot = hit.slot;
    let now = now_wide();
    // SAFETY: `slot` points into `FLOWS`; these fields are written by the client's side alone, and a race of two
    // of its packets leaves the value of one of them.
    unsafe {
        (*slot).client_seen = now as u32;
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
        if segment.is_syn() {
            // A client that has given up may begin again on the same port, with any number, before there is an answer.
            // Data in a SYN (RFC 7413) may have to be sent again: it is no request until then.
            if hit.is_unanswered() {
                (*slot).client_next = segment.seq.wrapping_add(1);
            }
        } else if segment.payload != 0 && after(next, (*slot).client_next) {
            (*slot).client_next = next;
            request(hit);
        }
        let expected = (*slot).client_next;
        advance(node, Side::Client, segment, expected, hit);
    }
    now
}

/// Records a packet from the backend, and returns its time.
#[inline(always)]
pub(crate) fn on_backend(node: &Node, segment: &Segment, hit: &Hit) -> Result<u64, Reason> {
    let slot = hit.slot;
    let now = now_wide();
    if hit.is_unanswered() {
        // Until the SYN is answered the fields of the backend's side hold what the client offered.
        if segment.flags & (SYN | ACK) == SYN | ACK {
            answer(segment, hit, now as u32)?;
        } else {
            advance(node, Side::Backend, segment, 0, hit);
            if !ctrl(slot).has_owner_of(hit.ctrl) {
                return Err(Reason::TableFull);
            }
        }
        return Ok(now);
    }
    // SAFETY: as in `on_client`, for the backend's side.
    unsafe {
        (*slot).backend_seen = now as u32;
        let next = segment.next_seq();
        // A SYN+ACK that comes now is the same again, or for a flow that had the port before: it says nothing new.
        if segment.payload != 0 && segment.flags & SYN == 0 && after(next, (*slot).backend_next) {
            (*slot).backend_next = next;
            response(hit);
        }
        let expected = (*slot).backend_next;
        advance(node, Side::Backend, segment, expected, hit);
    }
    Ok(now)
}

/// The backend's answer to the SYN. At the same time another CPU may move the flow to another backend, or give its slot
/// to another flow: then the packet belongs to nobody.
///
/// The swap comes first and says whose the flow is; only then are its fields this backend's to write. Whoever sees the
/// new state before them sees the offer in their place: a moment's wrong time and number, of a flow whose client
/// has not heard of the answer yet.
///
/// An answer to the SYN of a flow that had the slot before passes: the client tells the backend that it is wrong
/// (RFC 9293 §3.5.2), and its SYN is answered when it comes again.
#[inline(always)]
fn answer(segment: &Segment, hit: &Hit, now: u32) -> Result<(), Reason> {
    if !is_for_our_syn(segment, hit) {
        return Ok(());
    }
    for _ in 0..SWAPS {
        let ctrl = ctrl(hit.slot);
        if !ctrl.has_owner_of(hit.ctrl) || !ctrl.is_used() {
            return Err(Reason::TableFull);
        }
        if !matches!(ctrl.state(), State::Syn) {
            // The same answer again on another CPU, or the flow is over.
            return Ok(());
        }
        let next = ctrl.after(Side::Backend, segment.flags);
        if swap(hit.slot, ctrl, next) {
            // SAFETY: points into `FLOWS`; these fields are the backend's from now on.
            unsafe {
                (*hit.slot).backend_seen = now;
                (*hit.slot).backend_next = segment.next_seq();
            }
            books::answered(ctrl);
            return Ok(());
        }
    }
    Err(Reason::TableFull)
}

/// Ends a flow whose backend is lost.
#[inline(always)]
pub(crate) fn end(node: &Node, hit: &Hit) {
    for _ in 0..SWAPS {
        let ctrl = ctrl(hit.slot);
        if !ctrl.is_open() {
            return;
        }
        if swap(hit.slot, ctrl, ctrl.closed()) {
            retire(ctrl);
            return protect(node, hit, false);
        }
    }
}

/// New data from the client: the flow waits from now on, if it did not already.
#[inline(always)]
fn request(hit: &Hit) {
    let ctrl_now = ctrl(hit.slot);
    if hit.service.flags & SERVICE_REQUESTS == 0 || ctrl_now.is_waiting() || !ctrl_now.is_answered() {
        return;
    }
    // SAFETY: points into `FLOWS`. Written before the mark, so that whoever sees the mark sees its time.
    unsafe { (*hit.slot).waiting_since = exact_now() };
    for _ in 0..SWAPS {
        let ctrl = ctrl(hit.slot);
        if ctrl.is_waiting() || !ctrl.is_answered() {
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
        // An embryonic flow may be another backend's by now, or its slot another flow's.
        if !ctrl.has_owner_of(hit.ctrl) {
            return;
        }
        if swap(hit.slot, ctrl, next) {
            return settle(node, side, segment, hit, ctrl, next);
        }
    }
}

/// Brings the hint and the books in line with a flow's new state.
#[inline(always)]
fn settle(node: &Node, side: Side, segment: &Segment, hit: &Hit, ctrl: Ctrl, next: Ctrl) {
    if matches!(next.state(), State::Established) {
        protect(node, hit, true);
    }
    if !next.is_open() {
        if matches!(side, Side::Backend) && segment.flags & RST != 0 && ctrl.is_whole() {
            stats::reset(ctrl.backend());
            books::cut_off(ctrl);
        }
        retire(ctrl);
        protect(node, hit, false);
    }
}

/// Whether the other side will believe a RST: in the window, or in answer to our SYN (RFC 9293 §3.10.7.3).
#[inline(always)]
fn is_credible(side: Side, segment: &Segment, expected: u32, hit: &Hit, ctrl: Ctrl) -> bool {
    if matches!((ctrl.state(), side), (State::Syn, Side::Backend)) {
        return refuses(segment, hit);
    }
    segment.seq.wrapping_sub(expected).wrapping_add(RST_WINDOW) < 2 * RST_WINDOW
}

/// Whether a RST answers the SYN that we sent.
#[inline(always)]
pub(crate) fn refuses(segment: &Segment, hit: &Hit) -> bool {
    segment.flags & RST != 0 && is_for_our_syn(segment, hit)
}

/// Whether a backend's packet acknowledges the SYN of a flow that it has not answered before.
#[inline(always)]
fn is_for_our_syn(segment: &Segment, hit: &Hit) -> bool {
    // SAFETY: points into `FLOWS`.
    let (offer, next) = unsafe { ((*hit.slot).offer(), (*hit.slot).client_next) };
    offer.is_acknowledged_by(segment.ack, next)
}
