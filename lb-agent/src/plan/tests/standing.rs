//! Priorities, the floor, and who is called dead.

use super::*;
use crate::model::HealthState::{Dead, Healthy, Starting, Suspect};

/// With `min_healthy`, in percent.
fn floor(percent: u8) -> World {
    abc().policy("one", |p| p.min_healthy = percent)
}

/// What it is about, the world, and the standing, the priority and the ring that follow from it.
type Row<'a> = (&'a str, World, Standing, Option<u8>, Vec<&'a str>);

fn expect(cases: Vec<Row<'_>>) {
    for (name, world, standing, priority, want) in cases {
        let plan = planned(&world, &Plan::default());
        assert_eq!(ring(&plan, "one"), (standing, want.iter().map(ToString::to_string).collect()), "{name}");
        assert_eq!(plan.services.values().next().unwrap().priority, priority, "{name}");
    }
}

#[test]
fn the_lowest_usable_priority_serves() {
    let spare = || abc().priority(C, 1);
    let none = || spare().sick(A).sick(B).sick(C);
    expect(vec![
        ("all usable", spare(), Standing::Healthy, Some(0), vec![A, B]),
        ("one left", spare().sick(A), Standing::Healthy, Some(0), vec![B]),
        ("none left", spare().sick(A).state(B, Suspect), Standing::Healthy, Some(1), vec![C]),
        ("unresolved", spare().sick(A).unresolved("10.77.0.12"), Standing::Healthy, Some(1), vec![C]),
        ("draining", spare().draining(A).draining(B), Standing::Healthy, Some(1), vec![C]),
        (
            "numbers may have gaps",
            abc().priority(A, 255).priority(B, 7).priority(C, 200),
            Standing::Healthy,
            Some(7),
            vec![B],
        ),
        ("nobody is usable: all of them", none(), Standing::FailOpen, None, vec![A, B, C]),
    ]);
}

#[test]
fn below_the_floor_suspect_ones_stand_beside_the_healthy() {
    let two_suspect = |world: World| world.state(A, Suspect).state(B, Suspect);
    let below = (Standing::BelowFloor, Some(0));
    let healthy = (Standing::Healthy, Some(0));
    let cases = [
        ("off", two_suspect(floor(0)), healthy, vec![C]),
        ("a third", two_suspect(floor(50)), below, vec![A, B, C]),
        ("two thirds", floor(50).state(B, Suspect), healthy, vec![A, C]),
        ("the floor itself is enough", two_suspect(floor(50)).weight(C, 200), healthy, vec![C]),
        ("a little less is not", two_suspect(floor(50)).weight(C, 199), below, vec![A, B, C]),
        ("never the dead", floor(50).sick(A).state(B, Suspect), below, vec![B, C]),
        ("never those that start", floor(50).state(A, Starting).state(B, Suspect), below, vec![B, C]),
        ("nobody to add", floor(50).state(A, Starting).sick(B), healthy, vec![C]),
        ("draining ones do not count", floor(50).draining(A).state(B, Suspect), healthy, vec![C]),
        ("and do not return", two_suspect(floor(60)).draining(A), below, vec![B, C]),
        ("nor do unreachable ones", two_suspect(floor(50)).unresolved("10.77.0.11"), below, vec![B, C]),
        (
            "an unreachable one is not usable",
            floor(60).state(A, Suspect).unresolved("10.77.0.12"),
            below,
            vec![A, C],
        ),
        (
            "the priority that serves has its own floor",
            floor(60).priority(C, 1).state(B, Suspect),
            below,
            vec![A, B],
        ),
        (
            "a healthy one of the next priority rather than suspects alone",
            floor(60).priority(C, 1).state(A, Suspect).state(B, Suspect),
            (Standing::Healthy, Some(1)),
            vec![C],
        ),
        ("always", floor(100).state(B, Suspect), below, vec![A, B, C]),
    ];
    expect(cases.into_iter().map(|(name, world, (s, p), want)| (name, world, s, p, want)).collect());
}

#[test]
fn only_the_dead_outside_of_the_ring_are_called_dead() {
    let all_draining = || abc().draining(A).draining(B).draining(C);
    let cases = [
        ("states", abc().state(A, Suspect).sick(B).state(C, Healthy), vec![B]),
        ("starting", abc().state(A, Starting).state(B, Dead), vec![B]),
        ("fail open", abc().sick(A).sick(B).sick(C), vec![]),
        ("fail open, one unreachable", abc().sick(A).sick(B).sick(C).unresolved("10.77.0.11"), vec![A]),
        ("draining", abc().draining(A), vec![]),
        ("draining and dead", abc().draining(A).sick(A), vec![A]),
        ("nobody but draining ones", all_draining().sick(B), vec![B]),
        ("nobody but dead draining ones", all_draining().sick(A).sick(B).sick(C), vec![]),
        ("standing by", abc().priority(C, 1).sick(C), vec![C]),
        ("below the floor", floor(50).sick(A).state(B, Suspect), vec![A]),
    ];
    for (name, world, want) in cases {
        let tables = planned(&world, &Plan::default()).tables;
        let dead = tables.backends.values().filter(|b| b.is_dead());
        let dead: Vec<_> = dead.map(|b| SocketAddr::new(b.addr.into(), 80).to_string()).collect();
        assert_eq!(dead, want, "{name}");
        assert_eq!(crate::dataplane::invariant::check(&tables), Ok(()), "{name}");
    }
}
