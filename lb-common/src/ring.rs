//! The table that turns a flow's hash into a backend.

/// Entries of a ring. Prime, as Maglev (Eisenbud et al., NSDI 2016, §3.4) needs, and more than 100 times
/// the backends of a service, so that shares are within 1 % of the weights.
pub const RING_SIZE: usize = 65_537;

/// Id in a ring entry that stands for "no backend".
pub const NO_BACKEND: u16 = 0;

map_value! {
    /// One service's ring: the single value of an inner map, replaced as a whole.
    pub struct Ring {
        /// How many different backends the ring holds; 0 when the service has none, and then no entry counts.
        pub backends: u32,
        /// How many of `slots` are used, from the first: [`RING_SIZE`] for Maglev; for round robin the length
        /// of the longest whole number of rotations that fits.
        pub length: u32,
        /// Backend ids.
        pub slots: [u16; RING_SIZE],
        /// Zero.
        pub reserved: u16,
    }
}

#[cfg(feature = "aya")]
impl Ring {
    /// A ring of no backend, made on the heap: 128 KiB have no place on a stack.
    #[must_use]
    pub fn empty() -> alloc::boxed::Box<Self> {
        // SAFETY: a ring is plain integers, for which all bits zero is a value.
        unsafe { alloc::boxed::Box::new_zeroed().assume_init() }
    }

    /// The entries that count.
    #[must_use]
    pub fn entries(&self) -> &[u16] {
        let used = if self.backends == 0 { 0 } else { self.length as usize };
        self.slots.get(..used).unwrap_or(&self.slots)
    }
}

/// Index of the ring entry that belongs to `hash`, below `length`.
#[inline(always)]
#[must_use]
pub const fn ring_index(hash: u32, length: u32) -> u32 {
    ((hash as u64 * length as u64) >> 32) as u32
}
