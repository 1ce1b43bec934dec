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
    // What varies most from flow to flow stands lowest (the last octet of the client, the low bits of its port),
    // because multiplication carries upwards only.
    let ports = (vip_port as u64) << 16 | u16::from_be(client_port) as u64;
    // IPv4-mapped addresses have a constant first half, and half of the second: both addresses in one word.
    let mut x = if c[0] | v[0] == 0 {
        mix(key, (vip.v4_word() as u64) << 32 | u32::from_be(client.v4_word()) as u64)
    } else {
        mix(mix(mix(mix(key, c[0]), u64::from_be(c[1])), v[0]), v[1])
    };
    x = mix(x, ports);
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

/// The way of its first bucket that a flow would rather have: where a lookup begins, before it asks the hint.
#[inline(always)]
#[must_use]
pub const fn preferred_way(hash: u64) -> u32 {
    (hash >> 33) as u32 & (PORTS_PER_BUCKET - 1)
}

/// Ports (and slots) per bucket.
pub const PORTS_PER_BUCKET: u32 = WAYS as u32;

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};
    use std::vec;
    use std::vec::Vec;

    /// How a hash spreads flows over buckets: the fullest bucket, and tags.
    struct Spread {
        load: Vec<u32>,
        tags: Vec<u32>,
    }

    const BUCKETS: u32 = 4096;

    fn spread(second: bool, flows: impl Iterator<Item = (Addr, u16)>) -> Spread {
        let vip = Addr::from(Ipv4Addr::new(10, 77, 0, 100));
        let vip6 = Addr::from(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100));
        let mut s = Spread { load: vec![0; BUCKETS as usize], tags: vec![0; 128] };
        for (client, port) in flows {
            let vip = if client.is_v4() { vip } else { vip6 };
            let mut h = flow_hash(7, &client, port.to_be(), &vip, 80u16.to_be());
            if second {
                h = second_hash(h);
            }
            // Sixteen blocks of 256 buckets: both parts of the place count.
            let p = place(h, 16, BUCKETS / 16);
            s.load[(p.block * (BUCKETS / 16) + p.bucket) as usize] += 1;
            s.tags[tag(h) as usize] += 1;
        }
        s
    }

    /// Clients as they come: few with many ports, many with one port, even ports only, steps of a power of two.
    /// 64 k flows, 16 a bucket on average: the fullest of 4,096 random buckets holds about 34.
    #[test]
    fn flows_as_they_come_spread_like_random_ones() {
        let v4 = |n: u32| Addr::from(Ipv4Addr::from(0x0a00_0000 + n));
        let v6 = |n: u16| Addr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n));
        let n = 0u32..1 << 16;
        let sets: Vec<(&str, Vec<(Addr, u16)>)> = vec![
            ("ports of few clients", n.clone().map(|i| (v4(i % 7), i as u16)).collect()),
            ("one port of many clients", n.clone().map(|i| (v4(i), 40_000)).collect()),
            ("even ports", n.clone().map(|i| (v4(i >> 14), (i << 1) as u16)).collect()),
            ("256 ports of 256 clients", n.clone().map(|i| (v4(i & 0xff), (i >> 8) as u16)).collect()),
            ("clients in steps of 256", n.clone().map(|i| (v4(i << 8), 40_000)).collect()),
            ("client and port in step", n.clone().map(|i| (v4(i), i as u16)).collect()),
            ("IPv6 hosts of one network", n.clone().map(|i| (v6(i as u16), 40_000)).collect()),
            ("IPv6 ports", n.map(|i| (v6(i as u16 & 3), i as u16)).collect()),
        ];
        for (what, flows) in sets {
            for second in [false, true] {
                let s = spread(second, flows.iter().copied());
                let max = s.load.iter().max().unwrap();
                let empty = s.load.iter().filter(|&&n| n == 0).count();
                assert!(*max <= 42 && empty <= 2, "{what}, second {second}: fullest {max}, {empty} empty");
                assert_eq!(s.tags[0], 0);
                let tags = (s.tags[1..].iter().min().unwrap(), s.tags[1..].iter().max().unwrap());
                assert!(*tags.0 > 300 && *tags.1 < 1400, "{what}, second {second}: tags {tags:?}");
            }
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
