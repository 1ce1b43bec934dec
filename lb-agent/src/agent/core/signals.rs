//! Looking at what the data path counts of each backend, and letting it count against them.

use std::collections::BTreeMap;
use std::time::Duration;

use lb_common::abi::ticks_to_millis;
use lb_common::stats::{BackendLoad, BackendStats};
use tokio::time::Instant;

use super::Core;
use super::drains::LOOK;
use crate::agent::program::Program;
use crate::agent::world::World;
use crate::dataplane::{Counters, DataplaneError};
use crate::flows::FlowSummary;
use crate::health::Verdict;
use crate::health::passive::{Detector, Found, Sighting};
use crate::metrics::Operation;
use crate::model::{BackendKey, ServiceSpec};
use crate::plan::Plan;

/// What is remembered from one look to the next.
#[derive(Debug)]
pub(super) struct Signals {
    /// The detectors' clock starts here.
    epoch: Instant,
    due: Option<Instant>,
    /// Of backends that have ever failed.
    detectors: BTreeMap<BackendKey, Detector>,
}

impl Signals {
    /// Nothing was seen yet; the first look is due at once, if any service wants one.
    pub(super) fn new(world: &World, now: Instant) -> Self {
        Self { epoch: now, due: Self::is_wanted(world).then_some(now), detectors: BTreeMap::new() }
    }

    /// There are other backends now: forgets what was seen of those that are gone.
    pub(super) fn reload(&mut self, world: &World, now: Instant) {
        self.detectors.retain(|key, _| world.names(key).is_some());
        self.due = Self::is_wanted(world).then(|| self.due.unwrap_or(now));
    }

    /// Whether any service wants its backends looked at.
    fn is_wanted(world: &World) -> bool {
        world.services().iter().any(|s| s.health.passive.watches_counters())
    }

    /// Looks at every backend. Reads memory; asks the kernel only about backends that cut flows off. What was found, and the
    /// last thing that could not be read.
    fn look(
        &mut self,
        world: &World,
        plan: &Plan,
        counters: &dyn Counters,
    ) -> (Vec<(BackendKey, Found)>, Option<DataplaneError>) {
        let now = self.epoch.elapsed();
        let (mut all, mut failure) = (Vec::new(), None);
        for service in world.services().iter().filter(|s| s.health.passive.watches_counters()) {
            for (key, id) in plan.services.get(&service.key()).iter().flat_map(|s| &s.backends) {
                let load = match counters.load(*id) {
                    Ok(load) => load,
                    Err(e) => {
                        failure = Some(e);
                        continue;
                    }
                };
                if is_blameless(&load) && !self.detectors.contains_key(key) {
                    continue;
                }
                let mut read = || counters.backend(*id).map_err(|e| failure = Some(e)).ok();
                let answers = || read().map(|stats| answers(service, &stats));
                let detector = self.detectors.entry(*key).or_default();
                let found = detector.look(&service.health.passive, &load, now, answers);
                if !found.is_nothing() {
                    all.push((*key, found));
                }
            }
        }
        (all, failure)
    }
}

/// What resets are compared with: the answers that a backend has begun or, where nobody waits for answers, its flows.
const fn answers(service: &ServiceSpec, stats: &BackendStats) -> u64 {
    if service.requests { stats.responses } else { stats.new_flows }
}

/// Whether it has never cut off a flow, and none of its last SYNs has failed.
const fn is_blameless(load: &BackendLoad) -> bool {
    load.failures == 0 && load.resets == 0
}

impl<P: Program> Core<P> {
    /// When [`Core::observe_signals`] is to be called; `None` when no service wants it.
    #[must_use]
    pub const fn signals_due(&self) -> Option<Instant> {
        self.signals.due
    }

    /// Looks what has become of the backends' connections.
    pub fn observe_signals(&mut self) {
        self.signals.due = Some(Instant::now() + LOOK);
        // Until the kernel has the plan, an id may be another backend's there.
        if self.writer.is_pending() {
            return;
        }
        let (found, failure) = self.signals.look(&self.world, self.writer.plan(), &*self.counters);
        if let Some(e) = failure {
            self.failed(Operation::Counters, format!("passive health: counters cannot be read: {e}"));
        }
        for (key, found) in found {
            if found.check {
                self.hurry(&key);
            }
            for sighting in found.sightings.into_iter().flatten() {
                self.sighted(&key, sighting);
            }
        }
    }

    /// Whether some service wants to know how long flows wait.
    #[must_use]
    pub fn watches_waiting(&self) -> bool {
        self.world.services().iter().any(|s| s.health.passive.watches_waiting())
    }

    /// The search for the flows that wait longest, to be run where it holds up nothing.
    pub fn search(&self) -> impl FnOnce() -> Option<FlowSummary> + Send + 'static {
        let (counters, metrics) = (self.counters.clone(), self.metrics.clone());
        move || counters.summary().inspect_err(|_| metrics.error(Operation::Counters)).ok()
    }

    /// Takes what the search has found; `None` when it could not be made.
    pub fn observe_waiting(&mut self, summary: Option<FlowSummary>) {
        let Some(summary) = summary.filter(|_| !self.writer.is_pending()) else { return };
        let services = self.world.services().iter().filter(|s| s.health.passive.watches_waiting());
        let late: Vec<_> = services.flat_map(|s| waiting_too_long(s, self.writer.plan(), &summary)).collect();
        for (key, time) in late {
            self.sighted(&key, Sighting::OldestWaiting(time));
        }
    }

    fn hurry(&self, key: &BackendKey) {
        if let Some((service, _)) = self.world.names(key) {
            self.metrics.hurried(service);
        }
        self.passive.hurry(key);
    }

    fn sighted(&mut self, key: &BackendKey, sighting: Sighting) {
        let Some((verdict, at)) = self.passive.suspect(key, sighting, self.world.drains().keys()) else {
            return;
        };
        if let Some((service, _)) = self.world.names(key) {
            self.metrics.signal(service, sighting.signal(), verdict);
        }
        if let Verdict::Suspect(change) = verdict {
            self.changed |= self.world.change(key, change, at);
            self.writer.decided(at);
        }
    }
}

/// Backends of a service with a flow that has waited for longer than the service wants, and for how long.
fn waiting_too_long(
    service: &ServiceSpec,
    plan: &Plan,
    summary: &FlowSummary,
) -> Vec<(BackendKey, Duration)> {
    let limit = service.health.passive.oldest_waiting;
    let backends = plan.services.get(&service.key()).into_iter().flat_map(|s| &s.backends);
    let waits = |id: u16| {
        let entry = plan.tables.backends.get(&id)?;
        let flows = summary.backend(id, entry.generation)?;
        Some(Duration::from_millis(ticks_to_millis(flows.oldest_waiting)))
    };
    let late = backends.filter_map(|(key, id)| Some((*key, waits(*id)?)));
    late.filter(|(_, time)| *time >= limit).collect()
}
