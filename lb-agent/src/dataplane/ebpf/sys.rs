//! Commands that aya does not have: a map's element into memory that the caller has, one out of an array of maps, and a
//! program's run from a thread that has nothing but its descriptor.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use aya::Pod;

// `enum bpf_cmd` in the kernel's include/uapi/linux/bpf.h.
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_DELETE_ELEM: libc::c_long = 3;
const PROG_TEST_RUN: libc::c_long = 10;

/// The part of the kernel's `union bpf_attr` that is about one element of a map.
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The part of the kernel's `union bpf_attr` that is about the run of a program.
#[repr(C)]
#[derive(Default)]
struct RunAttr {
    program_fd: u32,
    result: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

/// Runs a program once over `packet`, which holds afterwards what the program has made of it. Returns what the program
/// returns.
///
/// # Errors
/// What the kernel says; `ENOSPC` when the program makes the packet longer.
pub(super) fn run(program: impl AsFd, packet: &mut [u8]) -> io::Result<u32> {
    let too_long = |_| io::Error::from_raw_os_error(libc::EINVAL);
    let size = u32::try_from(packet.len()).map_err(too_long)?;
    let data = packet.as_mut_ptr() as u64;
    let program_fd = program.as_fd().as_raw_fd();
    let mut attr = RunAttr {
        program_fd: u32::try_from(program_fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?,
        size_in: size,
        size_out: size,
        data_in: data,
        data_out: data,
        repeat: 1,
        ..RunAttr::default()
    };
    // SAFETY: `attr` is as long as it is said to be. The kernel copies `packet` before the program runs, and writes no more
    // than its length back; it is borrowed for us alone.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_TEST_RUN, &raw mut attr, size_of::<RunAttr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(attr.result) }
}

/// Reads the element at `index` into `value`, for values that are too large for a stack.
///
/// # Safety
/// The map's keys must be 32-bit integers and its values as long as `value`.
///
/// # Errors
/// What the kernel says; not found is `ENOENT`.
pub(super) unsafe fn lookup<T: Pod>(map: impl AsFd, index: u32, value: &mut T) -> io::Result<()> {
    // SAFETY: the kernel writes a value of the caller's size into `value`, for which any bytes will do.
    unsafe { element(MAP_LOOKUP_ELEM, map, index, (&raw mut *value).cast()) }
}

/// Empties the element at `index`.
///
/// # Safety
/// The map's keys must be 32-bit integers.
///
/// # Errors
/// What the kernel says; not found is `ENOENT`.
pub(super) unsafe fn delete(map: impl AsFd, index: u32) -> io::Result<()> {
    // SAFETY: as the caller promises; no value is read or written.
    unsafe { element(MAP_DELETE_ELEM, map, index, std::ptr::null_mut()) }
}

/// # Safety
/// Keys must be 32-bit integers, and `value` must be what `command` wants.
unsafe fn element(command: libc::c_long, map: impl AsFd, index: u32, value: *mut u8) -> io::Result<()> {
    let map_fd = map.as_fd().as_raw_fd();
    let mut attr = ElementAttr {
        map_fd: u32::try_from(map_fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?,
        reserved: 0,
        key: (&raw const index) as u64,
        value: value as u64,
        flags: 0,
    };
    // SAFETY: `attr` is as long as it is said to be, and it and `index` live until the call returns; the rest as the
    // caller promises.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attr, size_of::<ElementAttr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
