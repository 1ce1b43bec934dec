//! The clock that flows are timed by.

use std::mem::MaybeUninit;

use lb_common::abi;

/// `CLOCK_MONOTONIC` in ticks, as the data path reads it (it takes the coarse clock, which lags by a few
/// milliseconds).
#[must_use]
pub fn now_ticks() -> u32 {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the pointer is to a `timespec` on this stack. The call cannot fail for this clock; the struct is
    // zero if it did.
    let time = unsafe {
        libc::clock_gettime(libc::CLOCK_MONOTONIC, time.as_mut_ptr());
        time.assume_init()
    };
    let [seconds, nanoseconds] = [time.tv_sec, time.tv_nsec].map(|n| u64::try_from(n).unwrap_or(0));
    abi::ticks(seconds * 1_000_000_000 + nanoseconds)
}
