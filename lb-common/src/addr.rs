//! One address type for both families.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IP address in 16 bytes, network order; IPv4 as an IPv4-mapped IPv6 address (RFC 4291 §2.5.5.2).
///
/// Held as two machine words, so that comparing two addresses is two comparisons and not sixteen.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addr {
    words: [u64; 2],
}

/// The first eight bytes of the second half of an IPv4-mapped address: `00 00 ff ff` and then the address.
const V4_PREFIX: u64 = 0xffff_0000;

// SAFETY: `repr(C)` over two `u64`, no padding.
#[cfg(feature = "aya")]
unsafe impl aya::Pod for Addr {}

impl Addr {
    /// The all-zero address, which no packet may carry as a destination.
    pub const UNSPECIFIED: Self = Self { words: [0, 0] };

    /// From the two halves as they stand in a packet, read as native words.
    #[inline(always)]
    #[must_use]
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self { words }
    }

    /// The two halves as native words of the bytes in network order.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> [u64; 2] {
        self.words
    }

    /// From the four bytes of an IPv4 address, read from the packet as one native word.
    #[inline(always)]
    #[must_use]
    pub const fn from_v4_word(word: u32) -> Self {
        Self { words: [0, V4_PREFIX | (word as u64) << 32] }
    }

    /// The last four bytes as a native word: for IPv4 the whole address as it stands in a packet.
    #[inline(always)]
    #[must_use]
    pub const fn v4_word(&self) -> u32 {
        (self.words[1] >> 32) as u32
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        self.words[0] == 0 && self.words[1] & 0xffff_ffff == V4_PREFIX
    }

    /// The 16 bytes in network order.
    #[must_use]
    pub const fn octets(&self) -> [u8; 16] {
        let [a, b] = [self.words[0].to_ne_bytes(), self.words[1].to_ne_bytes()];
        let mut out = [0; 16];
        let mut i = 0;
        while i < 8 {
            out[i] = a[i];
            out[8 + i] = b[i];
            i += 1;
        }
        out
    }

    /// How far this address lies after `base` when both share their first 96 bits; `None` otherwise or
    /// when it lies before.
    #[inline(always)]
    #[must_use]
    pub const fn offset_from(&self, base: &Self) -> Option<u32> {
        if self.words[0] != base.words[0] || self.words[1] as u32 != base.words[1] as u32 {
            return None;
        }
        u32::from_be(self.v4_word()).checked_sub(u32::from_be(base.v4_word()))
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(a: Ipv4Addr) -> Self {
        Self::from_v4_word(u32::from_ne_bytes(a.octets()))
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(a: Ipv6Addr) -> Self {
        let value = u128::from_ne_bytes(a.octets());
        Self { words: [value as u64, (value >> 64) as u64] }
    }
}

impl From<IpAddr> for Addr {
    fn from(a: IpAddr) -> Self {
        match a {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl From<Addr> for IpAddr {
    fn from(a: Addr) -> Self {
        let v6 = Ipv6Addr::from(a.octets());
        v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_network_order_and_v4_is_mapped() {
        let v4 = Addr::from(Ipv4Addr::new(10, 77, 0, 1));
        assert_eq!(v4.octets(), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 77, 0, 1]);
        assert!(v4.is_v4());
        assert_eq!(IpAddr::from(v4), IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1)));
        let v6: Ipv6Addr = "fd77::1".parse().unwrap();
        assert_eq!(Addr::from(v6).octets(), v6.octets());
        assert!(!Addr::from(v6).is_v4());
        assert!(!Addr::UNSPECIFIED.is_v4());
    }

    #[test]
    fn offset_counts_in_the_last_32_bits() {
        let base = Addr::from(Ipv4Addr::new(10, 0, 0, 250));
        assert_eq!(Addr::from(Ipv4Addr::new(10, 0, 1, 4)).offset_from(&base), Some(10));
        assert_eq!(Addr::from(Ipv4Addr::new(10, 0, 0, 249)).offset_from(&base), None);
        let v6: Ipv6Addr = "::a00:fb".parse().unwrap();
        assert_eq!(Addr::from(v6).offset_from(&base), None, "families never match");
    }
}
