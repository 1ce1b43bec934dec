//! What time it is.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns};
use lb_common::abi::{TICK_SHIFT, ticks};

/// Nanoseconds of a jiffy. The loader sets it: the kernel's tick is a choice of its build.
#[unsafe(no_mangle)]
static NANOSECONDS_PER_JIFFY: u64 = 1_000_000;

/// Time in ticks with the resolution of one jiffy. Good enough for "last seen", which is compared with seconds.
///
/// The verifier turns the helper into a load from memory (`do_misc_fixups` in kernel/bpf/verifier.c): a coarse clock is
/// a call of some 7 ns, in every packet. Its zero is not that of any other clock, and it is not slewed: the agent asks the
/// program `clock` what it says.
#[inline(always)]
pub(crate) fn now() -> u32 {
    now_wide() as u32
}

/// The same time in as many bits as it takes never to wrap.
#[inline(always)]
pub(crate) fn now_wide() -> u64 {
    // SAFETY: a static of this object that the loader may have changed before the program was loaded.
    let step = unsafe { (&raw const NANOSECONDS_PER_JIFFY).read_volatile() };
    // SAFETY: a helper without arguments.
    unsafe { bpf_jiffies64() }.wrapping_mul(step) >> TICK_SHIFT
}

/// `CLOCK_MONOTONIC` in ticks, for the time to first byte: read once at a request and once at its response.
#[inline(always)]
pub(crate) fn exact_now() -> u32 {
    // SAFETY: a helper without arguments.
    ticks(unsafe { bpf_ktime_get_ns() })
}
