//! Counters: per CPU, so plain adds.

use lb_common::flow::Ctrl;
use lb_common::reason::Reason;
use lb_common::stats::{BackendStats, FIRST_BYTE_BUCKETS, first_byte_bucket};

use crate::maps;
use crate::parse::Segment;

/// Counts a packet that was not forwarded.
#[inline(always)]
pub(crate) fn count(reason: Reason) {
    count_number(reason as u32);
}

/// The same for the number of a reason.
#[inline(always)]
pub(crate) fn count_number(reason: u32) {
    if let Some(counter) = maps::REASON_STATS.get_ptr_mut(reason) {
        // SAFETY: this CPU's own value; an XDP program is not interrupted by another on the same CPU.
        unsafe { *counter += 1 };
    }
}

/// Counts a forwarded packet of so many bytes; `direction` is `FROM_CLIENT` or `FROM_BACKEND`.
#[inline(always)]
pub(crate) fn forwarded(ctrl: Ctrl, direction: usize, segment: &Segment, now: u64) {
    let bytes = u64::from(segment.len);
    if let Some(b) = maps::BACKEND_STATS.get_ptr_mut(u32::from(ctrl.backend())) {
        // SAFETY: as in `count`; `direction` is a constant 0 or 1.
        unsafe {
            (*b).packets[direction & 1] += 1;
            (*b).bytes[direction & 1] += bytes;
            if segment.payload != 0 {
                (*b).data_seen = now;
            }
        }
    }
}

/// Records the time from a request to the first byte of its response, in ticks.
#[inline(always)]
pub(crate) fn first_byte(backend: u16, time: u32) {
    if let Some(b) = maps::BACKEND_STATS.get_ptr_mut(u32::from(backend)) {
        let bucket = first_byte_bucket(time) as usize & (FIRST_BYTE_BUCKETS - 1);
        // SAFETY: as in `count`; the mask keeps the bucket in bounds.
        unsafe {
            (*b).responses += 1;
            (*b).first_byte_ticks += u64::from(time);
            *(&raw mut (*b).first_byte).cast::<u64>().add(bucket) += 1;
        }
    }
}

/// Changes this CPU's counters of a backend.
#[inline(always)]
fn backend(id: u16, change: impl Fn(&mut BackendStats)) {
    if let Some(b) = maps::BACKEND_STATS.get_ptr_mut(u32::from(id)) {
        // SAFETY: as in `count`.
        change(unsafe { &mut *b });
    }
}

/// Counts a flow that is given to a backend.
#[inline(always)]
pub(crate) fn new_flow(id: u16) {
    backend(id, |b| b.new_flows += 1);
}

/// Counts a SYN that the backend refused.
#[inline(always)]
pub(crate) fn refused(id: u16) {
    backend(id, |b| b.refused += 1);
}

/// Counts a SYN that the backend did not answer in time.
#[inline(always)]
pub(crate) fn unanswered(id: u16) {
    backend(id, |b| b.unanswered += 1);
}

/// Counts a flow that was taken away because of either.
#[inline(always)]
pub(crate) fn moved(id: u16) {
    backend(id, |b| b.moved += 1);
}

/// Counts a flow that the backend cut off.
#[inline(always)]
pub(crate) fn reset(id: u16) {
    backend(id, |b| b.resets += 1);
}
