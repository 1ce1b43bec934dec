//! The flow table in the agent's memory: read without a system call while the data path writes it.

use std::sync::atomic::{Ordering, fence};

use aya::maps::MapData;
use lb_common::flow::{Ctrl, Slot, State};

use super::view::View;
use crate::dataplane::{DataplaneError, SlotCensus};

/// 64-bit words of a slot. The first is its control word.
const WORDS: usize = size_of::<Slot>() / size_of::<u64>();
/// How often a slot is read again that changed in between.
const RETRIES: usize = 3;

/// A read-only view of the map `FLOWS`. It outlives the data plane, and then stands still.
#[derive(Debug)]
pub struct FlowTable(View<WORDS>);

impl FlowTable {
    /// Maps the table into memory.
    pub(super) fn map(flows: &MapData) -> Result<Self, DataplaneError> {
        View::map(flows, "FLOWS").map(Self)
    }

    /// How many slots there are.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.0.len()
    }

    /// Whether there are none, which cannot be.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The slot at `index`, or `None` beyond the end. Of an unused slot only the control word is meant. A slot that
    /// changes all the time while it is read is given as [`State::Claiming`].
    #[must_use]
    pub fn slot(&self, index: u32) -> Option<Slot> {
        (index < self.len()).then(|| self.read(index))
    }

    /// Every slot with its index, see [`FlowTable::slot`].
    pub fn iter(&self) -> impl Iterator<Item = (u32, Slot)> + '_ {
        self.iter_from(0)
    }

    /// Every slot with its index, from `start` to the end and then from the beginning.
    pub fn iter_from(&self, start: u32) -> impl Iterator<Item = (u32, Slot)> + '_ {
        let start = start.min(self.len());
        (start..self.len()).chain(0..start).map(|index| (index, self.read(index)))
    }

    /// Counts slots by state.
    #[must_use]
    pub fn census(&self) -> SlotCensus {
        let mut census = SlotCensus::default();
        for index in 0..self.len() {
            let [ctrl, ..] = self.0.value(index);
            census.add(Ctrl(ctrl.load(Ordering::Relaxed)).state());
        }
        census
    }

    /// The same slot must be there before and after its fields were read. A slot that was given to another flow of
    /// the same backend in these nanoseconds is not noticed.
    #[inline]
    fn read(&self, index: u32) -> Slot {
        let words = self.0.value(index);
        let [ctrl, ..] = words;
        let mut seen = ctrl.load(Ordering::Acquire);
        for _ in 0..RETRIES {
            if !Ctrl(seen).is_used() {
                return Slot { ctrl: seen, ..Slot::EMPTY };
            }
            let copy = words.each_ref().map(|word| word.load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            let after = ctrl.load(Ordering::Relaxed);
            if after == seen {
                // SAFETY: a slot is eight words of plain integers, in which every bit pattern is a value.
                return unsafe { std::mem::transmute::<[u64; WORDS], Slot>(copy) };
            }
            seen = after;
        }
        Slot { ctrl: Ctrl(seen).with_state(State::Claiming).0, ..Slot::EMPTY }
    }
}
