//! The machine that is measured on: what it is, and one CPU of it for ourselves.

use std::time::Duration;

use anyhow::{Context, Result, bail};
pub(crate) use lb_tests::machine::{Machine, object, root};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// Keeps this thread on one CPU: the last of those that it may run on, where the fewest interrupts go.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn pin() -> Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).context("cannot read the CPUs that this process may run on")?;
    let Some(cpu) = (0..CpuSet::count()).rev().find(|&cpu| allowed.is_set(cpu).unwrap_or(false)) else {
        bail!("this process may run on no CPU")
    };
    let mut one = CpuSet::new();
    one.set(cpu).with_context(|| format!("CPU {cpu}"))?;
    sched_setaffinity(this, &one).with_context(|| format!("cannot stay on CPU {cpu}"))
}

/// CPU time of this thread: what other processes take from the CPU meanwhile is not in it.
///
/// # Errors
/// When the clock cannot be read.
pub(crate) fn cpu_time() -> Result<Duration> {
    let time =
        clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("cannot read the thread's CPU time")?;
    Ok(Duration::from(time))
}
