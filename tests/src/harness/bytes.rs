//! Maps as bytes: emptying any of them, and whether one is empty.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result, bail};
use aya::maps::{MapInfo, MapType};
use aya::util::nr_cpus;

// `enum bpf_cmd` in the kernel's include/uapi/linux/bpf.h.
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_DELETE_ELEM: libc::c_long = 3;
const MAP_GET_NEXT_KEY: libc::c_long = 4;
const MAP_UPDATE_BATCH: libc::c_long = 26;

/// The part of the kernel's `union bpf_attr` that is about one element of a map.
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    reserved: u32,
    key: u64,
    /// Also the next key.
    value: u64,
    flags: u64,
}

/// The part that is about many.
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Makes a map what it was when it was made. A map of maps stays as it is: its rings have an owner.
pub(super) fn clear(map: &MapInfo) -> Result<()> {
    let kind = map.map_type()?;
    if matches!(kind, MapType::Array | MapType::PerCpuArray) {
        zero(map)
    } else if matches!(kind, MapType::Hash | MapType::DevMap) {
        delete_all(map)
    } else if kind == MapType::ArrayOfMaps {
        Ok(())
    } else {
        bail!("no test knows how to empty a map of type {kind:?}")
    }
}

/// Whether a map is as it was when it was made: without keys, or an array of zeros.
pub(super) fn is_clear(map: &MapInfo) -> Result<bool> {
    let fd = map.fd()?;
    if map.map_type()? == MapType::Hash {
        return Ok(next_key(&fd, map, None)?.is_none());
    }
    let mut value = vec![0; value_bytes(map)?];
    for index in 0..map.max_entries() {
        // SAFETY: the keys of all other types are 32-bit indexes, and the value is as long as the map's.
        match unsafe { element(MAP_LOOKUP_ELEM, &fd, (&raw const index).cast(), value.as_mut_ptr()) } {
            Ok(()) if value.iter().any(|byte| *byte != 0) => return Ok(false),
            Ok(()) => {}
            // An empty place in a map of interfaces or of maps.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
            Err(e) => return Err(e).context("cannot read an element"),
        }
    }
    Ok(true)
}

/// Writes zeros to all elements of an array, in one call.
fn zero(map: &MapInfo) -> Result<()> {
    let fd = map.fd()?;
    let keys: Vec<u32> = (0..map.max_entries()).collect();
    let values = vec![0_u8; keys.len() * value_bytes(map)?];
    let mut attr = BatchAttr {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: map.max_entries(),
        map_fd: u32::try_from(fd.as_fd().as_raw_fd())?,
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: `keys` and `values` have `count` elements each and, like `attr`, live until the call returns.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, MAP_UPDATE_BATCH, &raw mut attr, size_of::<BatchAttr>()) };
    if done < 0 { Err(io::Error::last_os_error()).context("cannot write zeros") } else { Ok(()) }
}

fn delete_all(map: &MapInfo) -> Result<()> {
    let fd = map.fd()?;
    let mut key = next_key(&fd, map, None)?;
    while let Some(this) = key {
        // The key after this one: afterwards there would be none.
        key = next_key(&fd, map, Some(&this))?;
        // SAFETY: the key is as long as the map's.
        unsafe { element(MAP_DELETE_ELEM, &fd, this.as_ptr(), std::ptr::null_mut()) }
            .context("cannot delete an element")?;
    }
    Ok(())
}

/// The first key, or the one after `key`.
fn next_key(fd: impl AsFd, map: &MapInfo, key: Option<&[u8]>) -> Result<Option<Vec<u8>>> {
    let mut next = vec![0; map.key_size() as usize];
    let key = key.map_or(std::ptr::null(), <[u8]>::as_ptr);
    // SAFETY: both keys are as long as the map's; null asks for the first.
    match unsafe { element(MAP_GET_NEXT_KEY, fd, key, next.as_mut_ptr()) } {
        Ok(()) => Ok(Some(next)),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(e).context("cannot find the next key"),
    }
}

/// Bytes of an element as the kernel copies it: a per-CPU map has a value of whole words for every possible CPU.
fn value_bytes(map: &MapInfo) -> Result<usize> {
    let size = map.value_size() as usize;
    if map.map_type()? != MapType::PerCpuArray {
        return Ok(size);
    }
    let cpus = nr_cpus().map_err(|(_, e)| e).context("cannot count the CPUs")?;
    Ok(size.next_multiple_of(8) * cpus)
}

/// # Safety
/// `key` and `value` must be what `command` wants, for this map.
unsafe fn element(command: libc::c_long, map: impl AsFd, key: *const u8, value: *mut u8) -> io::Result<()> {
    let map_fd = u32::try_from(map.as_fd().as_raw_fd()).map_err(io::Error::other)?;
    let mut attr = ElementAttr { map_fd, reserved: 0, key: key as u64, value: value as u64, flags: 0 };
    // SAFETY: `attr` is as long as it is said to be and lives until the call returns; the rest as the caller promises.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attr, size_of::<ElementAttr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
