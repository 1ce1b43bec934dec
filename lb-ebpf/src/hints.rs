//! Writing hints: see [`lb_common::hint`].

use lb_common::hint::{Hint, age};
use lb_common::node::Node;

use crate::flow::{Hit, WAYS_U32};
use crate::{clock, maps};

/// Changes a flow's tag in its bucket's hint, and its age to now.
#[inline(always)]
pub(crate) fn mark(node: &Node, hit: &Hit, change: impl Fn(u8) -> u8) {
    if let Some(hint) = maps::HINTS.get_ptr_mut(hit.bucket(node)) {
        update_tag(hint, hit.position.offset() % WAYS_U32, change, age(clock::now()));
    }
}

/// Changes one slot's tag, and its age.
#[inline(always)]
pub(crate) fn update_tag(hint: *mut Hint, way: u32, change: impl Fn(u8) -> u8, age: u8) {
    // SAFETY: the masked way is below 8, the bytes of `tags`.
    let tag = unsafe { (&raw const (*hint).tags).cast::<u8>().add((way & 7) as usize).read_volatile() };
    write_hint(hint, way, change(tag), age);
}

/// Writes the two bytes of one slot. Byte stores, so that the owners of the other slots are not disturbed.
#[inline(always)]
pub(crate) fn write_hint(hint: *mut Hint, way: u32, tag: u8, age: u8) {
    let way = (way & 7) as usize;
    // SAFETY: `way` is below 8, the bytes of each word.
    unsafe {
        (&raw mut (*hint).tags).cast::<u8>().add(way).write_volatile(tag);
        (&raw mut (*hint).ages).cast::<u8>().add(way).write_volatile(age);
    }
}
