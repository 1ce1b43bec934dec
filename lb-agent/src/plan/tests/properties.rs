//! What holds of every plan.

use std::hash::{DefaultHasher, Hash, Hasher};

use proptest::prelude::*;

use super::*;
use crate::model::HealthState::{Dead, Healthy};

/// How a backend of a random world is.
#[derive(Clone, Debug)]
struct Drawn {
    state: usize,
    weight: u16,
    priority: u8,
    zone: Option<&'static str>,
    draining: bool,
    resolved: bool,
    /// Seconds before now.
    risen: Option<u64>,
}

const NOW: Duration = Duration::from_secs(1000);

fn drawn() -> impl Strategy<Value = Drawn> {
    let weight = prop_oneof![4 => Just(100u16), 2 => 1u16..=20, 1 => 1u16..=u16::MAX];
    let zone = prop::sample::select(vec![None, Some("here"), Some("there")]);
    // Mostly healthy and resolved, and seldom draining: otherwise nearly every world would fail open.
    let state = prop_oneof![4 => Just(1usize), 3 => 0usize..4];
    let rest = (prop::bool::weighted(0.1), prop::bool::weighted(0.9), prop::option::of(0u64..40));
    (state, weight, 0u8..2, zone, rest).prop_map(|(state, weight, priority, zone, rest)| {
        let (draining, resolved, risen) = rest;
        Drawn { state, weight, priority, zone, draining, resolved, risen }
    })
}

fn world() -> impl Strategy<Value = World> {
    let schedulers = [Scheduler::LeastWaiting, Scheduler::Maglev, Scheduler::RoundRobin];
    let scheduler = prop::sample::select(schedulers.to_vec());
    let policy = (prop::sample::select(vec![0u8, 50, 100]), 0u64..60, any::<bool>());
    let node = prop::sample::select(vec![None, Some("here")]);
    (prop::collection::vec(drawn(), 0..8), scheduler, policy, node).prop_map(
        |(backends, scheduler, (min_healthy, slow_start, prefer_zone), node)| {
            let mut world = empty().node_zone(node).at(NOW).service("one", "10.77.0.100:80", &[]);
            for (n, drawn) in backends.iter().enumerate() {
                world = add(world, n, drawn);
            }
            world.services[0].scheduler = scheduler;
            let slow_start = Duration::from_secs(slow_start);
            world.policy("one", |p| {
                (p.min_healthy, p.slow_start, p.prefer_zone) = (min_healthy, slow_start, prefer_zone);
            })
        },
    )
}

fn add(world: World, n: usize, drawn: &Drawn) -> World {
    let (ip, address) = (format!("10.77.1.{n}"), format!("10.77.1.{n}:80"));
    let mut world = world.backend("one", &address).state(&address, HealthState::ALL[drawn.state]);
    world = world.weight(&address, drawn.weight).priority(&address, drawn.priority);
    world = drawn.zone.into_iter().fold(world, |w, zone| w.zone(&address, zone));
    world = if drawn.draining { world.draining(&address) } else { world };
    world = if drawn.resolved { world } else { world.unresolved(&ip) };
    drawn.risen.into_iter().fold(world, |w, ago| w.risen(&address, NOW - Duration::from_secs(ago)))
}

/// What a plan means, without ids.
#[derive(Debug, PartialEq)]
struct Meaning {
    /// Weight and flags.
    entries: BTreeMap<Addr, (u16, u8)>,
    standings: Vec<(Standing, Option<u8>)>,
    /// Hashes of the addresses in each ring: 65,537 are too many to print.
    rings: Vec<(RingKey, u64)>,
    due: Option<Duration>,
}

fn meaning(plan: &Plan) -> Meaning {
    let address = |id: &u16| plan.tables.backends.get(id).map(|b| b.addr);
    let hash = |ring: &Ring| {
        let mut hasher = DefaultHasher::new();
        ring.entries().iter().map(address).for_each(|a| a.hash(&mut hasher));
        hasher.finish()
    };
    let live = plan.tables.backends.values().filter(|b| b.is_live());
    Meaning {
        entries: live.map(|b| (b.addr, (b.weight, b.flags))).collect(),
        standings: plan.services.values().map(|s| (s.standing, s.priority)).collect(),
        rings: plan.tables.rings.iter().map(|(key, ring)| (*key, hash(ring))).collect(),
        due: plan.due,
    }
}

/// Each member's part of a ring, by the weights of the entries.
fn check_shares(plan: &Plan, ring: &Ring) -> Result<(), TestCaseError> {
    let members = members_of(ring);
    let weight = |id: &u16| f64::from(plan.tables.backends[id].weight);
    let total: f64 = members.iter().map(weight).sum();
    for id in &members {
        let want = weight(id) / total;
        let got = ring.entries().iter().filter(|e| *e == id).count() as f64 / f64::from(ring.length);
        let allowed = (want * 0.01).max(1.5 / RING_SIZE as f64);
        prop_assert!((got - want).abs() <= allowed, "backend {}: {} of {}", id, got, want);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn of_every_plan(world in world()) {
        let plan = planned(&world, &Plan::default());
        prop_assert_eq!(crate::dataplane::invariant::check(&plan.tables), Ok(()));
        let service = plan.services.values().next().unwrap();
        let all = members_of(plan.ring(service).unwrap());
        let near = plan.tables.rings.get(&RingKey::Near(service.id)).map(|ring| members_of(ring));
        for ring in plan.tables.rings.values().filter(|ring| ring.backends > 0) {
            check_shares(&plan, ring)?;
        }
        if let Some(near) = &near {
            prop_assert!(near.iter().all(|id| all.contains(id)) && near.len() < all.len() && !near.is_empty());
        }
        for (spec, (key, id)) in world.services[0].backends.iter().zip(&service.backends) {
            let (state, draining) = (world.health[key], world.draining.contains(key));
            let (in_ring, entry) = (all.contains(id), plan.tables.backends[id]);
            let usable = state == Healthy && entry.is_resolved() && !draining;
            match service.standing {
                Standing::Healthy => prop_assert_eq!(in_ring, usable && Some(spec.priority) == service.priority),
                Standing::BelowFloor => {
                    prop_assert!(!in_ring || (matches!(state, Healthy | HealthState::Suspect) && !draining));
                    prop_assert!(world.services[0].policy.min_healthy > 0);
                }
                Standing::FailOpen => prop_assert_eq!(in_ring, entry.is_resolved() && !draining),
                Standing::Draining | Standing::Unresolved | Standing::Empty => prop_assert!(!usable),
            }
            prop_assert_eq!(entry.is_dead(), state == Dead && !in_ring);
            let is_near = near.as_ref().is_some_and(|near| near.contains(id));
            prop_assert!(!is_near || spec.zone == world.node.zone);
        }
    }

    /// The order of the configuration and the plan before have no part in it, but for the ids.
    #[test]
    fn order_does_not_matter(world in world(), other in world(), turn in 0usize..8) {
        let plain = planned(&world, &Plan::default());
        let mut turned = world.clone();
        let backends = &mut turned.services[0].backends;
        let places = turn.min(backends.len());
        backends.rotate_left(places);
        let turned = planned(&turned, &planned(&other, &Plan::default()));
        prop_assert_eq!(meaning(&plain), meaning(&turned));
    }

    /// Until the plan says that it is due it stays as it is; then it does not.
    #[test]
    fn time_alone_changes_it_when_it_says_so(world in world(), early in 1u64..1_000_000_000) {
        let plan = planned(&world, &Plan::default());
        let at = |now: Duration| planned(&world.clone().at(now), &plan);
        let Some(due) = plan.due else {
            prop_assert_eq!(meaning(&at(NOW * 2)), meaning(&plan));
            return Ok(());
        };
        prop_assert!(due > NOW);
        let before = due.saturating_sub(Duration::from_nanos(early)).max(NOW);
        prop_assert_eq!(meaning(&at(before)), meaning(&plan));
        let after = at(due);
        prop_assert_ne!(after.services.values().next().map(|s| &s.rising), plan.services.values().next().map(|s| &s.rising));
        let count = |plan: &Plan| plan.tables.backends.values().filter(|b| b.is_live()).count();
        prop_assert_eq!(count(&after), count(&plan));
    }
}
