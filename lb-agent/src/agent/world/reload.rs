//! Another configuration: who stays, with all that is known of it, who goes, and who is new.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use tokio::time::Instant;

use super::{Health, World, names_of, node_facts};
use crate::config::Config;
use crate::health::BackendHealth;
use crate::model::{BackendKey, HealthState, ServiceSpec};

/// Backends that stay: the key that each one had, and the one that it has now.
#[derive(Debug, Default)]
pub struct Stay(BTreeMap<BackendKey, BackendKey>);

impl Stay {
    /// Those that have the same name, service's name and address in both. Another VIP makes another key of them.
    #[must_use]
    pub fn between(old: &[ServiceSpec], new: &[ServiceSpec]) -> Self {
        let before: BTreeMap<_, _> = identities(old).collect();
        let stay = identities(new).filter_map(|(identity, key)| Some((*before.get(&identity)?, key)));
        Self(stay.collect())
    }

    /// What was kept for those that stay, under the keys that they have now.
    #[must_use]
    pub fn carry<T>(&self, kept: BTreeMap<BackendKey, T>) -> BTreeMap<BackendKey, T> {
        kept.into_iter().filter_map(|(key, value)| Some((*self.0.get(&key)?, value))).collect()
    }

    /// The same of a set.
    #[must_use]
    pub fn carry_set(&self, kept: &BTreeSet<BackendKey>) -> BTreeSet<BackendKey> {
        kept.iter().filter_map(|key| self.0.get(key)).copied().collect()
    }
}

/// Who each backend is: the names of its service and of itself, and where it listens.
fn identities(services: &[ServiceSpec]) -> impl Iterator<Item = ((&str, &str, SocketAddr), BackendKey)> {
    services.iter().flat_map(|s| {
        s.backends.iter().map(|b| ((s.name.as_str(), b.name.as_str(), b.address), s.backend_key(b)))
    })
}

impl World {
    /// Goes by another configuration from `now` on. `checks` says of each of its backends what the checks have come to, as
    /// some of them may not have arrived here yet. Returns how many drains ended because their backends are gone.
    ///
    /// What the node is (interfaces, SNAT addresses and ports, the table's secret) stays.
    pub fn reload(
        &mut self,
        config: &Config,
        checks: &BTreeMap<BackendKey, BackendHealth>,
        now: Instant,
    ) -> usize {
        let stay = Stay::between(&self.services, &config.services);
        let ports = std::mem::take(&mut self.node.ports);
        self.node = node_facts(config, ports, self.node.hash_key);
        self.services.clone_from(&config.services);
        self.names = names_of(&self.services);
        let mut health = stay.carry(std::mem::take(&mut self.health));
        self.first_round = stay.carry_set(&self.first_round);
        for key in self.names.keys() {
            let known = health.entry(*key).or_insert_with(|| Health::new(now));
            if let Some(latest) = checks.get(key) {
                known.catch_up(latest);
            }
        }
        self.states = health.iter().map(|(key, health)| (*key, health.state)).collect();
        self.health = health;
        self.newcomers.reload(&stay);
        self.drains.reload(&stay)
    }
}

impl Health {
    /// A backend that is added now.
    pub(super) fn new(now: Instant) -> Self {
        Self { state: HealthState::Starting, since: now, why: "not checked yet".into(), checked: false }
    }

    /// Takes over a state that was decided and is not known here.
    fn catch_up(&mut self, latest: &BackendHealth) {
        if let Some(why) = latest.why.filter(|_| latest.state != self.state) {
            (self.state, self.since, self.why) = (latest.state, latest.since, why.to_string());
            self.checked = true;
        }
    }
}
