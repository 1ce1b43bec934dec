//! Closing flows on the agent's request: what both sides have left (`Slot::is_stale`), and what belongs to a backend
//! that is gone or dead.
//!
//! The agent runs this program over a list that it found by scanning the table. The data path alone writes slots,
//! and decides again, so a flow that has spoken in between stays.
//!
//! Input: 14 bytes of nothing (an Ethernet header, which a test run asks for), a 16-bit count and that many
//! 32-bit slot indexes, little endian, at most [`MAX_INDEXES`]. Result: how many flows were closed; and in the list,
//! [`NOT_CLOSED`] for each that was not, so that the agent knows whose clients it may tell.

use lb_common::flow::Ctrl;
use lb_common::hint::age;
use lb_common::node::Node;

use crate::flow::{self, WAYS_U32};
use crate::packet::Packet;
use crate::{books, clock, hints, maps};

const MAX_INDEXES: u16 = 64;
const COUNT_AT: usize = 14;
const FIRST_AT: usize = 16;
/// No slot: a table has fewer than 2^27.
const NOT_CLOSED: [u8; 4] = [0xff; 4];

/// Runs over the list.
#[inline(always)]
pub(crate) fn run(packet: &mut Packet) -> u32 {
    let Some(node) = maps::NODE.get(0) else { return 0 };
    let Some(&count) = packet.header::<[u8; 2]>(COUNT_AT) else { return 0 };
    let count = u16::from_le_bytes(count);
    let mut closed = 0;
    for i in 0..MAX_INDEXES {
        if i >= count {
            break;
        }
        let Some(index) = packet.header_mut::<[u8; 4]>(FIRST_AT + 4 * usize::from(i)) else { break };
        if close(node, u32::from_le_bytes(*index)) {
            closed += 1;
        } else {
            *index = NOT_CLOSED;
        }
    }
    closed
}

/// Closes one flow if it is over for sure.
#[inline(always)]
fn close(node: &Node, index: u32) -> bool {
    let Some(slot) = maps::FLOWS.get_ptr_mut(index) else { return false };
    let ctrl = flow::ctrl(slot);
    // SAFETY: points into `FLOWS`.
    let stale = unsafe { (*slot).is_stale(ctrl, clock::now(), node.idle_ticks, node.rest_ticks) };
    if !(stale || is_orphan(ctrl)) {
        return false;
    }
    if !flow::swap(slot, ctrl, ctrl.closed()) {
        return false;
    }
    books::retire(ctrl);
    if let Some(hint) = maps::HINTS.get_ptr_mut(index / WAYS_U32) {
        hints::set_protected(hint, index % WAYS_U32, false, age(clock::now()));
    }
    true
}

/// Whether the flow is open and its backend is dead, was removed, or its id given to another.
#[inline(always)]
fn is_orphan(ctrl: Ctrl) -> bool {
    ctrl.is_open()
        && !maps::BACKENDS
            .get(u32::from(ctrl.backend()))
            .is_some_and(|b| b.is_live() && !b.is_dead() && b.generation == ctrl.generation())
}
