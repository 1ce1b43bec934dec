//! Hashes of a flow: where it stands in the table, and where on the ring.

use crate::addr::Addr;
use crate::flow::WAYS;

const K0: u64 = 0x9e37_79b9_7f4a_7c15;
const K1: u64 = 0xbf58_476d_1ce4_e5b9;
const K2: u64 = 0x94d0_49bb_1331_11eb;

#[inline(always)]
const fn mix(state: u64, word: u64) -> u64 {
    let x = (state ^ word).wrapping_mul(K0);
    x ^ (x >> 29)
}

/// Hash of a client's TCP flow to a VIP. Ports are in network order, as they stand in the packet.
///
/// With the node's secret `key` it places flows in the flow table, where collisions can be provoked by
/// whoever knows the key; with the fixed [`RING_KEY`] it chooses on the ring, where every node must agree.
#[inline(always)]
#[must_use]
pub const fn flow_hash(key: u64, client: &Addr, client_port: u16, vip: &Addr, vip_port: u16) -> u64 {
    let (c, v) = (client.words(), vip.words());
    let mut x = mix(key, c[1]);
    // IPv4-mapped addresses have a constant first half: skipping it keeps the IPv4 path short.
    if c[0] | v[0] != 0 {
        x = mix(x, c[0]);
        x = mix(x, v[0]);
    }
    x = mix(x, v[1]);
    x = mix(x, (client_port as u64) << 16 | vip_port as u64);
    x = (x ^ (x >> 32)).wrapping_mul(K1);
    x ^ (x >> 29)
}

/// Key of [`flow_hash`] for the ring: the same on every node.
pub const RING_KEY: u64 = 0x5bd1_e995_7b2d_58f1;

/// The hash of the second candidate, from the first.
#[inline(always)]
#[must_use]
pub const fn second_hash(hash: u64) -> u64 {
    let x = (hash ^ (hash >> 31)).wrapping_mul(K2);
    x ^ (x >> 29)
}

/// One of the two places where a flow may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Block within the family: which SNAT address.
    pub block: u32,
    /// Bucket within the block: which eight ports.
    pub bucket: u32,
}

/// Turns a hash into a place among `blocks` blocks (at most 65,536) of `buckets` buckets.
#[inline(always)]
#[must_use]
pub const fn place(hash: u64, blocks: u32, buckets: u32) -> Place {
    Place {
        block: (((hash >> 48) * blocks as u64) >> 16) as u32,
        bucket: (((hash & 0xffff_ffff) * buckets as u64) >> 32) as u32,
    }
}

/// The tag of a flow in its bucket's hint: seven bits, never zero.
#[inline(always)]
#[must_use]
pub const fn tag(hash: u64) -> u8 {
    let t = (hash >> 36) as u8 & 0x7f;
    if t == 0 { 1 } else { t }
}

/// Ports (and slots) per bucket.
pub const PORTS_PER_BUCKET: u32 = WAYS as u32;

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;
    use std::vec;

    /// 64 k flows of one client into 4,096 buckets: no bucket gets more than four times its share.
    #[test]
    fn neighbouring_flows_spread() {
        let vip = Addr::from(Ipv4Addr::new(10, 77, 0, 100));
        for second in [false, true] {
            let mut load = vec![0u32; 4096];
            let mut tags = vec![0u32; 128];
            for port in 0..=u16::MAX {
                let client = Addr::from(Ipv4Addr::new(10, 0, 0, (port % 7) as u8));
                let mut h = flow_hash(7, &client, port.to_be(), &vip, 80u16.to_be());
                if second {
                    h = second_hash(h);
                }
                let p = place(h, 1, 4096);
                load[p.bucket as usize] += 1;
                tags[tag(h) as usize] += 1;
            }
            let (min, max) = (load.iter().min().unwrap(), load.iter().max().unwrap());
            assert!(*max <= 40 && *min >= 2, "mean 16, seen {min} to {max}");
            assert_eq!(tags[0], 0);
            assert!(tags[1..].iter().all(|&n| n > 300 && n < 1400), "{tags:?}");
        }
    }

    #[test]
    fn places_stay_in_range() {
        for h in [0, 1, u64::MAX, 0xffff_0000_0000_0000, 0x0000_ffff_ffff_ffff] {
            let p = place(h, 3, 3968);
            assert!(p.block < 3 && p.bucket < 3968, "{h:x} {p:?}");
        }
    }
}
