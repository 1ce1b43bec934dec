//! Newcomers' weights, in the entries and in the ring.

use super::*;
use crate::model::HealthState::Suspect;

const PERIOD: Duration = Duration::from_secs(9);

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// B came ten seconds after the clock's start.
fn newcomer(now: u64) -> World {
    let world = abc().policy("one", |p| p.slow_start = PERIOD);
    world.risen(B, seconds(10)).at(seconds(10 + now))
}

fn weights(plan: &Plan) -> Vec<u16> {
    plan.tables.backends.values().filter(|b| b.is_live()).map(|b| b.weight).collect()
}

/// Each one's part of the ring, by weight of the entries: within one per cent, and an entry for rounding.
fn expect_shares(plan: &Plan) {
    let ring = &plan.tables.rings[&RingKey::All(0)];
    let total: f64 = ring.entries().iter().collect::<BTreeSet<_>>().iter().map(|id| weight(plan, **id)).sum();
    for id in members_of(ring) {
        let want = weight(plan, id) / total * RING_SIZE as f64;
        let got = ring.entries().iter().filter(|e| **e == id).count() as f64;
        assert!((got - want).abs() <= (want * 0.01).max(1.5), "backend {id}: {got} of {want}");
    }
}

fn weight(plan: &Plan, id: u16) -> f64 {
    f64::from(plan.tables.backends[&id].weight)
}

#[test]
fn a_newcomers_share_grows_step_by_step() {
    let mut last = planned(&newcomer(0), &Plan::default());
    for step in 0..9 {
        let now = planned(&newcomer(step), &last);
        let parts = u8::try_from(step).unwrap() + 1;
        assert_eq!(weights(&now), [100, 10 * u16::from(parts), 100]);
        assert_eq!(now.due, Some(seconds(10 + step + 1)));
        let service = now.services.values().next().unwrap();
        assert_eq!(service.rising.values().copied().collect::<Vec<_>>(), [parts]);
        expect_shares(&now);
        last = now;
    }
    let whole = planned(&newcomer(9), &last);
    assert_eq!((weights(&whole), whole.due), (vec![100, 100, 100], None));
    assert_eq!(whole.tables, planned(&abc(), &Plan::default()).tables);
    assert!(whole.services.values().all(|s| s.rising.is_empty()));
}

#[test]
fn nothing_grows_without_a_period_or_without_newcomers() {
    for world in [newcomer(0).policy("one", |p| p.slow_start = Duration::ZERO), {
        let mut none = newcomer(0);
        none.risen.clear();
        none
    }] {
        let plan = planned(&world, &Plan::default());
        assert_eq!((weights(&plan), plan.due), (vec![100, 100, 100], None));
    }
}

#[test]
fn small_weights_are_told_in_a_finer_unit_by_all() {
    let world = |now| newcomer(now).weight(A, 1).weight(B, 1).weight(C, 3);
    let plan = planned(&world(2), &Plan::default());
    assert_eq!(weights(&plan), [10, 3, 30]);
    expect_shares(&plan);
    assert_eq!(weights(&planned(&world(9), &plan)), [1, 1, 3]);
    let heavy = planned(&newcomer(0).weight(A, u16::MAX).weight(B, 3), &plan);
    assert_eq!(weights(&heavy), [u16::MAX, 1, 100], "never nothing, never more than fits");
}

#[test]
fn newcomers_alone_share_equally() {
    let world = newcomer(0).risen(A, seconds(10)).risen(C, seconds(10));
    let plan = planned(&world, &Plan::default());
    assert_eq!(weights(&plan), [10, 10, 10]);
    expect_shares(&plan);
}

#[test]
fn the_next_step_of_anybody_is_due() {
    let world = newcomer(0).risen(A, Duration::from_millis(9_500)).state(A, Suspect);
    let two =
        world.service("two", "10.77.0.101:80", &["10.77.0.21:80"]).policy("two", |p| p.slow_start = PERIOD);
    let plan = planned(&two.clone(), &Plan::default());
    assert_eq!(plan.due, Some(Duration::from_millis(10_500)));
    let two = two.risen("10.77.0.21:80", Duration::from_millis(9_250));
    assert_eq!(planned(&two, &plan).due, Some(Duration::from_millis(10_250)));
}

/// The floor is about what is configured: a newcomer that is usable counts in full.
#[test]
fn a_newcomer_counts_in_full_for_the_floor() {
    let world = newcomer(0).policy("one", |p| p.min_healthy = 50).state(A, Suspect);
    assert_eq!(ring(&planned(&world, &Plan::default()), "one").0, Standing::Healthy);
}
