//! Which backends are drained, and how far that is.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::drain::{Drain, Outcome, Reading};
use crate::model::{BackendKey, DrainSpec};

use super::world::Stay;

/// Every backend that gets no new flows because somebody wants it so. What is in here stays until it is taken out:
/// the end of a drain does not bring a backend back, and neither does another configuration that still has it.
#[derive(Clone, Debug)]
pub struct Drains {
    /// The drains' clock starts here.
    epoch: Instant,
    keys: BTreeSet<BackendKey>,
    drains: BTreeMap<BackendKey, Drain>,
}

impl Drains {
    /// None yet; `now` is not later than that of any later call.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { epoch: now, keys: BTreeSet::new(), drains: BTreeMap::new() }
    }

    /// Begins a drain, or begins it anew.
    pub fn begin(&mut self, key: BackendKey, rules: DrainSpec, now: Instant) {
        self.keys.insert(key);
        self.drains.insert(key, Drain::new(self.time(now), rules));
    }

    /// The backend may have new flows again. Gives its drain, if there was one.
    pub fn end(&mut self, key: &BackendKey) -> Option<Drain> {
        self.keys.remove(key);
        self.drains.remove(key)
    }

    /// There are other backends now. Those that stay stay drained, and the drains of others are forgotten. Returns how
    /// many of these were not at their end.
    pub fn reload(&mut self, stay: &Stay) -> usize {
        let before = self.going_on();
        self.keys = stay.carry_set(&self.keys);
        self.drains = stay.carry(std::mem::take(&mut self.drains));
        before - self.going_on()
    }

    /// Backends that get no new flows, drained ones included.
    #[must_use]
    pub const fn keys(&self) -> &BTreeSet<BackendKey> {
        &self.keys
    }

    /// The drain of a backend.
    #[must_use]
    pub fn get(&self, key: &BackendKey) -> Option<&Drain> {
        self.drains.get(key)
    }

    /// Whether any drain is not at its end.
    #[must_use]
    pub fn is_any_going_on(&self) -> bool {
        self.going_on() > 0
    }

    fn going_on(&self) -> usize {
        self.drains.values().filter(|drain| drain.end().is_none()).count()
    }

    /// Looks at every drain that is not at its end, by `read`; `None` from it means what it does to
    /// [`Drain::observe`]. Gives those that ended now.
    pub fn observe(
        &mut self,
        now: Instant,
        mut read: impl FnMut(&BackendKey) -> Option<Reading>,
    ) -> Vec<(BackendKey, Outcome)> {
        let now = self.time(now);
        let going_on = self.drains.iter_mut().filter(|(_, drain)| drain.end().is_none());
        going_on.filter_map(|(key, drain)| Some((*key, drain.observe(now, read(key))?))).collect()
    }

    /// The moment that a drain gives as a time.
    #[must_use]
    pub fn instant(&self, time: Duration) -> Instant {
        // No deadline is so far away that the clock could not tell it.
        self.epoch.checked_add(time).unwrap_or(self.epoch)
    }

    fn time(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.epoch)
    }
}
