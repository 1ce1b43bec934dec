//! What a bucket's slots look like from outside: which to look at for a flow, which to take for a new one.
//!
//! All bit tricks over eight bytes in a word are here, so that the verifier follows arithmetic and not loops.

use crate::flow::WAYS;

map_value! {
    /// What a bucket's slots look like from outside.
    #[derive(Default)]
    pub struct Hint {
        /// A byte a slot: 0 never used, otherwise the flow's [`crate::hash::tag`], with
        /// [`TAG_PROTECTED`] while the slot must not be claimed.
        pub tags: u64,
        /// A byte a slot: [`age`] of the last claim or close.
        pub ages: u64,
    }
}

/// Bit of a [`Hint::tags`] byte: an established flow.
pub const TAG_PROTECTED: u8 = 0x80;

const LOW7: u64 = 0x7f7f_7f7f_7f7f_7f7f;
const HIGH: u64 = 0x8080_8080_8080_8080;
const ONES: u64 = 0x0101_0101_0101_0101;

/// The clock of [`Hint::ages`]: units of 2^32 ns (4.3 s), modulo 256 (18 minutes).
#[inline(always)]
#[must_use]
pub const fn age(now_ticks: u32) -> u8 {
    (now_ticks >> 16) as u8
}

/// Mask of the ways whose tag is `tag`, protected or not: the high bit of each way's byte.
#[inline(always)]
#[must_use]
pub const fn ways_with_tag(tags: u64, tag: u8) -> u64 {
    let differs = (tags ^ (ONES * tag as u64)) & LOW7;
    !(differs + LOW7) & HIGH
}

/// Mask of the ways that are not protected.
#[inline(always)]
#[must_use]
pub const fn unprotected_ways(tags: u64) -> u64 {
    !tags & HIGH
}

/// Mask of the ways that were never used.
#[inline(always)]
#[must_use]
pub const fn unused_ways(tags: u64) -> u64 {
    !(((tags & LOW7) + LOW7) | tags) & HIGH
}

/// How many ways are in a mask.
#[inline(always)]
const fn count_ways(mask: u64) -> u32 {
    ((mask >> 7).wrapping_mul(ONES) >> 56) as u32
}

/// A first bucket with so few unused ways left shares with the second.
const FEW_WAYS: u32 = 3;

/// Whether a new flow goes to the second of its buckets, given the unused ways of both.
///
/// Filling the first bucket up before the second is touched leaves pairs of full buckets when only a quarter of the
/// table is used. Always taking the emptier one puts a third of the flows into their second bucket, where finding
/// them costs another cache line. So the first has precedence while it is half empty: less than a tenth of the flows
/// of a half full table stand in their second bucket, and no flow is turned away below 60 %.
#[inline(always)]
#[must_use]
pub const fn second_bucket_first(unused: [u64; 2]) -> bool {
    let (first, second) = (count_ways(unused[0]), count_ways(unused[1]));
    first <= FEW_WAYS && second > first
}

/// The first way of a mask that is not 0.
#[inline(always)]
#[must_use]
pub const fn first_way(mask: u64) -> u32 {
    // The lowest set bit, brought to the bottom of its byte, selects that byte's number from the constant.
    let lowest = (mask & mask.wrapping_neg()) >> 7;
    (lowest.wrapping_mul(0x0001_0203_0405_0607) >> 56) as u32
}

/// Per byte `minuend - subtrahend`, modulo 256.
const fn subtract_bytes(minuend: u64, subtrahend: u64) -> u64 {
    ((minuend | HIGH) - (subtrahend & LOW7)) ^ ((minuend ^ !subtrahend) & HIGH)
}

/// Of the ways in two masks (of two buckets), those that have rested longest by their bucket's `ages`.
///
/// Returns the masks of the ways that share the greatest age; both are 0 only when both were.
#[inline(always)]
#[must_use]
pub const fn oldest_ways(mut masks: [u64; 2], ages: [u64; 2], now: u8) -> [u64; 2] {
    let now = ONES * now as u64;
    let mut rests = [subtract_bytes(now, ages[0]), subtract_bytes(now, ages[1])];
    // From the highest bit of the age down: where any candidate has it, those without it are out.
    let mut bit = 0;
    while bit < 8 {
        let with = [masks[0] & rests[0], masks[1] & rests[1]];
        let any = with[0] | with[1];
        // All ones when `any` is not 0: no branch, so that the verifier sees one path and not 2^8.
        let keep = ((any | any.wrapping_neg()) as i64 >> 63).cast_unsigned();
        masks = [(with[0] & keep) | (masks[0] & !keep), (with[1] & keep) | (masks[1] & !keep)];
        rests = [rests[0] << 1, rests[1] << 1];
        bit += 1;
    }
    masks
}

/// `wanted` if it is in the mask, otherwise the first way of the mask, which is not 0.
#[inline(always)]
#[must_use]
pub const fn way_or_first(mask: u64, wanted: u32) -> u32 {
    let bit = mask & (0x80 << (wanted * 8));
    // As in `oldest_ways`: no branch.
    let keep = ((bit | bit.wrapping_neg()).cast_signed() >> 63).cast_unsigned();
    first_way((bit & keep) | (mask & !keep))
}

/// `mask` without its first way.
#[inline(always)]
#[must_use]
pub const fn without_first(mask: u64) -> u64 {
    mask & mask.wrapping_sub(1)
}

const _: () = assert!(WAYS == 8, "a hint has a byte for each way");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Fills tables flow by flow, as claiming does, until one is turned away.
    #[test]
    fn two_buckets_hold_a_well_filled_table() {
        use crate::addr::Addr;
        use crate::hash::{flow_hash, place, second_hash};
        for (blocks, key) in [(1, 1), (4, 2), (16, 3)] {
            let buckets = 3968;
            let mut used = std::vec![0u32; (blocks * buckets) as usize];
            let slots = used.len() * WAYS;
            let unused = |used: u32| HIGH.checked_shl(8 * used).unwrap_or(0);
            let (mut flows, mut seconds) = (0, 0);
            loop {
                let client = Addr::from_v4_word((0xcb00_7107 + (flows >> 14) as u32).to_be());
                let port = (1024 + (flows & 0x3fff)) as u16;
                let hash = flow_hash(key, &client, port.to_be(), &Addr::from_v4_word(0x6400_4d0a), 0x5000);
                let at = [hash, second_hash(hash)].map(|h| {
                    let place = place(h, blocks, buckets);
                    (place.block * buckets + place.bucket) as usize
                });
                let second = usize::from(second_bucket_first(at.map(|bucket| unused(used[bucket]))));
                if used[at[second]] as usize == WAYS {
                    break;
                }
                used[at[second]] += 1;
                flows += 1;
                seconds += second;
                if flows == slots / 2 {
                    assert!(seconds * 10 < flows, "{seconds} of {flows} in their second bucket");
                }
            }
            assert!(flows * 10 > slots * 6, "{blocks} blocks: {flows} of {slots} slots");
        }
    }

    proptest! {
        /// What the bit tricks choose is what a loop over sixteen bytes chooses.
        #[test]
        fn oldest_equals_loop(tags: [u64; 2], ages: [u64; 2], now: u8, close: bool) {
            let ages = if close { [ages[0] & 0x0303_0303_0303_0303, ages[1] & 0x0303_0303_0303_0303] } else { ages };
            let masks = [unprotected_ways(tags[0]), unprotected_ways(tags[1])];
            let rest = |b: usize, w: usize| now.wrapping_sub(ages[b].to_le_bytes()[w]);
            let candidate = |b: usize, w: usize| masks[b].to_le_bytes()[w] != 0;
            let all = (0..2).flat_map(|b| (0..8).map(move |w| (b, w)));
            let best = all.filter(|&(b, w)| candidate(b, w)).map(|(b, w)| rest(b, w)).max();
            let got = oldest_ways(masks, ages, now);
            for (b, mask) in got.iter().enumerate() {
                for (w, byte) in mask.to_le_bytes().into_iter().enumerate() {
                    let want = candidate(b, w) && Some(rest(b, w)) == best;
                    prop_assert_eq!(byte, if want { 0x80 } else { 0 });
                }
            }
        }

        /// The masks say what a loop over the eight bytes says.
        #[test]
        fn masks_equal_loops(tags: u64, tag in 1u8..128, near: bool) {
            let tags = if near { tags & (0x0101_0101_0101_0101 * u64::from(tag | 0x80)) } else { tags };
            let bytes = tags.to_le_bytes();
            for (mask, want) in [
                (ways_with_tag(tags, tag), bytes.map(|b| b & 0x7f == tag)),
                (unprotected_ways(tags), bytes.map(|b| b & TAG_PROTECTED == 0)),
                (unused_ways(tags), bytes.map(|b| b == 0)),
            ] {
                prop_assert_eq!(mask.to_le_bytes().map(|b| b == 0x80), want);
                prop_assert_eq!(mask & LOW7, 0);
                for wanted in 0..8u32 {
                    let first = want.iter().position(|&w| w);
                    let expected = if want[wanted as usize] { Some(wanted as usize) } else { first };
                    if let Some(expected) = expected {
                        prop_assert_eq!(way_or_first(mask, wanted) as usize, expected);
                    }
                }
                let mut rest = mask;
                for way in (0..8).filter(|&w| want[w]) {
                    prop_assert_eq!(first_way(rest) as usize, way);
                    rest = without_first(rest);
                }
                prop_assert_eq!(rest, 0);
            }
        }
    }
}
