//! An array map in the agent's memory: read without a system call while the data path writes it.

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use aya::maps::MapData;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::error::{because, failure};
use crate::dataplane::DataplaneError;

/// A read-only view of a map whose values are `WORDS` 64-bit words. It outlives the data plane, and then stands still.
#[derive(Debug)]
pub(super) struct View<const WORDS: usize> {
    values: NonNull<[AtomicU64; WORDS]>,
    length: u32,
    bytes: NonZeroUsize,
}

// SAFETY: the view is only read, by atomic loads, and is unmapped when its last user drops it.
unsafe impl<const WORDS: usize> Send for View<WORDS> {}
// SAFETY: as above.
unsafe impl<const WORDS: usize> Sync for View<WORDS> {}

impl<const WORDS: usize> View<WORDS> {
    /// Maps the array `name` into memory; it must be made with `BPF_F_MMAPABLE`.
    pub(super) fn map(map: &MapData, name: &str) -> Result<Self, DataplaneError> {
        let what = || format!("map {name}: map into memory");
        let info = map.info().map_err(|e| failure(what(), &e))?;
        let length = info.max_entries();
        let size = size_of::<[AtomicU64; WORDS]>();
        if info.value_size() as usize != size {
            return Err(because(what(), "its values have another size: the maps are of another version"));
        }
        let bytes =
            NonZeroUsize::new(length as usize * size).ok_or_else(|| because(what(), "it is empty"))?;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start =
            unsafe { mmap(None, bytes, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, map.fd().as_fd(), 0) };
        let start = start.map_err(|e| failure(what(), &e))?;
        Ok(Self { values: start.cast(), length, bytes })
    }

    /// How many values there are.
    pub(super) const fn len(&self) -> u32 {
        self.length
    }

    /// The words of the value at `index`. The caller sees to it that it is below [`View::len`].
    #[inline]
    pub(super) fn value(&self, index: u32) -> &[AtomicU64; WORDS] {
        debug_assert!(index < self.length);
        // SAFETY: the mapping holds `length` values of `WORDS` words, is aligned to a page, lives as long as `self`, and
        // whoever writes to it writes whole words or parts of them: no load can see anything but numbers.
        unsafe { self.values.add(index as usize).as_ref() }
    }
}

impl<const WORDS: usize> Drop for View<WORDS> {
    fn drop(&mut self) {
        // SAFETY: mapped with this length in `map`, and nobody can have a reference into it any more. A failure would
        // leave it mapped, which harms nobody.
        let _ = unsafe { munmap(self.values.cast::<c_void>(), self.bytes.get()) };
    }
}
