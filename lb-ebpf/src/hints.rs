//! Writing hints: see [`lb_common::hint`].

use lb_common::hint::{Hint, TAG_PROTECTED, age};
use lb_common::node::Node;

use crate::flow::{Hit, WAYS_U32};
use crate::{atomic, clock, maps};

/// Says of a flow's slot whether it must not be claimed, and that something happened to it now.
#[inline(always)]
pub(crate) fn protect(node: &Node, hit: &Hit, is_protected: bool) {
    if let Some(hint) = maps::HINTS.get_ptr_mut(hit.bucket(node)) {
        set_protected(hint, hit.position.offset() % WAYS_U32, is_protected, age(clock::now()));
    }
}

/// The same for a slot of a bucket. One bit and not the tag's byte: when the flow has ended a moment ago, another CPU may
/// have given the slot to a flow with another tag by now, which nobody would find if the old one were written back.
#[inline(always)]
pub(crate) fn set_protected(hint: *mut Hint, way: u32, is_protected: bool, age: u8) {
    let way = way & 7;
    // SAFETY: points into `HINTS`, whose words are aligned; `way` is below 8, the bytes of each word.
    unsafe {
        atomic::assign_bits(&raw mut (*hint).tags, u64::from(TAG_PROTECTED) << (way * 8), is_protected);
        (&raw mut (*hint).ages).cast::<u8>().add(way as usize).write_volatile(age);
    }
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
