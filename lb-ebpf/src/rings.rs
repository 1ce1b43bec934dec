//! The maps within `RINGS`: what one is to the loader, and how a ring is found in one.
//!
//! `btf_maps::Array` would do on newer kernels. On 6.1 a map may stand in a map of maps only when it agrees with the
//! template about BTF: `bpf_map_meta_equal` (`kernel/bpf/map_in_map.c`) compares where the values have a timer, and "no
//! timer" of values with a known type is another answer than "no type". The agent makes its rings without types, as aya
//! does, so the template has none either: sizes, and no key and value.

use core::ptr;

use aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_ARRAY;
use aya_ebpf::helpers::bpf_map_lookup_elem;
use lb_common::ring::Ring;

use crate::maps;

/// Definition of an array of one [`Ring`], read by the loader from the object's BTF: numbers are lengths of array types.
#[repr(C)]
pub(crate) struct RingArray {
    r#type: *const [i32; BPF_MAP_TYPE_ARRAY as usize],
    key_size: *const [i32; size_of::<u32>()],
    value_size: *const [i32; size_of::<Ring>()],
    max_entries: *const [i32; 1],
    map_flags: *const [i32; 0],
}

/// The ring at an index of `RINGS`, if there is one.
#[inline(always)]
pub(crate) fn get(index: u32) -> Option<&'static Ring> {
    let array = maps::RINGS.get(index)?;
    let first = 0u32;
    // SAFETY: the map is one that `RINGS` holds, and those have 32-bit keys.
    let ring =
        unsafe { bpf_map_lookup_elem(ptr::from_ref(array).cast_mut().cast(), (&raw const first).cast()) };
    // SAFETY: null, or the ring of that size that the map holds. It outlives the program's run, for which a map that was
    // taken out of `RINGS` is kept (RCU), and nobody writes it after it was put there.
    unsafe { ring.cast::<Ring>().as_ref() }
}
