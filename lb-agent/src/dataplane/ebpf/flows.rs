//! The flow table in the agent's memory: read without a system call while the data path writes it.

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use aya::maps::MapData;
use lb_common::flow::{Ctrl, Slot, State};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::error::{because, failure};
use crate::dataplane::{DataplaneError, SlotCensus};

/// 64-bit words of a slot. The first is its control word.
const WORDS: usize = size_of::<Slot>() / size_of::<u64>();
/// How often a slot is read again that changed in between.
const RETRIES: usize = 3;

/// A read-only view of the map `FLOWS`. It outlives the data plane, and then stands still.
#[derive(Debug)]
pub struct FlowTable {
    words: NonNull<AtomicU64>,
    slots: u32,
    bytes: NonZeroUsize,
}

// SAFETY: the view is only read, by atomic loads, and is unmapped when its last user drops it.
unsafe impl Send for FlowTable {}
// SAFETY: as above.
unsafe impl Sync for FlowTable {}

impl FlowTable {
    /// Maps the table into memory.
    pub(super) fn map(flows: &MapData) -> Result<Self, DataplaneError> {
        let what = "map FLOWS: map into memory";
        let info = flows.info().map_err(|e| failure(what, &e))?;
        let slots = info.max_entries();
        if info.value_size() as usize != size_of::<Slot>() {
            return Err(because(what, "slots have another size: the maps are of another version"));
        }
        let bytes = NonZeroUsize::new(slots as usize * size_of::<Slot>());
        let bytes = bytes.ok_or_else(|| because(what, "it has no slots"))?;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start =
            unsafe { mmap(None, bytes, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, flows.fd().as_fd(), 0) };
        let start = start.map_err(|e| failure(what, &e))?;
        Ok(Self { words: start.cast(), slots, bytes })
    }

    /// How many slots there are.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.slots
    }

    /// Whether there are none, which cannot be.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.slots == 0
    }

    /// The slot at `index`, or `None` beyond the end. Of an unused slot only the control word is meant. A slot that
    /// changes all the time while it is read is given as [`State::Claiming`].
    #[must_use]
    pub fn slot(&self, index: u32) -> Option<Slot> {
        (index < self.slots).then(|| self.read(index))
    }

    /// Every slot with its index, see [`FlowTable::slot`].
    pub fn iter(&self) -> impl Iterator<Item = (u32, Slot)> + '_ {
        self.iter_from(0)
    }

    /// Every slot with its index, from `start` to the end and then from the beginning.
    pub fn iter_from(&self, start: u32) -> impl Iterator<Item = (u32, Slot)> + '_ {
        let start = start.min(self.slots);
        (start..self.slots).chain(0..start).map(|index| (index, self.read(index)))
    }

    /// Counts slots by state.
    #[must_use]
    pub fn census(&self) -> SlotCensus {
        let mut census = SlotCensus::default();
        for index in 0..self.slots {
            let [ctrl, ..] = self.words_of(index);
            census.add(Ctrl(ctrl.load(Ordering::Relaxed)).state());
        }
        census
    }

    /// The caller sees to it that `index` is below `slots`.
    #[inline]
    fn words_of(&self, index: u32) -> &[AtomicU64; WORDS] {
        debug_assert!(index < self.slots);
        // SAFETY: the mapping holds `slots` slots of eight words, is aligned to a page, lives as long as `self`, and
        // whoever writes to it writes whole words or parts of them: no load can see anything but numbers.
        unsafe { self.words.cast::<[AtomicU64; WORDS]>().add(index as usize).as_ref() }
    }

    /// The same slot must be there before and after its fields were read. A slot that was given to another flow of
    /// the same backend in these nanoseconds is not noticed.
    #[inline]
    fn read(&self, index: u32) -> Slot {
        let words = self.words_of(index);
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

impl Drop for FlowTable {
    fn drop(&mut self) {
        // SAFETY: mapped with this length in `map`, and nobody can have a reference into it any more. A failure would
        // leave it mapped, which harms nobody.
        let _ = unsafe { munmap(self.words.cast::<c_void>(), self.bytes.get()) };
    }
}
