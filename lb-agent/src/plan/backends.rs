//! A service's backends: their entries, and what the choice among them goes by.

use std::collections::BTreeSet;

use lb_common::addr::Addr;
use lb_common::backend::{BACKEND_DEAD, BACKEND_LIVE, BACKEND_RESOLVED, Backend};

use crate::maglev::{Member, identity};
use crate::model::{BackendKey, BackendSpec, HealthState, Scheduler, ServiceSpec};

use super::ids::Ids;
use super::members::Candidate;
use super::node::Ports;
use super::{Inputs, PlanError};

/// A backend with an id.
pub(super) struct Planned {
    pub(super) key: BackendKey,
    pub(super) id: u16,
    pub(super) candidate: Candidate,
    entry: Backend,
}

/// The backends of a service, in the order of its specification, with these weights.
pub(super) fn plan(
    inputs: &Inputs<'_>,
    spec: &ServiceSpec,
    service: u16,
    weights: &[u16],
    (ports, ids): (&Ports, &mut Ids),
) -> Result<Vec<Planned>, PlanError> {
    let zones =
        inputs.node.zone.is_some() && spec.policy.prefer_zone && spec.scheduler != Scheduler::RoundRobin;
    let mut keys = BTreeSet::new();
    let backends = spec.backends.iter().zip(weights).map(|(backend, &weight)| {
        let key = spec.backend_key(backend);
        if !keys.insert(key) {
            return Err(PlanError::DuplicateBackend(spec.name.clone(), backend.address));
        }
        let (id, generation) = ids.backend(key, spec, backend)?;
        let entry = Backend { generation, service, ..entry(inputs, backend, weight, ports) };
        let candidate = Candidate {
            member: Member { identity: identity(&key), id, weight },
            weight: backend.weight.max(1),
            priority: backend.priority,
            health: inputs.health.get(&key).copied().unwrap_or(HealthState::Starting),
            draining: inputs.draining.contains(&key),
            resolved: entry.is_resolved(),
            near: zones && backend.zone == inputs.node.zone,
        };
        Ok(Planned { key, id, candidate, entry })
    });
    backends.collect()
}

impl Planned {
    /// The entry, when these stand in the ring.
    ///
    /// The flows of a dead backend are lost, and their clients are told. Not so while it stands in the ring: there it is
    /// because no other is better, and its new flows would be told the same.
    pub(super) fn entry(&self, members: &[Member]) -> Backend {
        let mut entry = self.entry;
        if self.candidate.health == HealthState::Dead && members.iter().all(|m| m.id != self.id) {
            entry.flags |= BACKEND_DEAD;
        }
        entry
    }
}

fn entry(inputs: &Inputs<'_>, backend: &BackendSpec, weight: u16, ports: &Ports) -> Backend {
    let (addr, port) = (Addr::from(backend.address.ip()), backend.address.port().to_be());
    let mut entry = Backend { addr, port, weight, flags: BACKEND_LIVE, ..Backend::EMPTY };
    if let Some(hop) = inputs.hops.get(&backend.address.ip())
        && let Some(port_index) = ports.index(hop.ifindex)
    {
        entry.flags |= BACKEND_RESOLVED;
        (entry.mac, entry.port_index, entry.vlan) = (hop.mac, port_index, hop.vlan);
    }
    entry
}
