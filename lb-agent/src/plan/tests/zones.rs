//! The ring of near backends.

use lb_common::service::SPILL_ONE;

use super::*;
use crate::model::HealthState::Suspect;

/// A and B in the node's zone, C in another.
fn zones() -> World {
    abc().node_zone(Some("here")).zone(A, "here").zone(B, "here").zone(C, "there")
}

/// The addresses in the ring of near backends; `None` when packets are not led there.
fn near(plan: &Plan) -> Option<Vec<String>> {
    let service = plan.services.values().next().unwrap();
    let entry = plan.tables.services[&service.id];
    let ring = plan.tables.rings.get(&RingKey::Near(service.id));
    assert_eq!(ring.is_some(), entry.flags & SERVICE_NEAR != 0);
    assert_eq!(service.near.is_some(), ring.is_some());
    let by_id: BTreeMap<u16, String> =
        service.backends.iter().map(|(key, &id)| (id, key.address.to_string())).collect();
    Some(members_of(ring?).iter().map(|id| by_id[id].clone()).collect())
}

#[test]
fn who_is_near() {
    let policy = |change: fn(&mut Policy)| zones().policy("one", change);
    let floor = || policy(|p| p.min_healthy = 60);
    let cases = [
        ("two of three", zones(), Some(vec![A, B])),
        ("the node has no zone", zones().node_zone(None), None),
        ("nobody has one", abc().node_zone(Some("here")), None),
        ("somebody has none", abc().node_zone(Some("here")).zone(A, "here"), Some(vec![A])),
        ("nobody is here", zones().node_zone(Some("elsewhere")), None),
        ("nobody is elsewhere", zones().zone(C, "here"), None),
        ("no preference", policy(|p| p.prefer_zone = false), None),
        ("round robin", zones().round_robin("one"), None),
        ("one is left here", zones().sick(A), Some(vec![B])),
        ("none is left here", zones().sick(A).state(B, Suspect), None),
        ("none is left elsewhere", zones().sick(C), None),
        ("fail open", zones().sick(A).sick(B).sick(C), None),
        ("draining", zones().draining(A), Some(vec![B])),
        ("by priority first", zones().priority(B, 1).priority(C, 1), None),
        ("within the priority that serves", zones().priority(A, 1), Some(vec![B])),
        ("below the floor", floor().state(A, Suspect).state(B, Suspect), None),
        ("below the floor, a usable one here", floor().state(A, Suspect).state(C, Suspect), Some(vec![A, B])),
    ];
    for (name, world, want) in cases {
        let plan = planned(&world, &Plan::default());
        let want = want.map(|want| want.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(near(&plan), want, "{name}");
        assert_eq!(crate::dataplane::invariant::check(&plan.tables), Ok(()), "{name}");
    }
}

#[test]
fn the_entry_says_how_much_spills() {
    let spill = |world: &World| planned(world, &Plan::default()).tables.services[&0].spill;
    assert_eq!(spill(&zones()), 2 * SPILL_ONE);
    assert_eq!(spill(&zones().policy("one", |p| p.zone_spill = 300)), 300);
    assert_eq!(spill(&abc()), 0);
}

#[test]
fn near_rings_are_built_only_when_they_change() {
    let first = planned(&zones(), &Plan::default());
    let ring = |plan: &Plan| Arc::clone(&plan.tables.rings[&RingKey::Near(0)]);
    let far_gone = zones().backend("one", "10.77.0.14:80").sick(C);
    let next = planned(&far_gone, &first);
    assert!(Arc::ptr_eq(&ring(&next), &ring(&first)), "others elsewhere have no part in it");
    assert!(!Arc::ptr_eq(&next.tables.rings[&RingKey::All(0)], &first.tables.rings[&RingKey::All(0)]));
    let heavier = planned(&zones().weight(A, 300), &first);
    let share = ring(&heavier).entries().iter().filter(|id| **id == 1).count();
    assert!((share as f64 / RING_SIZE as f64 - 0.75).abs() < 0.001, "{share}");
}
