//! What the maps should hold, from the configuration, the checks and the network.
//!
//! The plan is a pure function. It takes the plan before, so that whatever is still wanted keeps its id,
//! generation and ring.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use lb_common::addr::Addr;
use lb_common::backend::{BACKEND_DEAD, BACKEND_LIVE, BACKEND_RESOLVED, Backend};
use lb_common::node::{MAX_PORTS, MAX_SNAT_ADDRESSES, MAX_SNAT_RANGES};
use lb_common::ring::Ring;
use lb_common::service::{
    SCHEDULER_LEAST_CONN, SCHEDULER_LEAST_WAITING, SCHEDULER_MAGLEV, SCHEDULER_ROUND_ROBIN, SERVICE_LIVE,
    SERVICE_REQUESTS, Service, ServiceKey, VIP_ANNOUNCE,
};

use crate::dataplane::{RingKey, Tables};
use crate::maglev::{Member, identity, maglev, moved_slots, round_robin};
use crate::model::{BackendKey, BackendSpec, HealthState, NextHop, NodeFacts, Scheduler, ServiceSpec};

mod ids;
mod members;
mod node;

pub use members::Standing;

use ids::{Ids, Known};
use members::{Candidate, Chosen};
use node::Ports;

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
    /// Next hops of backend addresses; an address that is absent is unresolved.
    pub hops: &'a BTreeMap<IpAddr, NextHop>,
}

/// The wanted state and how it came about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What the maps should hold.
    pub tables: Tables,
    /// Every service; empty in a plan that was read back from the kernel.
    pub services: BTreeMap<ServiceKey, ServicePlan>,
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
    /// What the ring was built from.
    pub recipe: Recipe,
}

/// Two rings of the same recipe are the same ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Round robin has a ring of its own kind; the others share one.
    pub scheduler: Scheduler,
    /// Who stands in the ring.
    pub members: Vec<Member>,
}

/// Why there is no plan. The configuration is checked for all of this before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Service ids ran out.
    #[error("service {0}: more than {max} services", max = lb_common::service::MAX_SERVICES)]
    TooManyServices(String),
    /// Backend ids ran out.
    #[error("service {0}, backend {1}: more than {max} backends", max = lb_common::backend::MAX_BACKENDS - 1)]
    TooManyBackends(String, String),
    /// Two services for one address and port.
    #[error("service {0}: another service has the address {1}")]
    DuplicateService(String, SocketAddr),
    /// Two backends of one service for one address and port.
    #[error("service {0}: two backends have the address {1}")]
    DuplicateBackend(String, SocketAddr),
    /// More interfaces than the map holds.
    #[error("interface {0}: more than {MAX_PORTS} interfaces")]
    TooManyPorts(String),
    /// More entries of `nat.addresses` than the map holds.
    #[error("nat.addresses: more than {MAX_SNAT_RANGES} entries")]
    TooManyRanges,
    /// More SNAT addresses than the table has blocks.
    #[error("nat.addresses: {0} makes it more than {MAX_SNAT_ADDRESSES} addresses")]
    TooManyAddresses(ipnet::IpNet),
    /// No bucket fits.
    #[error("nat.ports: {0}-{1} holds no eight ports")]
    TooFewPorts(u16, u16),
}

impl Plan {
    /// What is known after a start: the maps, but not how their rings were made.
    #[must_use]
    pub const fn read_back(tables: Tables) -> Self {
        Self { tables, services: BTreeMap::new() }
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
    let mut services = BTreeMap::new();
    for spec in inputs.services {
        let key = spec.key();
        let id = ids.service(key, spec)?;
        let backends = plan_backends(inputs, spec, id, &ports, &mut ids, &mut tables.backends)?;
        let candidates = candidates(inputs, spec, &backends, &tables.backends);
        let Chosen { standing, priority, members } = members::choose(&spec.policy, &candidates);
        flag_dead(&candidates, &members, &mut tables.backends);
        let recipe = Recipe { scheduler: spec.scheduler, members };
        tables.rings.insert(RingKey::All(id), ring_for(&recipe, id, key, previous));
        tables.services.insert(id, service_entry(spec, key));
        tables.vips.insert(key.vip, if inputs.node.announce { VIP_ANNOUNCE } else { 0 });
        tables.service_ids.insert(key, id);
        let name = spec.name.clone();
        services.insert(key, ServicePlan { name, id, standing, priority, backends, recipe });
    }
    Ok(Plan { tables, services })
}

fn plan_backends(
    inputs: &Inputs<'_>,
    spec: &ServiceSpec,
    service: u16,
    ports: &Ports,
    ids: &mut Ids,
    entries: &mut BTreeMap<u16, Backend>,
) -> Result<BTreeMap<BackendKey, u16>, PlanError> {
    let mut out = BTreeMap::new();
    for backend in &spec.backends {
        let key = spec.backend_key(backend);
        let (id, generation) = ids.backend(key, spec, backend)?;
        if out.insert(key, id).is_some() {
            return Err(PlanError::DuplicateBackend(spec.name.clone(), backend.address));
        }
        let mut entry = Backend {
            addr: Addr::from(backend.address.ip()),
            port: backend.address.port().to_be(),
            generation,
            service,
            weight: backend.weight.max(1),
            flags: BACKEND_LIVE,
            ..Backend::EMPTY
        };
        if let Some(hop) = inputs.hops.get(&backend.address.ip())
            && let Some(port_index) = ports.index(hop.ifindex)
        {
            entry.flags |= BACKEND_RESOLVED;
            (entry.mac, entry.port_index, entry.vlan) = (hop.mac, port_index, hop.vlan);
        }
        entries.insert(id, entry);
    }
    Ok(out)
}

/// The service's backends as [`members`] looks at them.
fn candidates(
    inputs: &Inputs<'_>,
    spec: &ServiceSpec,
    ids: &BTreeMap<BackendKey, u16>,
    entries: &BTreeMap<u16, Backend>,
) -> Vec<Candidate> {
    let candidate = |backend: &BackendSpec| {
        let key = spec.backend_key(backend);
        let id = *ids.get(&key)?;
        let weight = backend.weight.max(1);
        Some(Candidate {
            member: Member { identity: identity(&key), id, weight },
            weight,
            priority: backend.priority,
            health: inputs.health.get(&key).copied().unwrap_or(HealthState::Starting),
            draining: inputs.draining.contains(&key),
            resolved: entries.get(&id).is_some_and(Backend::is_resolved),
        })
    };
    spec.backends.iter().filter_map(candidate).collect()
}

/// The flows of a dead backend are lost, and their clients are told. Not so while it stands in the ring: there it is
/// because no other is better, and its new flows would be told the same.
fn flag_dead(candidates: &[Candidate], members: &[Member], entries: &mut BTreeMap<u16, Backend>) {
    for dead in candidates.iter().filter(|c| c.health == HealthState::Dead) {
        let id = dead.member.id;
        if let Some(entry) = entries.get_mut(&id)
            && members.iter().all(|m| m.id != id)
        {
            entry.flags |= BACKEND_DEAD;
        }
    }
}

/// The ring before, when it is of the same recipe or turns out to be equal; a new one otherwise.
///
/// A ring that was read back has no recipe: a crash may have left one that is older than its backends' weights.
fn ring_for(recipe: &Recipe, id: u16, key: ServiceKey, previous: &Plan) -> Arc<Ring> {
    let before = previous.tables.rings.get(&RingKey::All(id));
    let same = previous.services.get(&key).is_some_and(|s| s.id == id && s.recipe == *recipe);
    if let (true, Some(ring)) = (same, before) {
        return Arc::clone(ring);
    }
    let ring = match recipe.scheduler {
        Scheduler::RoundRobin => round_robin(&recipe.members),
        Scheduler::Maglev | Scheduler::LeastConn | Scheduler::LeastWaiting => maglev(&recipe.members),
    };
    before.filter(|old| **old == ring).map_or(ring, Arc::clone)
}

fn service_entry(spec: &ServiceSpec, key: ServiceKey) -> Service {
    let scheduler = match spec.scheduler {
        Scheduler::Maglev => SCHEDULER_MAGLEV,
        Scheduler::RoundRobin => SCHEDULER_ROUND_ROBIN,
        Scheduler::LeastConn => SCHEDULER_LEAST_CONN,
        Scheduler::LeastWaiting => SCHEDULER_LEAST_WAITING,
    };
    let requests = if spec.requests { SERVICE_REQUESTS } else { 0 };
    Service {
        vip: key.vip,
        port: key.port,
        protocol: key.protocol,
        flags: SERVICE_LIVE | requests,
        scheduler,
        retries: spec.policy.retries,
        ..Service::EMPTY
    }
}

#[cfg(test)]
mod tests;
