use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::dataplane::fake::Fake;
use crate::dataplane::faulty::{Fault, Faulty};
use crate::dataplane::scenarios::{self, World, step, write_checked};
use crate::dataplane::{Dataplane, RingKey, converge, describe, invariant};
use crate::model::HealthState;
use crate::plan::{Plan, plan};

const PORTS: [u32; 2] = [2, 3];

#[test]
fn scenarios_on_the_fake() {
    for scenario in scenarios::all(PORTS) {
        scenarios::run(&scenario, &mut Fake::default()).unwrap();
    }
}

#[test]
fn scenarios_one_after_the_other_on_the_same_maps() {
    let mut fake = Fake::default();
    for scenario in scenarios::all(PORTS) {
        scenarios::run(&scenario, &mut fake).unwrap();
    }
}

#[test]
fn scenarios_with_a_crash_at_every_write() {
    for scenario in scenarios::all(PORTS) {
        scenarios::run_with_crashes(&scenario, &mut Fake::default()).unwrap();
    }
}

/// The scenarios would not notice a crash that never happens.
#[test]
fn a_broken_order_is_noticed() {
    let world = World::new(PORTS).service("one", "10.77.0.100:80", &["10.77.0.11:80", "10.77.0.12:80"]);
    let wanted = plan(&world.inputs(), &Plan::default()).unwrap();
    let mut ops = reconcile(&Tables::default(), &wanted.tables);
    ops.reverse();
    let mut tables = Tables::default();
    let broken = ops.iter().filter(|op| {
        tables.apply(op);
        invariant::check(&tables).is_err()
    });
    assert!(broken.count() > 3);
}

#[test]
fn writes_in_order() {
    let world = World::new(PORTS).service("one", "10.77.0.100:80", &["10.77.0.11:80", "10.77.0.12:80"]);
    let first = plan(&world.inputs(), &Plan::default()).unwrap();
    let list = |ops: Vec<Op>| ops.iter().map(describe).collect::<Vec<_>>();
    assert_eq!(
        list(reconcile(&Tables::default(), &first.tables)),
        [
            "map SNAT, block 0: write 10.77.0.1",
            "map SNAT, block 1: write fd77::1",
            "map NODE: write",
            "map BACKENDS, id 1: write 10.77.0.11:80, generation 1",
            "map BACKENDS, id 2: write 10.77.0.12:80, generation 1",
            "map RINGS, service id 0: write ring of 2",
            "map SERVICES, id 0: write 10.77.0.100",
            "map VIPS, 10.77.0.100: write flags 0",
            "map SERVICE_IDS, 10.77.0.100:80: write id 0",
        ]
    );
    let less = world.clone().without_backend("one", "10.77.0.11:80");
    let second = plan(&less.inputs(), &first).unwrap();
    assert_eq!(
        list(reconcile(&first.tables, &second.tables)),
        ["map RINGS, service id 0: write ring of 1", "map BACKENDS, id 1: take the live flag"]
    );
    let third = plan(&World::new(PORTS).inputs(), &second).unwrap();
    assert_eq!(
        list(reconcile(&second.tables, &third.tables)),
        [
            "map SERVICE_IDS, 10.77.0.100:80: remove",
            "map VIPS, 10.77.0.100: remove",
            "map SERVICES, id 0: clear",
            "map RINGS, service id 0: remove",
            "map BACKENDS, id 2: take the live flag",
        ]
    );
}

/// A new flow must not be sent to a backend whose flows are answered with resets.
#[test]
fn a_backend_is_called_dead_while_no_ring_names_it() {
    let world = World::new(PORTS).service("one", "10.77.0.100:80", &["10.77.0.11:80", "10.77.0.12:80"]);
    let all = plan(&world.inputs(), &Plan::default()).unwrap();
    let one = plan(&world.clone().sick("10.77.0.11:80").inputs(), &all).unwrap();
    let list =
        |from: &Plan, to: &Plan| reconcile(&from.tables, &to.tables).iter().map(describe).collect::<Vec<_>>();
    let (ring, backend) =
        ("map RINGS, service id 0: write ring of", "map BACKENDS, id 1: write 10.77.0.11:80,");
    assert_eq!(list(&all, &one), [format!("{ring} 1"), format!("{backend} generation 1, dead")]);
    assert_eq!(list(&one, &all), [format!("{backend} generation 1"), format!("{ring} 2")]);
}

#[test]
fn a_refused_write_is_made_by_the_next_try() {
    let world = World::new(PORTS).service("one", "10.77.0.100:80", &["10.77.0.11:80"]);
    let wanted = plan(&world.inputs(), &Plan::default()).unwrap();
    let writes = reconcile(&Tables::default(), &wanted.tables).len();
    for n in 0..writes {
        let mut faulty = Faulty::new(Fake::default(), Fault::Refuse(n));
        let error = converge(&mut faulty, &wanted.tables).unwrap_err().to_string();
        assert!(error.contains("map ") && error.contains("asked for"), "{error}");
        assert_eq!(converge(&mut faulty, &wanted.tables).unwrap(), writes - n);
        assert_eq!(faulty.into_inner().writes(), writes);
    }
}

/// Two agents that never met give the ids to different owners: the worst that can be read back.
#[test]
fn two_services_that_swap_ids() {
    let (a, b) = (("a", "10.77.0.100:80", ["10.77.0.11:80"]), ("b", "10.77.0.101:80", ["10.77.0.12:80"]));
    let one = World::new(PORTS).service(a.0, a.1, &a.2).service(b.0, b.1, &b.2);
    let other = World::new(PORTS).service(b.0, b.1, &b.2).service(a.0, a.1, &a.2);
    let [one, other] = [one, other].map(|world| plan(&world.inputs(), &Plan::default()).unwrap().tables);
    assert_ne!(one.service_ids, other.service_ids);
    let mut fake = Fake::holding(one);
    write_checked(&mut fake, &other).unwrap();
    assert_eq!(*fake.tables(), other);
}

#[test]
fn a_backend_that_moves_leaves_the_ring_first() {
    let key = |world: &World| plan(&world.inputs(), &Plan::default()).unwrap().tables;
    let one = World::new(PORTS).service("a", "10.77.0.100:80", &["10.77.0.11:80", "10.77.0.12:80"]).service(
        "b",
        "10.77.0.101:80",
        &["10.77.0.13:80"],
    );
    let other = World::new(PORTS).service("a", "10.77.0.100:80", &["10.77.0.11:80"]).service(
        "b",
        "10.77.0.101:80",
        &["10.77.0.12:80", "10.77.0.13:80"],
    );
    let (one, other) = (key(&one), key(&other));
    let ops = reconcile(&one, &other);
    assert!(
        matches!(&ops[0], Op::SetRing(RingKey::All(0), ring) if ring.backends == 1 && ring.entries().iter().all(|&id| id == 1)),
        "{}",
        describe(&ops[0])
    );
    let mut fake = Fake::holding(one);
    write_checked(&mut fake, &other).unwrap();
    assert_eq!(*fake.tables(), other);
}

/// The ring of near backends loses its last one to another service: packets are led elsewhere first.
#[test]
fn a_near_ring_that_empties_is_not_asked_any_more() {
    let key = |world: World| {
        let world = world.node_zone(Some("here")).zone("10.77.0.12:80", "here");
        plan(&world.inputs(), &Plan::default()).unwrap().tables
    };
    let world = World::new(PORTS);
    let one = world.clone().service("a", "10.77.0.100:80", &["10.77.0.11:80", "10.77.0.12:80"]);
    let other = world.service("a", "10.77.0.100:80", &["10.77.0.11:80"]);
    let (one, other) = (key(one), key(other.service("b", "10.77.0.101:80", &["10.77.0.12:80"])));
    let ops: Vec<String> = reconcile(&one, &other).iter().map(describe).collect();
    assert_eq!(
        ops[..3],
        [
            "map RINGS, service id 0: write ring of 1",
            "map SERVICES, id 0: write 10.77.0.100",
            "map RINGS, service id 0, near: write ring of 0",
        ]
    );
    let mut fake = Fake::holding(one);
    write_checked(&mut fake, &other).unwrap();
    assert_eq!(*fake.tables(), other);
}

#[test]
fn near_rings_are_written_before_they_are_asked_and_removed_after() {
    let world = World::new(PORTS).service("one", "10.77.0.100:80", &["10.77.0.11:80", "10.77.0.12:80"]);
    let near = world.clone().node_zone(Some("here")).zone("10.77.0.12:80", "here");
    let [world, near] = [world, near].map(|w| plan(&w.inputs(), &Plan::default()).unwrap().tables);
    let list = |from, to| reconcile(from, to).iter().map(describe).collect::<Vec<_>>();
    let (ring, service) = ("map RINGS, service id 0, near:", "map SERVICES, id 0: write 10.77.0.100");
    assert_eq!(list(&world, &near), [format!("{ring} write ring of 1"), service.to_owned()]);
    assert_eq!(list(&near, &world), [service.to_owned(), format!("{ring} remove")]);
}

/// A small universe, so that ids are fought for: which of the services exist, with which of the backends, each in
/// some state, and which of the interfaces and SNAT addresses there are.
fn world() -> impl Strategy<Value = World> {
    let weight = prop::sample::select(vec![1u16, 50, 100, 65_535]);
    // Whether it exists, and its state, whether it is resolved, its weight and priority, and whether it is near.
    let backend = (0u8..5, any::<bool>(), weight, 0u8..2, any::<bool>());
    let service = (any::<bool>(), any::<bool>(), prop::collection::vec(backend, 3));
    (prop::collection::vec(service, 3), 0u8..3, 0usize..3).prop_map(|(services, ports, snat)| {
        let nets: [&[&str]; 3] = [&["10.0.0.1/32"], &["fd77::/127", "10.0.0.1/32"], &["10.0.1.0/30"]];
        let mut world = World::new(PORTS).snat(nets[snat]).node_zone(Some("here"));
        for (s, (exists, round_robin, backends)) in services.iter().enumerate().filter(|(_, s)| s.0) {
            let name = format!("s{s}");
            world = world.service(&name, &format!("10.77.0.{}:80", 100 + s), &[]);
            if *exists && *round_robin {
                world = world.round_robin(&name);
            }
            world = world.policy(&name, |p| p.min_healthy = 60);
            for (b, &(state, resolved, weight, priority, near)) in
                backends.iter().enumerate().filter(|(_, b)| b.0 > 0)
            {
                let address = format!("10.77.1.{}:80", b + s);
                world = world.backend(&name, &address).weight(&address, weight).priority(&address, priority);
                world = if near { world.zone(&address, "here") } else { world };
                world = if resolved { world } else { world.unresolved(&format!("10.77.1.{}", b + s)) };
                world = world.state(&address, HealthState::ALL[usize::from(state) - 1]);
            }
        }
        match ports {
            0 => world,
            1 => world.interfaces(&[1]).by_interface(0),
            _ => world.interfaces(&[1, 0]).by_interface(0),
        }
    })
}

/// Who had each backend id last, with its generation: generations only rise, and by an owner's change at least.
#[derive(Default)]
struct Owners(BTreeMap<u16, Owner>);

#[derive(Debug, PartialEq)]
struct Owner {
    vip: Option<Addr>,
    address: Addr,
    port: u16,
    generation: u16,
}

impl Owners {
    fn see(&mut self, tables: &Tables) {
        for (&id, b) in tables.backends.iter().filter(|(_, b)| b.is_live()) {
            let vip = tables.services.get(&b.service).map(|s| s.vip);
            let now = Owner { vip, address: b.addr, port: b.port, generation: b.generation };
            let generation = now.generation;
            let same = self.0.get(&id).is_none_or(|old| *old == now || old.generation < generation);
            assert!(same, "id {id}: {:?} and then {now:?}", self.0.get(&id));
            self.0.insert(id, now);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever follows whatever, with or without a crash in between: every step ends where it should, and the
    /// invariant holds after each write.
    #[test]
    fn any_sequence(worlds in prop::collection::vec((world(), prop::option::of(0usize..12)), 1..6)) {
        let mut fake = Fake::default();
        let mut last = Plan::default();
        let mut owners = Owners::default();
        for (world, crash) in worlds {
            if let Some(write) = crash {
                let wanted = plan(&world.inputs(), &last).unwrap();
                let _killed = converge(&mut Faulty::new(&mut fake, Fault::Crash(write)), &wanted.tables);
                prop_assert_eq!(invariant::check(fake.tables()), Ok(()));
                last = Plan::read_back(fake.read().unwrap());
            }
            last = step(&world, &last, &mut fake).map_err(TestCaseError::fail)?;
            owners.see(fake.tables());
        }
    }

    /// A planner that did not notice that its last plan was never written.
    #[test]
    fn any_plan_over_any_tables(one in prop::collection::vec(world(), 1..4), other in prop::collection::vec(world(), 1..4)) {
        let follow = |worlds: &[World]| {
            worlds.iter().fold(Plan::default(), |last, world| plan(&world.inputs(), &last).unwrap()).tables
        };
        let (actual, desired) = (follow(&one), follow(&other));
        let mut fake = Fake::holding(actual);
        write_checked(&mut fake, &desired).map_err(TestCaseError::fail)?;
        prop_assert_eq!(reconcile(fake.tables(), &desired).len(), 0);
    }
}
