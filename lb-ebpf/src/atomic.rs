//! Atomic operations on map memory.
//!
//! The bpf target has no `AtomicU64::compare_exchange`; these intrinsics compile to the kernel's
//! `atomic64_cmpxchg` and `atomic64_fetch_add`. The order is never relaxed: a relaxed add whose result is
//! used becomes a plain locked add and returns a wrong value.

use core::intrinsics::{AtomicOrdering, atomic_and, atomic_cxchg, atomic_or, atomic_xadd};

/// Swaps `old` for `new`; false when another CPU was first.
///
/// # Safety
/// `word` points into a map value and is aligned to 8 bytes.
#[inline(always)]
#[must_use]
pub(crate) unsafe fn compare_and_swap(word: *mut u64, old: u64, new: u64) -> bool {
    // SAFETY: by the caller.
    unsafe {
        atomic_cxchg::<u64, { AtomicOrdering::AcqRel }, { AtomicOrdering::Acquire }>(word, old, new).0 == old
    }
}

/// Adds (wrapping, so that `u64::MAX` takes one away) and returns what was there before.
///
/// # Safety
/// As [`compare_and_swap`].
#[inline(always)]
pub(crate) unsafe fn fetch_add(word: *mut u64, value: u64) -> u64 {
    // SAFETY: by the caller.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::AcqRel }>(word, value) }
}

/// Sets the bits of `mask`, or clears them.
///
/// # Safety
/// As [`compare_and_swap`].
#[inline(always)]
pub(crate) unsafe fn assign_bits(word: *mut u64, mask: u64, set: bool) {
    // SAFETY: by the caller. What was there before is of no use.
    unsafe {
        if set {
            let _ = atomic_or::<u64, u64, { AtomicOrdering::AcqRel }>(word, mask);
        } else {
            let _ = atomic_and::<u64, u64, { AtomicOrdering::AcqRel }>(word, !mask);
        }
    }
}
