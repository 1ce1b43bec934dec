//! Changes that must work on every [`Dataplane`]: the fake, the faulty one and the kernel's maps.
//!
//! Part of the library so that tests with privileges can run the same scenarios on real maps.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use lb_common::backend::Backend;

use super::faulty::{Fault, Faulty};
use super::{Dataplane, RingKey, Tables, converge, describe, invariant};
use crate::plan::{Plan, ServicePlan, plan};
use crate::reconcile::reconcile;

mod list;
mod world;

pub use list::all;
pub use world::World;

/// SNAT addresses that a data plane must have room for (`SNAT`).
pub const BLOCKS: u32 = 8;
/// Slots that it must have room for (`FLOWS`; an eighth of it in `HINTS`).
pub const SLOTS: u32 = BLOCKS * 16;

/// A run of changes.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it is about.
    pub name: &'static str,
    /// Each with a few words on what is different from the one before.
    pub steps: Vec<(&'static str, World)>,
}

/// Runs a scenario, and looks at the invariant after every single write.
///
/// # Errors
/// What does not hold, and after which step and write.
pub fn run(scenario: &Scenario, dataplane: &mut dyn Dataplane) -> Result<(), String> {
    let mut last = Plan::read_back(read(dataplane)?);
    for (name, world) in &scenario.steps {
        last = step(world, &last, dataplane).map_err(|why| format!("{}: {name}: {why}", scenario.name))?;
    }
    Ok(())
}

/// Runs a scenario with an agent that is killed in every step, once before each write, and started again: the
/// next agent reads back, plans and gets to tables of the same meaning as one that was never killed.
///
/// # Errors
/// What does not hold, and after which step and write.
pub fn run_with_crashes(scenario: &Scenario, dataplane: &mut dyn Dataplane) -> Result<(), String> {
    let mut before: Option<&World> = None;
    for (name, world) in &scenario.steps {
        for write in 0.. {
            if let Some(world) = before {
                let last = Plan::read_back(read(dataplane)?);
                step(world, &last, dataplane)?;
            }
            let crashed = crash(world, write, dataplane)
                .map_err(|why| format!("{}: {name}: killed at write {write}: {why}", scenario.name))?;
            if !crashed {
                break;
            }
        }
        before = Some(world);
    }
    Ok(())
}

/// One step: plans, writes, checks. Returns the plan.
///
/// # Errors
/// What does not hold, and after which write.
pub fn step(world: &World, last: &Plan, dataplane: &mut dyn Dataplane) -> Result<Plan, String> {
    let next = plan(&world.inputs(), last).map_err(|e| e.to_string())?;
    write_checked(dataplane, &next.tables)?;
    expect_settled(dataplane, &next.tables)?;
    expect_services(world, &next)?;
    Ok(next)
}

/// Writes what leads to `desired`, and looks at everything after every single write.
///
/// # Errors
/// What does not hold, and after which write.
pub fn write_checked(dataplane: &mut dyn Dataplane, desired: &Tables) -> Result<(), String> {
    let mut tables = read(dataplane)?;
    let mut checker = invariant::Checker::default();
    for (n, op) in reconcile(&tables, desired).iter().enumerate() {
        dataplane.apply(op).map_err(|e| e.to_string())?;
        tables.apply(op);
        let seen = read(dataplane)?;
        let at = |why: String| format!("after write {n} ({}): {why}", describe(op));
        expect_equal(&seen, &tables).map_err(at)?;
        checker.check(&seen).map_err(at)?;
    }
    Ok(())
}

/// Kills the agent at this write and lets the next one finish. Returns whether there was such a write.
fn crash(world: &World, write: usize, dataplane: &mut dyn Dataplane) -> Result<bool, String> {
    let last = Plan::read_back(read(dataplane)?);
    let wanted = plan(&world.inputs(), &last).map_err(|e| e.to_string())?;
    let mut faulty = Faulty::new(&mut *dataplane, Fault::Crash(write));
    let result = converge(&mut faulty, &wanted.tables);
    let crashed = faulty.has_failed();
    if crashed == result.is_ok() {
        return Err(format!("crash {crashed}, but the agent saw {result:?}"));
    }
    invariant::check(&read(dataplane)?).map_err(|why| format!("left behind: {why}"))?;
    let next = Plan::read_back(read(dataplane)?);
    let next = step(world, &next, dataplane).map_err(|why| format!("started again: {why}"))?;
    expect_same_meaning(&next, &wanted)?;
    Ok(crashed)
}

fn read(dataplane: &dyn Dataplane) -> Result<Tables, String> {
    dataplane.read().map_err(|e| e.to_string())
}

/// The maps hold what was wanted, and there is nothing left to write.
fn expect_settled(dataplane: &dyn Dataplane, desired: &Tables) -> Result<(), String> {
    let seen = read(dataplane)?;
    expect_equal(&seen, desired)?;
    let left = reconcile(&seen, desired);
    if let Some(op) = left.first() {
        return Err(format!("{} writes are left, the first is {}", left.len(), describe(op)));
    }
    Ok(())
}

/// Every service of the world is reachable, with the backends that it names.
fn expect_services(world: &World, plan: &Plan) -> Result<(), String> {
    let mut wanted = BTreeMap::new();
    for spec in &world.services {
        let key = spec.key();
        let service =
            plan.services.get(&key).ok_or_else(|| format!("service {} is not planned", spec.name))?;
        if service.backends.len() != spec.backends.len() {
            return Err(format!("service {} has {} backends", spec.name, service.backends.len()));
        }
        wanted.insert(key, service.id);
    }
    if plan.tables.service_ids != wanted {
        return Err("other services are reachable than those that are wanted".into());
    }
    Ok(())
}

/// Ids may differ: what a killed agent had begun to write is given up.
fn expect_same_meaning(seen: &Plan, wanted: &Plan) -> Result<(), String> {
    if seen.tables.node != wanted.tables.node || seen.tables.snat != wanted.tables.snat {
        return Err("the node is another one".into());
    }
    for (key, service) in &wanted.services {
        let same = seen.services.get(key).is_some_and(|other| same_service(seen, other, wanted, service));
        if !same {
            return Err(format!("service {} is another one", service.name));
        }
    }
    Ok(())
}

/// Whether two services have the same entry, and the same backends in the same places of the ring.
fn same_service(a: &Plan, in_a: &ServicePlan, b: &Plan, in_b: &ServicePlan) -> bool {
    let mut a_to_b = BTreeMap::new();
    for (key, id) in &in_a.backends {
        let Some(other) = in_b.backends.get(key) else { return false };
        let entry = |plan: &Plan, id| {
            plan.tables.backends.get(id).map(|b| Backend { service: 0, generation: 0, ..*b })
        };
        if entry(a, id) != entry(b, other) {
            return false;
        }
        a_to_b.insert(*id, *other);
    }
    let all_ids_equal = a_to_b.iter().all(|(id, other)| id == other);
    let same_ring = |kind: fn(u16) -> RingKey| {
        let (x, y) = (a.tables.rings.get(&kind(in_a.id)), b.tables.rings.get(&kind(in_b.id)));
        let (Some(x), Some(y)) = (x, y) else { return x.is_none() && y.is_none() };
        (all_ids_equal && x == y)
            || x.length == y.length
                && x.entries().iter().zip(y.entries()).all(|(id, other)| a_to_b.get(id) == Some(other))
    };
    same_ring(RingKey::All)
        && same_ring(RingKey::Near)
        && in_a.backends.len() == in_b.backends.len()
        && a.tables.services.get(&in_a.id) == b.tables.services.get(&in_b.id)
}

/// Like `==`, but says in which table the difference is.
fn expect_equal(seen: &Tables, wanted: &Tables) -> Result<(), String> {
    let differs = |table: &str, seen: &dyn std::fmt::Debug, wanted: &dyn std::fmt::Debug| {
        Err(format!("{table} holds {seen:?} and not {wanted:?}"))
    };
    if seen.node != wanted.node {
        return differs("NODE", &seen.node, &wanted.node);
    }
    if seen.snat != wanted.snat {
        return differs("SNAT", &seen.snat, &wanted.snat);
    }
    if seen.backends != wanted.backends {
        return differs("BACKENDS", &seen.backends, &wanted.backends);
    }
    if seen.services != wanted.services {
        return differs("SERVICES", &seen.services, &wanted.services);
    }
    if seen.vips != wanted.vips {
        return differs("VIPS", &seen.vips, &wanted.vips);
    }
    if seen.service_ids != wanted.service_ids {
        return differs("SERVICE_IDS", &seen.service_ids, &wanted.service_ids);
    }
    let (have, want): (Vec<_>, Vec<_>) = (seen.rings.keys().collect(), wanted.rings.keys().collect());
    if have != want {
        return differs("RINGS", &have, &want);
    }
    let same = |(a, b): &(&Arc<_>, &Arc<_>)| Arc::ptr_eq(a, b) || a == b;
    match seen.rings.values().zip(wanted.rings.values()).zip(have).find(|(pair, _)| !same(pair)) {
        Some((_, key)) => Err(format!("RINGS: the ring of {key} is another one")),
        None => Ok(()),
    }
}
