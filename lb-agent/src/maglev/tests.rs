use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use lb_common::service::ServiceKey;
use proptest::prelude::*;

use super::*;

fn key(n: u16) -> BackendKey {
    let vip = Ipv4Addr::new(10, 77, 0, 100).into();
    let [high, low] = n.to_be_bytes();
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 77, high, low)), 8088);
    BackendKey { service: ServiceKey::tcp(vip, 80u16.to_be()), address }
}

/// Backend `n` has the identity of 10.77.0.n and id n.
fn members(weights: &[u16]) -> Vec<Member> {
    (1..).zip(weights).map(|(n, &weight)| Member { identity: identity(&key(n)), id: n, weight }).collect()
}

fn shares(ring: &Ring) -> BTreeMap<u16, f64> {
    let mut out = BTreeMap::new();
    for &id in ring.entries() {
        *out.entry(id).or_insert(0.0) += 1.0 / f64::from(ring.length);
    }
    out
}

fn weights() -> impl Strategy<Value = Vec<u16>> {
    prop_oneof![
        (1usize..=20).prop_map(|n| vec![100; n]),
        prop::collection::vec(1u16..=200, 1..=20),
        prop::collection::vec(1u16..=u16::MAX, 1..=20),
    ]
}

/// The ring is part of what nodes of one cluster share: a change of it moves flows between nodes of different
/// releases, and must be made on purpose.
#[test]
fn ring_of_the_first_release() {
    let ring = maglev(&members(&[100, 100, 50]));
    let sum = (0u64..).zip(ring.entries()).fold(0u64, |h, (i, &id)| mix(h ^ i ^ (u64::from(id) << 32)));
    assert_eq!((ring.backends, ring.length, &ring.slots[..8], sum), GOLDEN);
}
const GOLDEN: (u32, u32, &[u16], u64) = (3, 65_537, &[2, 1, 1, 2, 2, 2, 1, 2], 5_473_216_325_366_411_029);

#[test]
fn nobody_makes_an_empty_ring() {
    for ring in [maglev(&[]), round_robin(&[])] {
        assert_eq!((ring.backends, ring.length, ring.entries().len()), (0, 0, 0));
        assert!(members_of(&ring).is_empty());
    }
}

#[test]
fn smallest_weight_has_a_place() {
    let mut weights = vec![u16::MAX; 999];
    weights.push(1);
    for ring in [maglev(&members(&weights)), round_robin(&members(&weights))] {
        assert_eq!(members_of(&ring).len(), 1000);
        assert_eq!(ring.backends, 1000);
    }
}

#[test]
fn equal_weights_alternate_strictly() {
    let ring = round_robin(&members(&[300, 300, 300]));
    assert_eq!(ring.length, 65_535, "whole rotations of three");
    let first: Vec<u16> = ring.entries().iter().take(3).copied().collect();
    assert_eq!(members_of(&ring), [1, 2, 3]);
    assert!(ring.entries().chunks(3).all(|rotation| rotation == first));
}

#[test]
fn rotation_spreads_the_heavy_one() {
    let ring = round_robin(&members(&[500, 100, 100]));
    assert_eq!(ring.length, 65_534, "whole rotations of seven");
    for rotation in ring.entries().chunks(7) {
        assert_eq!([1, 2, 3].map(|id| rotation.iter().filter(|&&i| i == id).count()), [5, 1, 1]);
        assert!(rotation.windows(2).any(|pair| pair != [1, 1]), "{rotation:?}");
    }
    let apart = ring.entries().windows(4).all(|w| w.iter().any(|&id| id != 1));
    assert!(apart, "never more than three of the heavy one in a row");
}

/// Every size up to 20 with equal weights, each member leaving once: what moves beyond its own share.
#[test]
fn disruption_is_small() {
    let mut worst = (0.0, 0, 0);
    for n in 2..=20u16 {
        let all = members(&vec![100; usize::from(n)]);
        let before = maglev(&all);
        for gone in 1..=n {
            let rest: Vec<Member> = all.iter().filter(|m| m.id != gone).copied().collect();
            let own = before.entries().iter().filter(|&&id| id == gone).count();
            let moved = moved_slots(&before, &maglev(&rest));
            let beyond = (f64::from(moved) - own as f64) / RING_SIZE as f64;
            if beyond > worst.0 {
                worst = (beyond, n, gone);
            }
        }
    }
    assert!(worst.0 <= 0.004, "{worst:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn shares_follow_weights(weights in weights()) {
        let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
        for ring in [maglev(&members(&weights)), round_robin(&members(&weights))] {
            let shares = shares(&ring);
            for (id, &weight) in (1..).zip(&weights) {
                let (want, got) = (f64::from(weight) / total, shares.get(&id).copied().unwrap_or(0.0));
                // One entry is 15 ppm: it is more than 1 % of a share only below 0.15 % of the ring.
                let allowed = (want * 0.01).max(1.5 / RING_SIZE as f64);
                prop_assert!((got - want).abs() <= allowed, "backend {id} of {weights:?}: {got} of {want}");
            }
        }
    }

    #[test]
    fn order_and_ids_do_not_matter(weights in weights(), seed: u64) {
        let named = members(&weights);
        let mut shuffled = named.clone();
        shuffled.sort_by_key(|m| mix(m.identity ^ seed));
        for (other, m) in (100..).zip(&mut shuffled) {
            m.id = other;
        }
        let id_of: BTreeMap<u64, u16> = named.iter().map(|m| (m.identity, m.id)).collect();
        let translate: BTreeMap<u16, u16> = shuffled.iter().map(|m| (m.id, id_of[&m.identity])).collect();
        for build in [maglev, round_robin] {
            let (one, other) = (build(&named), build(&shuffled));
            let same = one.entries().iter().zip(other.entries()).all(|(a, b)| *a == translate[b]);
            prop_assert!(same && one.length == other.length);
        }
    }

    #[test]
    fn every_entry_is_a_member(weights in weights()) {
        for ring in [maglev(&members(&weights)), round_robin(&members(&weights))] {
            let ids: Vec<u16> = (1..).take(weights.len()).collect();
            prop_assert_eq!(members_of(&ring), ids);
            prop_assert_eq!(ring.backends as usize, weights.len());
            prop_assert_eq!(moved_slots(&ring, &ring), 0);
        }
    }
}
