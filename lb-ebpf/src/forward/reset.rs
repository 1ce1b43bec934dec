//! Telling a client that its connection is not there: a RST in answer to its packet (RFC 9293 §3.10.7.1).

use lb_common::abi::ticks_of_seconds;
use lb_common::node::Node;
use lb_common::reason::Reason;
use lb_common::stats::Tokens;
use lb_common::tcp::{ACK, FIN, RST};

use crate::family::Family;
use crate::forward::own::Own;
use crate::forward::{Action, turn_back};
use crate::packet::Packet;
use crate::parse::Segment;
use crate::{clock, maps, parse};

/// Turns a client's packet into the RST that ends its connection.
#[inline(always)]
pub(crate) fn answer<F: Family>(packet: &mut Packet) -> Result<Action, Reason> {
    let node = maps::NODE.get(0).ok_or(Reason::Internal)?;
    let frame = parse::frame::<true>(packet, node)?;
    let segment = parse::segment::<F>(packet, &frame, &F::parse(packet, &frame)?)?;
    if segment.flags & RST != 0 {
        return Err(Reason::StrayReset);
    }
    if !may_answer(node) {
        return Err(Reason::ResetLimited);
    }
    let (seq, ack, flags) = numbers(&segment);
    let own = Own {
        src: &segment.dst,
        dst: &segment.src,
        sport: segment.dport,
        dport: segment.sport,
        seq,
        ack,
        flags,
        window: 0,
        options: None,
    };
    own.write::<F>(packet, &frame)?;
    turn_back(packet, node)
}

/// The numbers that make the client believe it: the one that its packet acknowledges, or else the acknowledgement of
/// all that is in it.
#[inline(always)]
fn numbers(segment: &Segment) -> (u32, u32, u8) {
    if segment.flags & ACK != 0 {
        return (segment.ack, 0, RST);
    }
    let fin = u32::from(segment.flags & FIN != 0);
    (0, segment.next_seq().wrapping_add(fin), RST | ACK)
}

/// Takes a token from this CPU's bucket, which holds those of one second.
#[inline(always)]
fn may_answer(node: &Node) -> bool {
    let Some(bucket) = maps::RESETS.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's own value.
    let bucket: &mut Tokens = unsafe { &mut *bucket };
    bucket.take(node.reset_rate, clock::now(), ticks_of_seconds(1))
}
