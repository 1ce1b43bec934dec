//! Backends in turn.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use lb_common::ring::{RING_SIZE, Ring};

use super::{Member, finish, sorted};

/// A ring in which these backends follow each other by weight, each one's turns spread evenly: equal weights
/// alternate strictly. It holds as many whole rotations as fit.
///
/// When the reduced weights sum up to more than [`RING_SIZE`] a rotation is the first [`RING_SIZE`] turns.
#[must_use]
pub fn round_robin(members: &[Member]) -> Arc<Ring> {
    let mut ring = Ring::empty();
    let members = sorted(members);
    let divisor = members.iter().fold(0, |d, m| gcd(d, usize::from(m.weight.max(1))));
    let whole: usize = members.iter().map(|m| usize::from(m.weight.max(1)) / divisor.max(1)).sum();
    let rotation = whole.min(RING_SIZE);
    let turns = Turns::new(&members, whole <= RING_SIZE);
    let turns: Vec<u16> = turns.take(rotation).filter_map(|i| members.get(i).map(|m| m.id)).collect();
    let length = RING_SIZE.checked_div(rotation).unwrap_or(0) * rotation;
    for (entry, id) in ring.slots.iter_mut().take(length).zip(turns.iter().cycle()) {
        *entry = *id;
    }
    finish(ring, members.len(), length)
}

/// Whose turn it is: an endless sequence of indices in which each backend stands in proportion to its weight,
/// as evenly as possible.
///
/// A backend of weight `w` has its turns 1/w apart. The first is at 0 for everybody (so everybody has one soon), or,
/// `staggered`, at a place of its own within that distance: then everybody has had exactly `w` turns before time 1.
struct Turns<'a> {
    members: &'a [Member],
    staggered: bool,
    /// Time of the next turn, whose it is, and which one it is.
    due: BinaryHeap<Reverse<(u64, usize, u64)>>,
}

impl<'a> Turns<'a> {
    fn new(members: &'a [Member], staggered: bool) -> Self {
        let mut turns = Self { members, staggered, due: BinaryHeap::with_capacity(members.len()) };
        turns.due = (0..members.len()).map(|index| Reverse((turns.time(index, 0), index, 0))).collect();
        turns
    }

    /// Time of a turn in units of 2^-32. There are at most 2^12 members and 2^17 turns: no overflow.
    fn time(&self, index: usize, turn: u64) -> u64 {
        let weight = self.members.get(index).map_or(1, |m| u64::from(m.weight.max(1)));
        let parts = 2 * self.members.len() as u64;
        let offset = if self.staggered { 2 * index as u64 + 1 } else { 0 };
        ((turn * parts + offset) << 32) / (parts * weight)
    }
}

impl Iterator for Turns<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let &Reverse((_, index, turn)) = self.due.peek()?;
        let next = Reverse((self.time(index, turn + 1), index, turn + 1));
        if let Some(mut top) = self.due.peek_mut() {
            *top = next;
        }
        Some(index)
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
