//! Choosing a backend for a new flow.

use lb_common::backend::{BACKEND_DEAD, BACKEND_LIVE, BACKEND_RESOLVED, Backend};
use lb_common::hash::second_hash;
use lb_common::reason::Reason;
use lb_common::ring::{NO_BACKEND, RING_SIZE, Ring, ring_index};
use lb_common::service::{
    SCHEDULER_LEAST_CONN, SCHEDULER_LEAST_WAITING, SCHEDULER_ROUND_ROBIN, SERVICE_NEAR, SPILL_ONE, Service,
    near_ring,
};
use lb_common::stats::BackendLoad;

use crate::{atomic, maps, parts, rings};

/// A backend and its id.
pub(crate) type Choice = (u16, &'static Backend);

/// The backend that a new flow with this ring hash goes to.
#[inline(always)]
pub(crate) fn backend(id: u16, service: &Service, hash: u64) -> Result<Choice, Reason> {
    let all = rings::get(u32::from(id)).ok_or(Reason::NoBackend)?;
    if all.backends == 0 {
        return Err(Reason::NoBackend);
    }
    if service.flags & SERVICE_NEAR != 0
        && let Some(near) = rings::get(near_ring(id))
        && near.backends != 0
        && let Ok(near) = of_two((near_ring(id), near), id, service, hash)
    {
        // A hash of its own: the other does not follow from the near ones.
        let third = second_hash(second_hash(hash));
        return Ok(match rival((u32::from(id), all), third, near) {
            Some(other) if spills(near, other, service.spill) => other,
            _ => near,
        });
    }
    of_two((u32::from(id), all), id, service, hash)
}

/// A ring and its index in `RINGS`.
type Indexed<'a> = (u32, &'a Ring);

/// The better one of a ring's two candidates.
#[inline(always)]
fn of_two((index, ring): Indexed<'_>, id: u16, service: &Service, hash: u64) -> Result<Choice, Reason> {
    let first = if service.scheduler == SCHEDULER_ROUND_ROBIN {
        entry(ring, next_turn(id, ring.length))
    } else {
        entry(ring, position(ring, hash))
    };
    let second = second_hash(hash);
    let rival = |a| rival((index, ring), second, a);
    Ok(match first {
        Ok(a) if service.scheduler == SCHEDULER_LEAST_CONN => match rival(a) {
            Some(b) if has_fewer_flows(b, a) => b,
            _ => a,
        },
        Ok(a) if service.scheduler == SCHEDULER_LEAST_WAITING => match rival(a) {
            Some(b) if waits_less(b, a) => b,
            _ => a,
        },
        // The agent takes a backend without a next hop off the ring; until it has, the other candidate serves.
        Err(_) => entry(ring, position(ring, second))?,
        Ok(a) => a,
    })
}

/// Who is compared with a candidate: the backend at the hash, or else another. One that hangs must lose every comparison, and
/// cannot lose one with itself.
#[inline(always)]
fn rival((index, ring): Indexed<'_>, hash: u64, candidate: Choice) -> Option<Choice> {
    match entry(ring, position(ring, hash)) {
        Ok(other) if other.0 != candidate.0 => Some(other),
        _ if ring.backends > 1 => another(index, hash, &[candidate.0, NO_BACKEND]),
        _ => None,
    }
}

/// A hash's position on the ring.
#[inline(always)]
fn position(ring: &Ring, hash: u64) -> u32 {
    ring_index((hash >> 32) as u32, ring.length)
}

/// The backend at a position of the ring, if it can be reached.
#[inline(always)]
fn entry(ring: &Ring, position: u32) -> Result<Choice, Reason> {
    usable(backend_at(ring, position) as u16)
}

/// The backend with this id, if it can be reached.
#[inline(always)]
fn usable(id: u16) -> Result<Choice, Reason> {
    let backend = maps::BACKENDS.get(u32::from(id)).ok_or(Reason::Internal)?;
    if !backend.is_live() || backend.is_dead() {
        return Err(Reason::NoBackend);
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

/// A backend of the ring at an index that is none of those.
#[inline(always)]
pub(crate) fn another(index: u32, hash: u64, not: &[u16; 2]) -> Option<Choice> {
    usable(parts::another(index, hash, u32::from(not[0]) | u32::from(not[1]) << 16) as u16).ok()
}

/// [`another`], by the ids in the halves of `not`; 0 when there is none. From the hash's second position on, the ring is
/// walked in steps of the golden ratio: they come close to every part of it, however long it is, and take no branch
/// that the verifier would follow twice.
#[inline(always)]
pub(crate) fn find_another(index: u32, hash: u64, not: u32) -> u32 {
    /// Of backends with a part p of the ring, (1 - p)^512 SYNs find none: with a tenth of the weight of the one that
    /// failed 6e-22, with a hundredth 0.6 %.
    const ENTRIES: u32 = 512;
    const FLAGS: u8 = BACKEND_LIVE | BACKEND_RESOLVED | BACKEND_DEAD;
    /// 2^32 divided by the golden ratio.
    const STEP: u32 = 0x9e37_79b9;
    let Some(ring) = rings::get(index) else { return 0 };
    let mut at = (second_hash(hash) >> 32) as u32;
    for _ in 0..ENTRIES {
        let candidate = backend_at(ring, ring_index(at, ring.length));
        if candidate == u32::from(NO_BACKEND) {
            return candidate;
        }
        at = at.wrapping_add(STEP);
        let Some(backend) = maps::BACKENDS.get(candidate) else { return 0 };
        // One condition and not five, each of which the verifier would follow both ways.
        let (first, second) = (candidate ^ not & 0xffff, candidate ^ not >> 16);
        let is_tried = (first.wrapping_sub(1) | second.wrapping_sub(1)) >> 31;
        let is_unusable = u32::from(backend.flags & FLAGS ^ (BACKEND_LIVE | BACKEND_RESOLVED));
        if is_tried | is_unusable == 0 {
            return candidate;
        }
    }
    0
}

/// The id at a position of the ring; 0 beyond its end.
#[inline(always)]
fn backend_at(ring: &Ring, position: u32) -> u32 {
    let position = position as usize;
    if position >= RING_SIZE {
        return u32::from(NO_BACKEND);
    }
    // SAFETY: in bounds by the check above, which the verifier follows; indexing would add a panic.
    u32::from(unsafe { *ring.slots.as_ptr().add(position) })
}

/// Whether `a` has fewer live flows per weight than `b`.
#[inline(always)]
fn has_fewer_flows(a: Choice, b: Choice) -> bool {
    let flows = |c: Choice| load(c).flows;
    flows(a) * u64::from(b.1.weight) < flows(b) * u64::from(a.1.weight)
}

/// Whether `a` has less waiting work per weight than `b`; with as much, fewer flows.
#[inline(always)]
fn waits_less(a: Choice, b: Choice) -> bool {
    let (x, y) = (load(a), load(b));
    let (p, q) = (x.waiting * u64::from(b.1.weight), y.waiting * u64::from(a.1.weight));
    p < q || (p == q && x.flows * u64::from(b.1.weight) < y.flows * u64::from(a.1.weight))
}

/// Whether a near backend has so much more waiting work per weight than another that the flow goes to the other. The
/// flow itself counts on both sides, so that a single query does not send the next one away.
#[inline(always)]
fn spills(near: Choice, other: Choice, spill: u16) -> bool {
    let (x, y) = (load(near).waiting + 1, load(other).waiting + 1);
    x * u64::from(other.1.weight) * u64::from(SPILL_ONE) > y * u64::from(near.1.weight) * u64::from(spill)
}

#[inline(always)]
fn load(choice: Choice) -> BackendLoad {
    maps::LOAD.get(u32::from(choice.0)).copied().unwrap_or(BackendLoad::ZERO)
}
