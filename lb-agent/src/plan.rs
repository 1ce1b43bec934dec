//! What the maps should hold, from the configuration, the checks and the network.
//!
//! The plan is a pure function. It takes the plan before, so that whatever is still wanted keeps its id,
//! generation and ring.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use lb_common::backend::Backend;
use lb_common::ring::Ring;
use lb_common::service::{
    SCHEDULER_LEAST_CONN, SCHEDULER_LEAST_WAITING, SCHEDULER_MAGLEV, SCHEDULER_ROUND_ROBIN, SERVICE_LIVE,
    SERVICE_NEAR, SERVICE_REQUESTS, Service, ServiceKey, VIP_ANNOUNCE,
};

use crate::dataplane::{RingKey, Tables};
use crate::maglev::moved_slots;
use crate::model::{BackendKey, HealthState, NextHop, NodeFacts, Scheduler, ServiceSpec};

mod backends;
mod error;
mod ids;
mod members;
mod node;
mod rings;
mod weights;

pub use error::PlanError;
pub use members::Standing;
pub use rings::Recipe;
pub use weights::PARTS;

use backends::Planned;
use ids::{Ids, Known};
use members::{Candidate, Chosen};
use node::Ports;
use weights::Weights;

/// All that a plan depends on, besides the plan before.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The node.
    pub node: &'a NodeFacts,
    /// The services; the order has no meaning.
    pub services: &'a [ServiceSpec],
    /// What the checks say; a backend that is absent is [`HealthState::Starting`].
    pub health: &'a BTreeMap<BackendKey, HealthState>,
    /// Backends that are to get no new flows, whatever the checks say.
    pub draining: &'a BTreeSet<BackendKey>,
    /// Since when a newcomer is usable, on the clock of `now`; a backend that is absent is no newcomer.
    pub risen: &'a BTreeMap<BackendKey, Duration>,
    /// Next hops of backend addresses; an address that is absent is unresolved.
    pub hops: &'a BTreeMap<IpAddr, NextHop>,
    /// The time, since any epoch that the caller keeps to.
    pub now: Duration,
}

/// The wanted state and how it came about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What the maps should hold.
    pub tables: Tables,
    /// Every service; empty in a plan that was read back from the kernel.
    pub services: BTreeMap<ServiceKey, ServicePlan>,
    /// When time alone makes another plan of the same inputs; `None` for never.
    pub due: Option<Duration>,
}

/// How one service stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePlan {
    /// `service.name`.
    pub name: String,
    /// Service id.
    pub id: u16,
    /// Which backends the ring holds, and why these.
    pub standing: Standing,
    /// Which `priority` these backends have; `None` when the choice went by other things.
    pub priority: Option<u8>,
    /// Id of every backend, in the ring or not.
    pub backends: BTreeMap<BackendKey, u16>,
    /// Newcomers, and how many of the [`PARTS`] of its weight each one has yet.
    pub rising: BTreeMap<BackendKey, u8>,
    /// What the ring was built from.
    pub recipe: Recipe,
    /// What the ring of near backends was built from; `None` when there is none.
    pub near: Option<Recipe>,
}

impl Plan {
    /// What is known after a start: the maps, but not how their rings were made.
    #[must_use]
    pub const fn read_back(tables: Tables) -> Self {
        Self { tables, services: BTreeMap::new(), due: None }
    }

    /// The ring of a service.
    #[must_use]
    pub fn ring(&self, service: &ServicePlan) -> Option<&Arc<Ring>> {
        self.tables.rings.get(&RingKey::All(service.id))
    }

    /// Services whose ring differs from the one in `before`, and in how many of its 65,537 places. A new
    /// service is not among them.
    #[must_use]
    pub fn moved_slots_since(&self, before: &Self) -> Vec<(ServiceKey, u32)> {
        let changes = self.services.iter().filter_map(|(key, service)| {
            let (new, old) = (self.ring(service)?, before.ring(service)?);
            (before.tables.service_ids.get(key) == Some(&service.id) && !Arc::ptr_eq(new, old))
                .then(|| (*key, moved_slots(old, new)))
        });
        changes.collect()
    }
}

/// The wanted state.
///
/// Ids are stable: a service keeps its id, and a backend its id and generation, as long as it is wanted. A new
/// one gets the lowest id that was not live in `previous`, so no id changes its owner within one step
/// as long as there is another. A backend that is no longer wanted stays without its live flag, for the generation.
///
/// # Errors
/// When something does not fit into the maps.
pub fn plan(inputs: &Inputs<'_>, previous: &Plan) -> Result<Plan, PlanError> {
    let node = node::plan(inputs.node, &previous.tables.node)?;
    let mut tables = Tables { snat: node::blocks(&node), node, ..Tables::default() };
    for (&id, backend) in &previous.tables.backends {
        tables.backends.insert(id, Backend { flags: 0, ..*backend });
    }
    let mut ids = Ids::new(Known::of(&previous.tables), inputs.services)?;
    let ports = Ports::of(&tables.node);
    let (mut services, mut due) = (BTreeMap::new(), None);
    for spec in inputs.services {
        let key = spec.key();
        let id = ids.service(key, spec)?;
        let weights = weights::weights(inputs, spec);
        let backends = backends::plan(inputs, spec, id, &weights.now, (&ports, &mut ids))?;
        let candidates: Vec<Candidate> = backends.iter().map(|b| b.candidate).collect();
        let Chosen { standing, priority, members, near } = members::choose(&spec.policy, &candidates);
        tables.backends.extend(backends.iter().map(|b| (b.id, b.entry(&members))));

        let recipe = Recipe { scheduler: spec.scheduler, members };
        let near = (!near.is_empty()).then_some(Recipe { scheduler: spec.scheduler, members: near });
        let before = previous.services.get(&key).filter(|s| s.id == id);
        let mut place = |key, recipe: &Recipe, before| {
            tables.rings.insert(key, recipe.ring(before, previous.tables.rings.get(&key)));
        };
        place(RingKey::All(id), &recipe, before.map(|s| &s.recipe));
        if let Some(near) = &near {
            place(RingKey::Near(id), near, before.and_then(|s| s.near.as_ref()));
        }
        tables.services.insert(id, service_entry(spec, key, near.is_some()));
        tables.vips.insert(key.vip, if inputs.node.announce { VIP_ANNOUNCE } else { 0 });
        tables.service_ids.insert(key, id);

        due = due.into_iter().chain(weights.due).min();
        let rising = rising(&backends, &weights);
        let (name, backends) = (spec.name.clone(), backends.iter().map(|b| (b.key, b.id)).collect());
        services.insert(key, ServicePlan { name, id, standing, priority, backends, rising, recipe, near });
    }
    Ok(Plan { tables, services, due })
}

fn rising(backends: &[Planned], weights: &Weights) -> BTreeMap<BackendKey, u8> {
    let parts = backends.iter().zip(&weights.parts).map(|(b, &parts)| (b.key, parts));
    parts.filter(|(_, parts)| *parts < PARTS).collect()
}

fn service_entry(spec: &ServiceSpec, key: ServiceKey, near: bool) -> Service {
    let scheduler = match spec.scheduler {
        Scheduler::Maglev => SCHEDULER_MAGLEV,
        Scheduler::RoundRobin => SCHEDULER_ROUND_ROBIN,
        Scheduler::LeastConn => SCHEDULER_LEAST_CONN,
        Scheduler::LeastWaiting => SCHEDULER_LEAST_WAITING,
    };
    let requests = if spec.requests { SERVICE_REQUESTS } else { 0 };
    let (near, spill) = if near { (SERVICE_NEAR, spec.policy.zone_spill) } else { (0, 0) };
    Service {
        vip: key.vip,
        port: key.port,
        protocol: key.protocol,
        flags: SERVICE_LIVE | requests | near,
        scheduler,
        retries: spec.policy.retries,
        spill,
        ..Service::EMPTY
    }
}

#[cfg(test)]
mod tests;
