//! Limits of this process.

use std::mem::MaybeUninit;

/// Raises the soft limit of open files to the hard one: thousands of connections need as many descriptors.
/// A limit that stays low shows itself as failed connections.
pub fn allow_many_files() {
    let mut limit = MaybeUninit::<libc::rlimit>::uninit();
    // SAFETY: `getrlimit` fills the struct that it is given, and returns 0 when it did.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, limit.as_mut_ptr()) } == 0;
    if known {
        // SAFETY: filled, as the return value says.
        let mut limit = unsafe { limit.assume_init() };
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: reads the struct, which lives on this stack.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}
