//! The only access to packet memory.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len};
use lb_common::headers::{Ethernet, Icmp, LinkLayerOption, Neighbor, Tcp, VlanTag};
use network_types::arp::ArpHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

/// A type that may be read from and written to packet memory.
///
/// # Safety
/// Alignment 1, no padding, and every bit pattern is a value.
pub(crate) unsafe trait Wire: Copy {}

/// Two headers, one behind the other: one bounds check for both.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Both<A, B> {
    pub(crate) first: A,
    pub(crate) second: B,
}

// SAFETY: byte arrays and bytes only, in `repr(C)`.
unsafe impl Wire for Ethernet {}
// SAFETY: as above.
unsafe impl Wire for VlanTag {}
// SAFETY: as above.
unsafe impl Wire for Tcp {}
// SAFETY: as above.
unsafe impl Wire for Icmp {}
// SAFETY: as above.
unsafe impl Wire for Neighbor {}
// SAFETY: as above.
unsafe impl Wire for LinkLayerOption {}
// SAFETY: as above.
unsafe impl Wire for ArpHdr {}
// SAFETY: as above.
unsafe impl Wire for Ipv4Hdr {}
// SAFETY: as above.
unsafe impl Wire for Ipv6Hdr {}
// SAFETY: bytes.
unsafe impl<const N: usize> Wire for [u8; N] {}
// SAFETY: both parts are, and alignment 1 leaves no padding between them.
unsafe impl<A: Wire, B: Wire> Wire for Both<A, B> {}

/// The frame that the program was called for.
///
/// Owns the context, so that a header borrowed from it cannot outlive a change of the frame's head: the
/// verifier would refuse what the borrow checker refuses first.
pub(crate) struct Packet {
    context: *mut xdp_md,
}

impl Packet {
    #[inline(always)]
    pub(crate) fn new(context: *mut xdp_md) -> Self {
        Self { context }
    }

    /// The raw context, for another part of the program and for the log.
    #[inline(always)]
    pub(crate) fn context(&self) -> *mut xdp_md {
        self.context
    }

    /// Index of the interface that the frame came in by.
    #[inline(always)]
    pub(crate) fn ingress(&self) -> u32 {
        // SAFETY: the kernel's context is valid while the program runs.
        unsafe { (*self.context).ingress_ifindex }
    }

    /// A header at `offset` bytes, if the frame's first buffer holds all of it.
    #[inline(always)]
    pub(crate) fn header<T: Wire>(&self, offset: usize) -> Option<&T> {
        // SAFETY: in bounds by `pointer`; `Wire` allows any alignment and content.
        self.pointer::<T>(offset).map(|p| unsafe { &*p })
    }

    /// A header at `offset` bytes, to be written.
    #[inline(always)]
    pub(crate) fn header_mut<T: Wire>(&mut self, offset: usize) -> Option<&mut T> {
        // SAFETY: as in `header`; `&mut self` makes it the only one.
        self.pointer::<T>(offset).map(|p| unsafe { &mut *p })
    }

    /// The verifier believes `pointer + constant > data_end` on the very pointer that is read, and nothing else.
    #[inline(always)]
    fn pointer<T>(&self, offset: usize) -> Option<*mut T> {
        // SAFETY: the kernel's context is valid while the program runs.
        let (data, end) = unsafe { ((*self.context).data as usize, (*self.context).data_end as usize) };
        let start = data + offset;
        if start + size_of::<T>() > end {
            return None;
        }
        Some(start as *mut T)
    }

    /// Length of the whole frame in bytes, buffers behind the first included.
    #[inline(always)]
    pub(crate) fn len(&self) -> u64 {
        // SAFETY: a helper call on the program's own context.
        unsafe { bpf_xdp_get_buff_len(self.context) }
    }

    /// Length of the frame's first buffer in bytes: all of it for frames up to about a page.
    #[inline(always)]
    pub(crate) fn linear_len(&self) -> u64 {
        // SAFETY: the kernel's context is valid while the program runs.
        unsafe { u64::from((*self.context).data_end).wrapping_sub(u64::from((*self.context).data)) }
    }

    /// Makes the frame as long as this, or leaves it as it is when it is padded to the least length of Ethernet
    /// (IEEE 802.3 §3.2.7, 60 bytes without its check sequence) and needs less.
    #[inline(always)]
    #[must_use]
    pub(crate) fn set_len(&mut self, len: usize) -> bool {
        const LEAST: u64 = 60;
        let now = self.len();
        let wanted = if (len as u64) < LEAST && now >= LEAST { LEAST } else { len as u64 };
        if wanted > now {
            return self.prepend((wanted - now) as usize);
        }
        let change = wanted.wrapping_sub(now) as i32;
        // SAFETY: a helper call on the program's own context; no header is borrowed (`&mut self`).
        change == 0 || unsafe { bpf_xdp_adjust_tail(self.context, change) == 0 }
    }

    /// Makes the frame longer at its start: a frame that another namespace's kernel has made, and veth hands over as it is,
    /// has no room behind it. What is before the IP header stays before it.
    #[inline(always)]
    fn prepend(&mut self, by: usize) -> bool {
        /// Ethernet and two tags. What else is copied belongs to headers that will be written anew.
        const LINK: usize = 14 + 2 * 4;
        let Some(&link) = self.header::<[u8; LINK]>(0) else { return false };
        if !self.trim_head(-(by as i32)) {
            return false;
        }
        let Some(start) = self.header_mut::<[u8; LINK]>(0) else { return false };
        *start = link;
        true
    }

    /// Moves the start of the frame: shorter by `delta` bytes, or longer when it is negative.
    #[inline(always)]
    #[must_use]
    pub(crate) fn trim_head(&mut self, delta: i32) -> bool {
        // SAFETY: a helper call on the program's own context; no header is borrowed (`&mut self`).
        unsafe { bpf_xdp_adjust_head(self.context, delta) == 0 }
    }
}

/// Copies a MAC in two words. A plain assignment of six bytes becomes a call of a loop.
#[inline(always)]
pub(crate) fn copy_mac(to: &mut [u8; 6], from: &[u8; 6]) {
    let (high, low) = mac_words(from);
    let to = to.as_mut_ptr();
    // SAFETY: four and two bytes of the six, without alignment.
    unsafe {
        to.cast::<u32>().write_unaligned(high);
        to.add(4).cast::<u16>().write_unaligned(low);
    }
}

/// Compares two MACs in two words.
#[inline(always)]
pub(crate) fn same_mac(a: &[u8; 6], b: &[u8; 6]) -> bool {
    let (a, b) = (mac_words(a), mac_words(b));
    (a.0 ^ b.0) | u32::from(a.1 ^ b.1) == 0
}

#[inline(always)]
fn mac_words(mac: &[u8; 6]) -> (u32, u16) {
    let p = mac.as_ptr();
    // SAFETY: four and two bytes of the six, without alignment.
    unsafe { (p.cast::<u32>().read_unaligned(), p.add(4).cast::<u16>().read_unaligned()) }
}
