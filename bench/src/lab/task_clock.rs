//! CPU time of a thread, exact also where the scheduler's own account is not.
//!
//! A thread that wakes another in the middle of its work, and gives way to it when the work is done, is charged in
//! `schedstat` only until the wake-up: the kernel saves itself a look at the clock (`rq_clock_skip_update`). That
//! is what packet processing does to the thread of the next interface. A perf event reads the clock itself.

use std::fs::File;
use std::io::Read;
use std::os::fd::FromRawFd;
use std::time::Duration;

use anyhow::{Context, Result};

const PERF_TYPE_SOFTWARE: u32 = 1;
const PERF_COUNT_SW_TASK_CLOCK: u64 = 1;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;

/// `struct perf_event_attr` in its first version, of which a task clock needs no more.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    unused: [u64; 6],
}

/// Counts the CPU time of one thread.
#[derive(Debug)]
pub(super) struct TaskClock(File);

impl TaskClock {
    /// Starts counting.
    ///
    /// # Errors
    /// When the thread is gone, or the kernel has no perf events.
    pub(super) fn start(thread: u32) -> Result<Self> {
        let attributes = Attributes {
            kind: PERF_TYPE_SOFTWARE,
            size: u32::try_from(size_of::<Attributes>()).context("size of an event's attributes")?,
            config: PERF_COUNT_SW_TASK_CLOCK,
            unused: [0; 6],
        };
        let (any_cpu, no_group) = (-1, -1);
        // SAFETY: reads the attributes, as many bytes as their size says; the rest are numbers.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw const attributes,
                thread.cast_signed(),
                any_cpu,
                no_group,
                PERF_FLAG_FD_CLOEXEC,
            )
        };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0);
        let fd = fd.ok_or_else(std::io::Error::last_os_error);
        let fd = fd.with_context(|| format!("count the CPU time of thread {thread} (perf_event_open)"))?;
        // SAFETY: a descriptor that the kernel has just made for us.
        Ok(Self(unsafe { File::from_raw_fd(fd) }))
    }

    /// CPU time since the start.
    ///
    /// # Errors
    /// When the kernel cannot say.
    pub(super) fn read(&self) -> Result<Duration> {
        let mut nanoseconds = [0; 8];
        (&self.0).read_exact(&mut nanoseconds).context("read a task clock")?;
        Ok(Duration::from_nanos(u64::from_ne_bytes(nanoseconds)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn counts_work_and_not_sleep() {
        // SAFETY: takes nothing and returns a number.
        let thread = unsafe { libc::gettid() }.cast_unsigned();
        let Ok(clock) = TaskClock::start(thread) else {
            // Ordinary users may be forbidden to count.
            return lb_tests::privilege::skipped("counts_work_and_not_sleep", "needs perf events");
        };
        std::thread::sleep(Duration::from_millis(50));
        let asleep = clock.read().unwrap();
        assert!(asleep < Duration::from_millis(40), "{asleep:?}");
        let start = Instant::now();
        while clock.read().unwrap() < asleep + Duration::from_millis(20) {
            assert!(start.elapsed() < Duration::from_secs(10), "it does not count");
        }
    }
}
