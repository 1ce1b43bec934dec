//! The clock that flows are timed by: the data path's own, see `lb-ebpf/src/clock.rs`.

use std::time::Instant;

use aya::programs::{TestRun, TestRunOptions};
use lb_common::abi;
use nix::sys::time::TimeValLike as _;
use nix::time::{ClockId, clock_getres, clock_gettime};

use super::error::{because, failure};
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

    /// The time when the data path was asked, as it said. [`Clock::now`] may be ahead of the data path's by as long as asking took.
    #[must_use]
    pub const fn asked(&self) -> u32 {
        self.ticks
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
    // The call cannot fail for this clock.
    let nanoseconds = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| time.num_nanoseconds());
    abi::ticks(u64::try_from(nanoseconds).unwrap_or(0))
}

/// Nanoseconds of the kernel's tick, which is the resolution of its coarse clocks (`KTIME_LOW_RES`).
///
/// # Errors
/// When the kernel does not say, or says what no kernel ticks by (100 to 1,000 times a second).
pub(super) fn jiffy() -> Result<u64, DataplaneError> {
    let what = "clock CLOCK_MONOTONIC_COARSE: read its resolution";
    let step = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_err(|e| failure(what, &e))?;
    let nanoseconds = u64::try_from(step.num_nanoseconds()).unwrap_or(0);
    if !(1_000_000..=10_000_000).contains(&nanoseconds) {
        return Err(because(what, format!("{nanoseconds} ns is no tick of a Linux kernel")));
    }
    Ok(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_ticks_100_to_1000_times_a_second() {
        let nanoseconds = jiffy().unwrap();
        assert_eq!(1_000_000_000 % nanoseconds, 0, "{nanoseconds}");
    }
}
