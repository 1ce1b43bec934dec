//! Gets the plan into the kernel: in batches, soon, and again and again until it is there.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::dataplane::{Dataplane, DataplaneError, Tables};
use crate::metrics::ledger::Holder;
use crate::metrics::{BackendLabels, Metrics, Operation};
use crate::plan::{self, Plan, PlanError};
use crate::reconcile::reconcile;

use super::changes;
use super::world::World;

/// A decision waits this long for others to be written with it.
pub const BATCH: Duration = Duration::from_millis(25);
/// From the start of one write to the start of the next: replacing a ring waits for the kernel's RCU, and a storm of
/// decisions must not make it wait all the time. With a ring's own time this keeps within 100 ms of a decision.
pub const SPACING: Duration = Duration::from_millis(50);
/// Pause after a failure; doubled after each further one.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Why a write did not go through. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// There is no plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The kernel could not be read.
    #[error("cannot read the maps back: {0}")]
    Read(DataplaneError),
    /// The kernel refused a write.
    #[error("cannot write: {0}")]
    Apply(DataplaneError),
}

impl WriteError {
    const fn operation(&self) -> Operation {
        match self {
            Self::Read(_) => Operation::Read,
            Self::Plan(_) | Self::Apply(_) => Operation::Apply,
        }
    }
}

/// Owns the maps and knows what is in them.
pub struct Writer<D> {
    dataplane: D,
    metrics: Arc<Metrics>,
    plan: Plan,
    /// What the maps hold, as far as is known.
    actual: Tables,
    /// Something failed: read back before the next write.
    doubtful: bool,
    /// The plan that was last written in full.
    written: Plan,
    /// When the oldest decision fell that is not in the kernel yet.
    decided: Option<Instant>,
    /// When the plan becomes another by itself.
    step: Option<Instant>,
    last_start: Option<Instant>,
    failures: u32,
    retry_at: Instant,
    last_error: Option<String>,
    drift: u64,
}

impl<D: Dataplane> Writer<D> {
    /// Reads what an agent before this one may have left.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn new(dataplane: D, metrics: Arc<Metrics>) -> Result<Self, WriteError> {
        let actual = dataplane.read().map_err(WriteError::Read)?;
        let found = Plan::read_back(actual.clone());
        Ok(Self {
            dataplane,
            metrics,
            plan: found.clone(),
            actual,
            doubtful: false,
            written: found,
            decided: None,
            step: None,
            last_start: None,
            failures: 0,
            retry_at: Instant::now(),
            last_error: None,
            drift: 0,
        })
    }

    /// The maps.
    #[must_use]
    pub const fn dataplane(&self) -> &D {
        &self.dataplane
    }

    /// The maps.
    pub const fn dataplane_mut(&mut self) -> &mut D {
        &mut self.dataplane
    }

    /// The latest plan, in the kernel or not.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What the maps hold, as far as is known.
    #[must_use]
    pub const fn actual(&self) -> &Tables {
        &self.actual
    }

    /// Whether a decision is not in the kernel yet.
    #[must_use]
    pub const fn is_pending(&self) -> bool {
        self.decided.is_some()
    }

    /// The last failure, mended or not.
    #[must_use]
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// Entries that were found changed by someone else.
    #[must_use]
    pub const fn drift(&self) -> u64 {
        self.drift
    }

    /// Something was decided at `at` that the kernel should know.
    pub fn decided(&mut self, at: Instant) {
        self.decided = Some(self.decided.map_or(at, |earlier| earlier.min(at)));
    }

    /// When [`Writer::write`] is to be called next; `None` while there is nothing to write.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        if self.failures > 0 {
            return Some(self.retry_at);
        }
        let due = self.decided.map(|at| at + BATCH).into_iter().chain(self.step).min()?;
        Some(self.last_start.map_or(due, |start| due.max(start + SPACING)))
    }

    /// Plans anew and writes the difference. A failure is counted, logged once, and tried again when
    /// [`Writer::due`] says so.
    ///
    /// # Errors
    /// What failed; nobody has to do anything about it.
    pub fn write(&mut self, world: &World) -> Result<(), WriteError> {
        let now = Instant::now();
        self.last_start = Some(now);
        match self.try_write(world, now) {
            Ok(writes) => self.succeeded(writes),
            Err(e) => {
                self.failed(&e);
                return Err(e);
            }
        }
        Ok(())
    }

    /// Reads the maps back. What is not as it was written is counted, and due to be written again.
    pub fn resync(&mut self) {
        if self.is_pending() {
            return;
        }
        match self.dataplane.read() {
            Ok(tables) => {
                let ops = reconcile(&tables, &self.plan.tables);
                self.actual = tables;
                if !ops.is_empty() {
                    let count = u64::try_from(ops.len()).unwrap_or(u64::MAX);
                    warn!(
                        count,
                        first = crate::dataplane::describe(&ops[0]),
                        "maps were changed by someone else"
                    );
                    self.drift = self.drift.saturating_add(count);
                    self.metrics.drifted(count);
                    self.decided(Instant::now());
                }
            }
            Err(e) => {
                let e = WriteError::Read(e);
                self.metrics.error(e.operation());
                warn!("resync: {e}");
                self.last_error = Some(e.to_string());
            }
        }
    }

    fn try_write(&mut self, world: &World, now: Instant) -> Result<usize, WriteError> {
        let plan = plan::plan(&world.inputs(now), &self.plan)?;
        self.step = plan.due.map(|due| world.instant(due));
        self.assign(&plan, world);
        changes::log(&self.plan, &plan);
        self.plan = plan;
        if self.doubtful {
            self.actual = self.dataplane.read().map_err(WriteError::Read)?;
        }
        self.doubtful = true;
        let ops = reconcile(&self.actual, &self.plan.tables);
        self.dataplane.apply_all(&ops).map_err(WriteError::Apply)?;
        for op in &ops {
            self.actual.apply(op);
        }
        self.doubtful = false;
        Ok(ops.len())
    }

    fn succeeded(&mut self, writes: usize) {
        if self.failures > 0 {
            info!(attempts = self.failures + 1, "the kernel has the latest state again");
            self.failures = 0;
        }
        // A decision that changes nothing in the kernel has no latency.
        if let Some(at) = self.decided.take()
            && writes > 0
        {
            let latency = at.elapsed();
            debug!(writes, latency_ms = latency.as_secs_f64() * 1e3, "written");
            self.metrics.applied(latency);
        }
        for (key, slots) in self.plan.moved_slots_since(&self.written) {
            if let Some(service) = self.plan.services.get(&key) {
                self.metrics.ring_moved(&service.name, u64::from(slots));
            }
        }
        self.written = self.plan.clone();
    }

    fn failed(&mut self, e: &WriteError) {
        self.metrics.error(e.operation());
        let text = e.to_string();
        if self.failures == 0 || self.last_error.as_ref() != Some(&text) {
            warn!("{text}; trying again until it works");
        }
        self.last_error = Some(text);
        let pause = RETRY_FIRST.saturating_mul(1 << self.failures.min(10)).min(RETRY_MAX);
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Instant::now() + pause;
        self.decided(Instant::now());
    }

    /// Before the write: from then on the counters of an id are its new holder's.
    fn assign(&self, plan: &Plan, world: &World) {
        let before = &self.written.tables;
        // Only the maps that an agent before this one left hold ids whose counts are their holders' own.
        let fresh = self.written.services.is_empty();
        let services = plan.services.iter().map(|(key, s)| Holder {
            labels: s.name.clone(),
            id: s.id,
            generation: 0,
            adopted: fresh && before.service_ids.get(key) == Some(&s.id),
        });
        let backends = plan.services.values().flat_map(|s| &s.backends).filter_map(|(key, &id)| {
            let (service, backend) = world.names(key)?;
            let entry = plan.tables.backends.get(&id)?;
            let held = |b: &lb_common::backend::Backend| b.is_live() && b.generation == entry.generation;
            Some(Holder {
                labels: BackendLabels::from((service.to_owned(), backend.to_owned())),
                id,
                generation: entry.generation,
                adopted: fresh && before.backends.get(&id).is_some_and(held),
            })
        });
        self.metrics.assign(services, backends);
    }
}
