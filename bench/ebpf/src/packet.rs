//! Packet memory, and the headers that programs of either family read.

use aya_ebpf::programs::XdpContext;
use lb_common::addr::Addr;

/// IPv4 header without options.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct V4 {
    /// Version and length.
    pub vihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Length of the packet, network order.
    pub len: [u8; 2],
    /// Identification.
    pub id: [u8; 2],
    /// Flags and fragment offset.
    pub frags: [u8; 2],
    /// TTL.
    pub ttl: u8,
    /// Protocol.
    pub protocol: u8,
    /// Checksum.
    pub check: [u8; 2],
    /// Source.
    pub src: [u8; 4],
    /// Destination.
    pub dst: [u8; 4],
}

/// IPv6 header.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct V6 {
    /// Version, class, flow label.
    pub vcf: [u8; 4],
    /// Length of the payload, network order.
    pub len: [u8; 2],
    /// Next header.
    pub protocol: u8,
    /// Hop limit.
    pub ttl: u8,
    /// Source.
    pub src: [u8; 16],
    /// Destination.
    pub dst: [u8; 16],
}

/// A pointer to a `T` at `offset` bytes, if the frame holds all of it. `T` must have alignment 1.
#[inline(always)]
pub fn at<T>(context: &XdpContext, offset: usize) -> Option<*mut T> {
    let start = context.data() + offset;
    (start + size_of::<T>() <= context.data_end()).then_some(start as *mut T)
}

/// Reads a number without alignment.
///
/// # Safety
/// `from` points to as many readable bytes as `T` has.
#[inline(always)]
pub unsafe fn read<T: Copy>(from: *const u8) -> T {
    // SAFETY: by the caller.
    unsafe { from.cast::<T>().read_unaligned() }
}

/// Writes a number without alignment.
///
/// # Safety
/// `to` points to as many writable bytes as `T` has.
#[inline(always)]
pub unsafe fn write<T: Copy>(to: *mut u8, value: T) {
    // SAFETY: by the caller.
    unsafe { to.cast::<T>().write_unaligned(value) }
}

/// An IPv6 address in packet memory.
#[inline(always)]
pub fn v6_addr(bytes: &[u8; 16]) -> Addr {
    let p = bytes.as_ptr();
    // SAFETY: 16 bytes.
    Addr::from_words(unsafe { [read(p), read(p.add(8))] })
}
