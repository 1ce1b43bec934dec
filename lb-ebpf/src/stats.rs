//! Counters: per CPU, so plain adds.

use lb_common::reason::Reason;
use lb_common::stats::{FIRST_BYTE_BUCKETS, first_byte_bucket};

use crate::maps;

/// Counts a packet that was not forwarded.
#[inline(always)]
pub(crate) fn count(reason: Reason) {
    if let Some(counter) = maps::REASON_STATS.get_ptr_mut(reason as u32) {
        // SAFETY: this CPU's own value; an XDP program is not interrupted by another on the same CPU.
        unsafe { *counter += 1 };
    }
}

/// Counts a forwarded packet; `direction` is `FROM_CLIENT` or `FROM_BACKEND`.
#[inline(always)]
pub(crate) fn forwarded(service: u16, backend: u16, direction: usize, bytes: u32) {
    if let Some(s) = maps::SERVICE_STATS.get_ptr_mut(u32::from(service)) {
        // SAFETY: as in `count`; `direction` is a constant 0 or 1.
        unsafe {
            (*s).packets[direction & 1] += 1;
            (*s).bytes[direction & 1] += u64::from(bytes);
        }
    }
    if let Some(b) = maps::BACKEND_STATS.get_ptr_mut(u32::from(backend)) {
        // SAFETY: as in `count`; `direction` is a constant 0 or 1.
        unsafe {
            (*b).packets[direction & 1] += 1;
            (*b).bytes[direction & 1] += u64::from(bytes);
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

/// Counts a SYN that the backend refused.
#[inline(always)]
pub(crate) fn refused(backend: u16) {
    if let Some(b) = maps::BACKEND_STATS.get_ptr_mut(u32::from(backend)) {
        // SAFETY: as in `count`.
        unsafe { (*b).refused += 1 };
    }
}
