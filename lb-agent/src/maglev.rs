//! Rings: which backend each hash belongs to.
//!
//! Both kinds depend on the backends' identities and weights only, not on their order or ids, so every node
//! builds the same ring from the same configuration.
#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::sync::Arc;

use lb_common::backend::MAX_BACKENDS;
use lb_common::ring::{NO_BACKEND, RING_SIZE, Ring};

use crate::model::BackendKey;

mod rotation;
pub use rotation::round_robin;

/// A backend that stands in a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// See [`identity`].
    pub identity: u64,
    /// Backend id, from 1; only copied into the ring.
    pub id: u16,
    /// Relative share, from 1.
    pub weight: u16,
}

/// What a backend's places on the ring are derived from: the same on every node and in every release.
#[must_use]
pub fn identity(key: &BackendKey) -> u64 {
    let service = [key.service.port.to_ne_bytes(), [key.service.protocol, 0]];
    let port = key.address.port().to_be_bytes();
    let address = lb_common::addr::Addr::from(key.address.ip()).octets();
    let vip = key.service.vip.octets();
    let bytes = vip.iter().chain(service.as_flattened()).chain(&address).chain(&port);
    // FNV-1a (RFC 9923), finished by a mixer because neighbouring addresses differ in few bits.
    mix(bytes.fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)))
}

/// The weighted Maglev ring (Eisenbud et al., NSDI 2016, §3.4) of these backends, each at least once.
///
/// Shares are within one entry of the weights (see `quotas`). When a backend leaves, its entries are spread
/// over the others, and nearly all other entries stay. One thing differs from the paper: a turn costs as much
/// as the entries that were looked at, not always one. Late in the filling, where most entries are taken,
/// a backend then no longer races through its preferences, and a quarter fewer entries move.
#[must_use]
pub fn maglev(members: &[Member]) -> Arc<Ring> {
    let mut ring = Ring::empty();
    let members = sorted(members);
    let mut seats: Vec<Seat> = members.iter().zip(quotas(&members)).map(|(m, q)| Seat::new(m, q)).collect();
    let mut due: BinaryHeap<_> = (0..seats.len()).map(|index| Reverse((0, index))).collect();
    while let Some(mut top) = due.peek_mut() {
        let Reverse((time, index)) = *top;
        let Some(seat) = seats.get_mut(index) else { break };
        if seat.quota == 0 {
            PeekMut::pop(top);
            continue;
        }
        let cost = seat.take(&mut ring);
        *top = Reverse((time + cost, index));
    }
    finish(ring, members.len(), RING_SIZE)
}

/// How many of the hashes' 65,537 places lead to another backend in `new` than in `old`.
#[must_use]
pub fn moved_slots(old: &Ring, new: &Ring) -> u32 {
    let at = |ring: &Ring, i: usize| ring.entries().get(i).copied().unwrap_or(NO_BACKEND);
    let moved = (0..RING_SIZE).filter(|&i| at(old, i) != at(new, i)).count();
    u32::try_from(moved).unwrap_or(u32::MAX)
}

/// Ids that a ring names, ascending; [`NO_BACKEND`] among them would be a fault.
#[must_use]
pub fn members_of(ring: &Ring) -> Vec<u16> {
    let mut seen = vec![false; usize::from(u16::MAX) + 1];
    for &id in ring.entries() {
        if let Some(s) = seen.get_mut(usize::from(id)) {
            *s = true;
        }
    }
    (0..=u16::MAX).filter(|&id| seen.get(usize::from(id)) == Some(&true)).collect()
}

fn finish(mut ring: Box<Ring>, backends: usize, length: usize) -> Arc<Ring> {
    ring.backends = u32::try_from(backends).unwrap_or(u32::MAX);
    ring.length = if backends == 0 { 0 } else { u32::try_from(length).unwrap_or(u32::MAX) };
    Arc::from(ring)
}

/// In the one order that does not depend on configuration order or ids. More than the maps can hold are left
/// out.
fn sorted(members: &[Member]) -> Vec<Member> {
    let mut out = members.to_vec();
    out.sort_by_key(|m| (m.identity, m.id));
    out.truncate(MAX_BACKENDS as usize);
    out
}

/// Entries due to each member: by weight, rounded so that they sum up to [`RING_SIZE`] (largest remainder),
/// and never 0.
fn quotas(members: &[Member]) -> Vec<usize> {
    let weight = |m: &Member| usize::from(m.weight.max(1));
    let total = members.iter().map(weight).sum::<usize>().max(1);
    let mut quotas: Vec<usize> = members.iter().map(|m| (weight(m) * RING_SIZE / total).max(1)).collect();
    let mut order: Vec<usize> = (0..members.len()).collect();
    order.sort_by_key(|&i| Reverse(members.get(i).map(|m| weight(m) * RING_SIZE % total)));
    let sum: usize = quotas.iter().sum();
    for &i in order.iter().take(RING_SIZE.saturating_sub(sum)) {
        if let Some(q) = quotas.get_mut(i) {
            *q += 1;
        }
    }
    // Only entries that were rounded up to 1 make the sum too large: the largest quotas pay for them.
    for _ in RING_SIZE..sum {
        if let Some(q) = quotas.iter_mut().max() {
            *q -= 1;
        }
    }
    quotas
}

/// A member while the ring is being filled.
struct Seat {
    id: u16,
    weight: u64,
    /// Entries that it has still to take.
    quota: usize,
    /// Its next preference. The preferences are all entries, `skip` apart: every entry comes once in
    /// [`RING_SIZE`] steps, because that is prime.
    next: usize,
    skip: usize,
}

impl Seat {
    fn new(member: &Member, quota: usize) -> Self {
        let below = |hash: u64, n: usize| usize::try_from(hash % n as u64).unwrap_or(0);
        Self {
            id: member.id,
            weight: u64::from(member.weight.max(1)),
            quota,
            next: below(mix(member.identity ^ 0x6f66_6673_6574), RING_SIZE),
            skip: 1 + below(mix(member.identity ^ 0x736b_6970), RING_SIZE - 1),
        }
    }

    /// Takes the first free entry in the order of preference. Returns what that costs: entries looked at by
    /// weight, in units of 2^-40. Nobody looks at more than [`RING_SIZE`] entries in all: no overflow.
    fn take(&mut self, ring: &mut Ring) -> u64 {
        self.quota -= 1;
        for looked_at in 1..=RING_SIZE as u64 {
            let at = self.next;
            self.next = (self.next + self.skip) % RING_SIZE;
            if let Some(entry) = ring.slots.get_mut(at)
                && *entry == NO_BACKEND
            {
                *entry = self.id;
                return (looked_at << 40) / self.weight;
            }
        }
        0
    }
}

/// The finisher of SplitMix64 (Steele, Lea, Flood 2014).
const fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests;
