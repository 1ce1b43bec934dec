//! Who has which id.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use lb_common::backend::MAX_BACKENDS;
use lb_common::service::{MAX_SERVICES, ServiceKey};

use super::PlanError;
use crate::dataplane::Tables;
use crate::model::{BackendKey, BackendSpec, ServiceSpec};

/// Ids that tables give to somebody, and the generation of every backend id.
#[derive(Default)]
pub(super) struct Known {
    services: BTreeMap<ServiceKey, u16>,
    backends: BTreeMap<BackendKey, u16>,
    used_services: BTreeSet<u16>,
    used_backends: BTreeSet<u16>,
    generations: BTreeMap<u16, u16>,
}

impl Known {
    pub(super) fn of(tables: &Tables) -> Self {
        let mut known = Self::default();
        let live = tables.services.iter().filter(|(_, s)| s.is_live());
        let keys: BTreeMap<u16, ServiceKey> = live
            .map(|(&id, s)| (id, ServiceKey { protocol: s.protocol, ..ServiceKey::tcp(s.vip, s.port) }))
            .collect();
        known.services = keys.iter().map(|(&id, &key)| (key, id)).collect();
        // When a crash left two entries for one key, the one that packets reach counts.
        let reached = tables.service_ids.iter().filter(|(key, id)| keys.get(id) == Some(key));
        known.services.extend(reached);
        known.used_services = keys.keys().chain(tables.service_ids.values()).copied().collect();
        for (&id, backend) in &tables.backends {
            known.generations.insert(id, backend.generation);
            if !backend.is_live() {
                continue;
            }
            known.used_backends.insert(id);
            // A live backend without its service is left from a removal that did not end: nobody's.
            if let Some(&service) = keys.get(&backend.service)
                && known.services.get(&service) == Some(&backend.service)
            {
                let address = SocketAddr::new(IpAddr::from(backend.addr), u16::from_be(backend.port));
                known.backends.entry(BackendKey { service, address }).or_insert(id);
            }
        }
        known
    }
}

/// Gives every service and backend its id.
pub(super) struct Ids {
    known: Known,
    free_services: Free,
    free_backends: Free,
}

impl Ids {
    pub(super) fn new(known: Known, services: &[ServiceSpec]) -> Result<Self, PlanError> {
        let mut keys = BTreeSet::new();
        for spec in services {
            if !keys.insert(spec.key()) {
                return Err(PlanError::DuplicateService(spec.name.clone(), spec.vip));
            }
        }
        let wanted = keys.iter().filter_map(|key| known.services.get(key));
        let free_services = Free::new(0, MAX_SERVICES, &known.used_services, wanted);
        let keys = services.iter().flat_map(|s| s.backends.iter().map(|b| s.backend_key(b)));
        let wanted: Vec<&u16> = keys.filter_map(|key| known.backends.get(&key)).collect();
        let free_backends = Free::new(1, MAX_BACKENDS, &known.used_backends, wanted.into_iter());
        Ok(Self { known, free_services, free_backends })
    }

    /// The id of a service.
    pub(super) fn service(&mut self, key: ServiceKey, spec: &ServiceSpec) -> Result<u16, PlanError> {
        if let Some(&id) = self.known.services.get(&key) {
            return Ok(id);
        }
        self.free_services.take().ok_or_else(|| PlanError::TooManyServices(spec.name.clone()))
    }

    /// The id and generation of a backend.
    pub(super) fn backend(
        &mut self,
        key: BackendKey,
        service: &ServiceSpec,
        backend: &BackendSpec,
    ) -> Result<(u16, u16), PlanError> {
        let generation = |id| self.known.generations.get(&id).copied().unwrap_or(0);
        if let Some(&id) = self.known.backends.get(&key) {
            return Ok((id, generation(id)));
        }
        let id = self
            .free_backends
            .take()
            .ok_or_else(|| PlanError::TooManyBackends(service.name.clone(), backend.name.clone()))?;
        Ok((id, generation(id).wrapping_add(1)))
    }
}

/// Ids to give away.
struct Free {
    next: u32,
    end: u32,
    used: BTreeSet<u16>,
    /// Used by those that are not wanted any more.
    leaving: BTreeSet<u16>,
}

impl Free {
    fn new<'a>(first: u32, end: u32, used: &BTreeSet<u16>, wanted: impl Iterator<Item = &'a u16>) -> Self {
        let mut leaving = used.clone();
        for id in wanted {
            leaving.remove(id);
        }
        Self { next: first, end, used: used.clone(), leaving }
    }

    /// The lowest id that is not used; when there is none, the lowest that is about to be.
    fn take(&mut self) -> Option<u16> {
        while self.next < self.end {
            let id = u16::try_from(self.next).ok()?;
            self.next += 1;
            if !self.used.contains(&id) {
                return Some(id);
            }
        }
        self.leaving.pop_first()
    }
}
