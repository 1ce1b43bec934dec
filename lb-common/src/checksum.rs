//! Internet checksum arithmetic (RFC 1071, incremental update by RFC 1624).
//!
//! Words are summed as they stand in memory: the one's-complement sum does not depend on byte order
//! (RFC 1071 §2(B)), so nothing is swapped.

use crate::addr::Addr;

/// Folds a sum of 16-bit or 32-bit words to 16 bits.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u64) -> u16 {
    let s = (sum & 0xffff_ffff) + (sum >> 32);
    let s = (s & 0xffff) + (s >> 16 & 0xffff) + (s >> 32);
    let s = (s & 0xffff) + (s >> 16);
    let s = (s & 0xffff) + (s >> 16);
    s as u16
}

/// One's-complement sum of an address, unfolded.
#[inline(always)]
#[must_use]
pub const fn addr_sum(a: &Addr) -> u64 {
    let [x, y] = a.words();
    (x & 0xffff_ffff) + (x >> 32) + (y & 0xffff_ffff) + (y >> 32)
}

/// The change of a checksum's sum when what summed to `old` becomes what sums to `new` (both unfolded).
///
/// Add it with [`apply`] (and two deltas with [`both`]); its negation is its complement, [`negate`].
#[inline(always)]
#[must_use]
pub const fn delta(old: u64, new: u64) -> u16 {
    fold(new + (!fold(old)) as u64)
}

/// The delta of the opposite change.
#[inline(always)]
#[must_use]
pub const fn negate(delta: u16) -> u16 {
    !delta
}

/// The delta of two changes, one after the other.
#[inline(always)]
#[must_use]
pub const fn both(a: u16, b: u16) -> u16 {
    fold_sum(a as u32 + b as u32)
}

/// A checksum after a change by `delta`: `HC' = ~(~HC + ~m + m')`, RFC 1624 equation 3.
#[inline(always)]
#[must_use]
pub const fn apply(checksum: u16, delta: u16) -> u16 {
    !fold_sum((!checksum) as u32 + delta as u32)
}

/// Folds the sum of a few 16-bit words (at most 2^16 of them): two steps and not four.
#[inline(always)]
const fn fold_sum(sum: u32) -> u16 {
    let s = (sum & 0xffff) + (sum >> 16);
    (s + (s >> 16)) as u16
}

/// Checksum over bytes, as a header's checksum field holds it (in memory order).
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

/// One's-complement sum of bytes, unfolded.
#[must_use]
pub fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|c| u64::from(u16::from_ne_bytes([c[0], c.get(1).copied().unwrap_or(0)]))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc1071_example() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes)).to_ne_bytes(), [0xdd, 0xf2]);
    }

    proptest! {
        /// Whatever changes, the incremental result verifies as a full sum does.
        #[test]
        fn incremental_equals_full(mut data in proptest::collection::vec(any::<u8>(), 20..60), new: [u8; 4], neg: bool) {
            data.truncate(data.len() & !1);
            data[0] |= 1; // a packet is never all zero
            let (old_sum, new_sum) = (sum(&data[4..8]), sum(&new));
            let before = checksum(&data);
            let d = if neg { negate(delta(new_sum, old_sum)) } else { delta(old_sum, new_sum) };
            data[4..8].copy_from_slice(&new);
            // Zero has two representations; a receiver adds and compares with all ones.
            prop_assert_eq!(fold(sum(&data) + u64::from(apply(before, d))), 0xffff);
        }
    }
}
