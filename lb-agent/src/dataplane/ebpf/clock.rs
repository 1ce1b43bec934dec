//! The clock that flows are timed by: the data path's own, see `lb-ebpf/src/clock.rs`.

use std::mem::MaybeUninit;
use std::time::Instant;

use aya::programs::{TestRun, TestRunOptions};
use lb_common::abi;

use super::error::failure;
use super::{CLOCK, EbpfDataplane};
use crate::dataplane::DataplaneError;

/// What time the data path has. Good for minutes: the data path's clock is not slewed, as this node's others are.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    ticks: u32,
    at: Instant,
}

impl Clock {
    /// The time in ticks, in which [`lb_common::flow::Slot::client_seen`] and `backend_seen` are.
    #[must_use]
    pub fn now(&self) -> u32 {
        let passed = u64::try_from(self.at.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.ticks.wrapping_add(abi::ticks(passed))
    }
}

impl EbpfDataplane {
    /// Asks the data path what time it has.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn clock(&self) -> Result<Clock, DataplaneError> {
        // A test run wants an Ethernet header.
        let options = TestRunOptions { data_in: Some(&[0; 14]), ..TestRunOptions::new() };
        let at = Instant::now();
        let run = self.program(CLOCK)?.test_run(options);
        let ticks = run.map_err(|e| failure(format!("program {CLOCK}: run"), &e))?.return_value;
        Ok(Clock { ticks, at })
    }
}

/// `CLOCK_MONOTONIC` in ticks, in which [`lb_common::flow::Slot::waiting_since`] is.
#[must_use]
pub fn exact_now() -> u32 {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the pointer is to a `timespec` on this stack. The call cannot fail for this clock; the struct is zero if it did.
    let time = unsafe {
        libc::clock_gettime(libc::CLOCK_MONOTONIC, time.as_mut_ptr());
        time.assume_init()
    };
    let [seconds, nanoseconds] = [time.tv_sec, time.tv_nsec].map(|n| u64::try_from(n).unwrap_or(0));
    abi::ticks(seconds * 1_000_000_000 + nanoseconds)
}

/// Nanoseconds of the kernel's tick, which is the resolution of its coarse clocks (`KTIME_LOW_RES`).
#[must_use]
pub fn jiffy() -> u32 {
    let mut step = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the pointer is to a `timespec` on this stack, which is zero if the call fails.
    let step = unsafe {
        libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, step.as_mut_ptr());
        step.assume_init()
    };
    let nanoseconds = u32::try_from(step.tv_nsec).unwrap_or(0);
    // No kernel ticks more than 1,000 or less than 100 times a second.
    nanoseconds.clamp(1_000_000, 10_000_000)
}
