//! Choosing a backend for a new flow.

use lb_common::backend::Backend;
use lb_common::hash::second_hash;
use lb_common::reason::Reason;
use lb_common::ring::{RING_SIZE, Ring, ring_index};
use lb_common::service::{SCHEDULER_LEAST_CONN, SCHEDULER_ROUND_ROBIN, Service};

use crate::{atomic, maps, rings};

/// A backend and its id.
pub(crate) type Choice = (u16, &'static Backend);

/// The backend that a new flow with this ring hash goes to.
#[inline(always)]
pub(crate) fn backend(id: u16, service: &Service, hash: u64) -> Result<Choice, Reason> {
    let ring = rings::get(u32::from(id)).ok_or(Reason::NoBackend)?;
    if ring.backends == 0 {
        return Err(Reason::NoBackend);
    }
    let first = if service.scheduler == SCHEDULER_ROUND_ROBIN {
        entry(ring, next_turn(id, ring.length))
    } else {
        entry(ring, ring_index((hash >> 32) as u32, ring.length))
    };
    let second = || entry(ring, ring_index((second_hash(hash) >> 32) as u32, ring.length));
    let choice = match first {
        Ok(a) if service.scheduler == SCHEDULER_LEAST_CONN => match second() {
            Ok(b) if is_less_loaded(b, a) => b,
            _ => a,
        },
        // The agent takes a backend without a next hop off the ring; until it has, the other candidate serves.
        Err(_) => second()?,
        Ok(a) => a,
    };
    Ok(choice)
}

/// The backend at a position of the ring, if it can be reached.
#[inline(always)]
fn entry(ring: &Ring, position: u32) -> Result<Choice, Reason> {
    let position = position as usize;
    if position >= RING_SIZE {
        return Err(Reason::Internal);
    }
    // SAFETY: in bounds by the check above, which the verifier follows; indexing would add a panic.
    let id = unsafe { *ring.slots.as_ptr().add(position) };
    let backend = maps::BACKENDS.get(u32::from(id)).ok_or(Reason::Internal)?;
    if !backend.is_live() {
        return Err(Reason::BackendGone);
    }
    if !backend.is_resolved() {
        return Err(Reason::Unresolved);
    }
    Ok((id, backend))
}

/// The service's next position in turn, over all CPUs.
#[inline(always)]
fn next_turn(id: u16, length: u32) -> u32 {
    let Some(cursor) = maps::CURSORS.get_ptr_mut(u32::from(id)) else { return 0 };
    // SAFETY: points into `CURSORS`, an aligned word.
    let turn = unsafe { atomic::fetch_add(cursor, 1) };
    turn.checked_rem(u64::from(length)).unwrap_or(0) as u32
}

/// Whether `a` has fewer live flows per weight than `b`.
#[inline(always)]
fn is_less_loaded(a: Choice, b: Choice) -> bool {
    let flows = |c: Choice| maps::LOAD.get(u32::from(c.0)).map_or(0, |l| l.flows);
    flows(a) * u64::from(b.1.weight) < flows(b) * u64::from(a.1.weight)
}
