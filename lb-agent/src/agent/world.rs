//! What the agent knows: the configuration, what the checks say, and where the backends are on layer 2.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::{Announce, Config};
use crate::drain::Drain;
use crate::health::CheckObservation;
use crate::health::fsm::Transition;
use crate::model::{
    BackendKey, BackendSpec, DrainSpec, HealthState, NextHop, NodeFacts, PortFacts, ServiceSpec,
};
use crate::net::hops::Hops;
use crate::plan::Inputs;
use crate::status::drain::{no_backend, no_service};

use super::drains::Drains;
use super::newcomers::Newcomers;

mod reload;

pub use reload::Stay;

/// All inputs of a plan, and what people want to know about them.
#[derive(Clone, Debug)]
pub struct World {
    /// The plan's clock starts here.
    epoch: Instant,
    node: NodeFacts,
    services: Vec<ServiceSpec>,
    states: BTreeMap<BackendKey, HealthState>,
    health: BTreeMap<BackendKey, Health>,
    drains: Drains,
    newcomers: Newcomers,
    names: BTreeMap<BackendKey, (String, String)>,
    /// Backends that were there at the start and were not checked yet.
    first_round: BTreeSet<BackendKey>,
    hops: BTreeMap<IpAddr, NextHop>,
    unresolved: BTreeMap<IpAddr, String>,
    /// Configured interfaces that do not exist at the moment.
    missing: BTreeSet<String>,
    /// Whether interfaces take redirected frames, as far as the kernel says.
    redirect: BTreeMap<String, bool>,
}

/// What people want to know of a backend's health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// State now.
    pub state: HealthState,
    /// Since when.
    pub since: Instant,
    /// What decided it.
    pub why: String,
    /// Whether a check has ended yet.
    pub checked: bool,
}

impl World {
    /// Everything starting, nothing resolved.
    #[must_use]
    pub fn new(node: NodeFacts, services: Vec<ServiceSpec>, now: Instant) -> Self {
        let names = names_of(&services);
        Self {
            epoch: now,
            node,
            services,
            states: names.keys().map(|key| (*key, HealthState::Starting)).collect(),
            health: names.keys().map(|key| (*key, Health::new(now))).collect(),
            drains: Drains::new(now),
            newcomers: Newcomers::new(names.keys().copied()),
            first_round: names.keys().copied().collect(),
            names,
            hops: BTreeMap::new(),
            unresolved: BTreeMap::new(),
            missing: BTreeSet::new(),
            redirect: BTreeMap::new(),
        }
    }

    /// What the plan at this time is made of.
    #[must_use]
    pub fn inputs(&self, now: Instant) -> Inputs<'_> {
        Inputs {
            node: &self.node,
            services: &self.services,
            health: &self.states,
            draining: self.drains.keys(),
            risen: self.newcomers.risen(),
            hops: &self.hops,
            now: self.time(now),
        }
    }

    /// The moment that a plan gives as a time.
    #[must_use]
    pub fn instant(&self, time: Duration) -> Instant {
        // No step of a plan is so far away that the clock could not tell it.
        self.epoch.checked_add(time).unwrap_or(self.epoch)
    }

    fn time(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.epoch)
    }

    /// The node.
    #[must_use]
    pub const fn node(&self) -> &NodeFacts {
        &self.node
    }

    /// The services, in the order of the configuration.
    #[must_use]
    pub fn services(&self) -> &[ServiceSpec] {
        &self.services
    }

    /// Health of a backend.
    #[must_use]
    pub fn health(&self, service: &ServiceSpec, backend: &BackendSpec) -> Option<&Health> {
        self.health.get(&service.backend_key(backend))
    }

    /// The drains.
    #[must_use]
    pub const fn drains(&self) -> &Drains {
        &self.drains
    }

    /// Begins the drain of a backend, or begins it anew.
    pub fn drain(&mut self, key: BackendKey, rules: DrainSpec, now: Instant) {
        if !self.drains.keys().contains(&key) {
            self.newcomers.drained(&key);
        }
        self.drains.begin(key, rules, now);
    }

    /// The backend may have new flows again. Gives its drain, if there was one.
    pub fn undrain(&mut self, key: &BackendKey, now: Instant) -> Option<Drain> {
        let drain = self.drains.end(key)?;
        self.newcomers.undrained(key, self.time(now));
        Some(drain)
    }

    /// The drains, to look how far they are.
    pub const fn drains_mut(&mut self) -> &mut Drains {
        &mut self.drains
    }

    /// Next hop of an address, or why there is none.
    ///
    /// # Errors
    /// The reason in words.
    pub fn hop(&self, address: IpAddr) -> Result<NextHop, &str> {
        self.hops
            .get(&address)
            .copied()
            .ok_or_else(|| self.unresolved.get(&address).map_or("not looked up yet", String::as_str))
    }

    /// Whether a configured interface exists.
    #[must_use]
    pub fn is_present(&self, interface: &str) -> bool {
        !self.missing.contains(interface)
    }

    /// Whether an interface takes frames that are redirected to it; `None` when the kernel does not say.
    #[must_use]
    pub fn redirect(&self, interface: &str) -> Option<bool> {
        self.redirect.get(interface).copied()
    }

    /// The backend of these names, and how its service wants it to be drained.
    ///
    /// # Errors
    /// One line, with the names that there are.
    pub fn find(&self, service: &str, backend: &str) -> Result<(BackendKey, DrainSpec), String> {
        let services = self.services.iter().map(|s| s.name.as_str());
        let s = self.services.iter().find(|s| s.name == service);
        let s = s.ok_or_else(|| no_service(service, services))?;
        let backends = s.backends.iter().map(|b| b.name.as_str());
        let b = s.backends.iter().find(|b| b.name == backend);
        let b = b.ok_or_else(|| no_backend(service, backend, backends))?;
        Ok((s.backend_key(b), s.drain))
    }

    /// Names of a backend's service and of the backend; `None` when it was removed.
    #[must_use]
    pub fn names(&self, key: &BackendKey) -> Option<(&str, &str)> {
        self.names.get(key).map(|(s, b)| (s.as_str(), b.as_str()))
    }

    /// Backends that were there at the start and were never checked, as `service/backend`. Those that come later keep the
    /// node from nothing.
    pub fn unchecked(&self) -> impl Iterator<Item = String> {
        self.first_round.iter().filter_map(|key| self.names(key)).map(|(s, b)| format!("{s}/{b}"))
    }

    /// Takes the end of a check. Says whether anything that people see is different.
    pub fn observe(&mut self, observation: &CheckObservation) -> bool {
        let now = self.time(observation.at);
        let Some(health) = self.health.get_mut(&observation.key) else { return false };
        if !health.checked && observation.at < health.since {
            // Of another backend that had this address until a moment ago.
            return false;
        }
        self.first_round.remove(&observation.key);
        let states = (health.state, observation.change.map_or(health.state, |change| change.to));
        self.newcomers.observe(observation.key, observation.result, states, now);
        let first = !std::mem::replace(&mut health.checked, true);
        let Some(change) = observation.change else {
            if first && health.state == HealthState::Starting {
                health.why = format!("{} (within grace)", observation.result);
            }
            return first;
        };
        self.change(&observation.key, change, observation.at)
    }

    /// Takes a change of a backend's state. Says whether anything that people see is different: not if it is older than what
    /// is known, as checks arrive later than what is seen besides.
    pub fn change(&mut self, key: &BackendKey, change: Transition, at: Instant) -> bool {
        let Some(health) = self.health.get_mut(key).filter(|health| health.since <= at) else { return false };
        *health =
            Health { state: change.to, since: at, why: change.why.to_string(), checked: health.checked };
        self.states.insert(*key, change.to);
        true
    }

    /// Takes what is known of the network. Says whether the plan may differ.
    pub fn set_hops(&mut self, hops: &Hops) -> bool {
        let ports = self.ports_from(hops);
        let next = hops.next.iter().filter_map(|(&a, hop)| Some((a, *hop.as_ref().ok()?))).collect();
        self.unresolved =
            hops.next.iter().filter_map(|(&a, hop)| Some((a, hop.as_ref().err()?.to_string()))).collect();
        self.missing = hops.ports.iter().filter(|(_, p)| p.is_err()).map(|(name, _)| name.clone()).collect();
        self.redirect.clone_from(&hops.redirect);
        let changed = self.hops != next || self.node.ports != ports;
        (self.hops, self.node.ports) = (next, ports);
        changed
    }

    /// The interfaces as they are now. One that is gone keeps its old facts: the program is not on it any more,
    /// and a plan without it would renumber the others.
    fn ports_from(&self, hops: &Hops) -> Vec<PortFacts> {
        let now = |old: &PortFacts| match hops.ports.get(&old.name) {
            Some(Ok(port)) => port.facts.clone(),
            Some(Err(_)) | None => old.clone(),
        };
        self.node.ports.iter().map(now).collect()
    }
}

/// Names of the services and of the backends.
fn names_of(services: &[ServiceSpec]) -> BTreeMap<BackendKey, (String, String)> {
    let of = |s: &ServiceSpec, b: &BackendSpec| (s.backend_key(b), (s.name.clone(), b.name.clone()));
    services.iter().flat_map(|s| s.backends.iter().map(move |b| of(s, b))).collect()
}

/// The node, as far as the configuration says, with these interfaces.
pub(super) fn node_facts(config: &Config, ports: Vec<PortFacts>, hash_key: u64) -> NodeFacts {
    NodeFacts {
        ports,
        snat: config.nat.addresses.clone(),
        snat_ports: config.nat.ports,
        rest: config.nat.rest,
        idle: config.nat.idle_timeout,
        announce: config.agent.announce == Announce::Arp,
        hash_key,
        zone: config.agent.zone.clone(),
        reset_rate: config.agent.reset_rate,
    }
}
