//! Checks every backend, in a task of its own, and keeps what the checks say of it.
//!
//! [`fsm`] decides, [`probe`] looks, `schedule` says when; this module owns the clock and the tasks. A check that
//! hangs holds up the next check of its own backend only, and never more than one is under way for a backend.
#![forbid(unsafe_code)]

pub mod fsm;
pub mod probe;
pub mod request;
mod schedule;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::model::{BackendKey, HealthSpec, HealthState, ServiceSpec};
use fsm::{CheckResult, Fsm, Rules, Transition, Why};
use probe::{Checked, Probe};
use request::RequestError;
use schedule::Schedule;

/// How many observations wait for a slow reader before checks wait with them.
const REPORTS: usize = 4096;

/// Checks the backends that [`Checker::set_targets`] names. Dropping it ends all checks.
pub struct Checker {
    board: Arc<Board>,
    tasks: BTreeMap<BackendKey, Task>,
    check: CheckFn,
    reports: mpsc::Sender<CheckObservation>,
}

/// One check that was made, and the change that it decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckObservation {
    /// Which backend.
    pub key: BackendKey,
    /// When the check ended and the decision fell.
    pub at: Instant,
    /// What it found.
    pub result: CheckResult,
    /// How long it took.
    pub duration: Duration,
    /// The change of state, if this check decided one. `change.at` counts from the checker's making.
    pub change: Option<Transition>,
}

/// What is known of one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendHealth {
    /// State now.
    pub state: HealthState,
    /// Since when; for a backend that is `Starting`, when it was added.
    pub since: Instant,
    /// What brought it into this state; `None` while nothing did.
    pub why: Option<Why>,
    /// What the last check found; `None` before the first.
    pub last_result: Option<CheckResult>,
    /// How long the last check took.
    pub last_duration: Option<Duration>,
    /// How many counted checks in a row were good, or bad, as the last one was.
    pub consecutive: u32,
}

/// A service whose health check cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("service {service:?}: health: {source}")]
pub struct TargetError {
    /// The service's name.
    pub service: String,
    /// What is wrong.
    #[source]
    pub source: RequestError,
}

impl Checker {
    /// A checker without targets, and where its observations arrive, each at once when its check ends. They must be
    /// read: when thousands are unread, checks wait. State is in [`Checker::snapshot`] before the observation
    /// arrives, so a reader may take one as a sign to look there.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<CheckObservation>) {
        Self::with_check(Arc::new(|probe| Box::pin(async move { probe.run().await })))
    }

    fn with_check(check: CheckFn) -> (Self, mpsc::Receiver<CheckObservation>) {
        let (reports, receiver) = mpsc::channel(REPORTS);
        let board = Arc::new(Board { epoch: Instant::now(), entries: Mutex::default() });
        (Self { board, tasks: BTreeMap::new(), check, reports }, receiver)
    }

    /// Checks the backends of these services from now on, and no others. A backend that stays keeps its state and
    /// its counts; when its `[service.health]` changed, they are judged by the new numbers. Must be called within
    /// a tokio runtime.
    ///
    /// # Errors
    /// When a check cannot be made as it is configured; then nothing changes.
    pub fn set_targets(&mut self, services: &[ServiceSpec]) -> Result<(), TargetError> {
        let targets = targets(services)?;
        self.tasks.retain(|key, _| targets.contains_key(key));
        self.board.lock().backends.retain(|key, _| targets.contains_key(key));
        for (key, target) in targets {
            if self.board.place(key, target.label, target.spec) {
                self.tasks.insert(key, self.spawn(key, target.probe, target.spec.interval));
            }
        }
        // Fewer targets may be all it takes.
        self.board.lock().note_first_round();
        Ok(())
    }

    /// The state of every backend, for the ring.
    #[must_use]
    pub fn states(&self) -> BTreeMap<BackendKey, HealthState> {
        self.board.lock().backends.iter().map(|(key, entry)| (*key, entry.fsm.state())).collect()
    }

    /// All that is known of every backend, for people.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<BackendKey, BackendHealth> {
        let entries = self.board.lock();
        entries.backends.iter().map(|(key, entry)| (*key, entry.health(self.board.epoch))).collect()
    }

    /// Whether every backend of the first [`Checker::set_targets`] was checked once. Stays true.
    #[must_use]
    pub fn first_round_done(&self) -> bool {
        self.board.lock().first_round_done
    }

    fn spawn(&self, key: BackendKey, probe: Probe, interval: Duration) -> Task {
        let (board, check, reports) = (self.board.clone(), self.check.clone(), self.reports.clone());
        let (probe, schedule) = (Arc::new(probe), Schedule::new(interval));
        Task(tokio::spawn(async move { watch(&board, key, &probe, &check, &reports, schedule).await }))
    }
}

/// How a check is made; tests put their own in its place.
type CheckFn = Arc<dyn Fn(Arc<Probe>) -> Pin<Box<dyn Future<Output = Checked> + Send>> + Send + Sync>;

/// Ends with its owner.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The life of one backend's task.
async fn watch(
    board: &Board,
    key: BackendKey,
    probe: &Arc<Probe>,
    check: &CheckFn,
    reports: &mpsc::Sender<CheckObservation>,
    mut schedule: Schedule,
) {
    let mut start = Instant::now();
    loop {
        // From start to start; a check that took longer than the interval is followed at once.
        start = (start + schedule.next_gap()).max(Instant::now());
        sleep_until(start).await;
        let checked = check(probe.clone()).await;
        let Some(observation) = board.record(key, checked) else { return };
        if reports.send(observation).await.is_err() {
            return;
        }
    }
}

struct Target<'a> {
    label: String,
    spec: &'a HealthSpec,
    probe: Probe,
}

fn targets(services: &[ServiceSpec]) -> Result<BTreeMap<BackendKey, Target<'_>>, TargetError> {
    let mut targets = BTreeMap::new();
    for service in services {
        for backend in &service.backends {
            let probe = Probe::new(backend.address, &service.health)
                .map_err(|source| TargetError { service: service.name.clone(), source })?;
            let label = format!("{}/{} ({})", service.name, backend.name, backend.address);
            targets.insert(service.backend_key(backend), Target { label, spec: &service.health, probe });
        }
    }
    Ok(targets)
}

/// Where the tasks write and the agent reads.
struct Board {
    epoch: Instant,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    backends: BTreeMap<BackendKey, Entry>,
    first_round_done: bool,
}

struct Entry {
    /// Service, backend and address, for the log.
    label: String,
    spec: HealthSpec,
    fsm: Fsm,
    last: Option<Checked>,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        // No code that holds the lock can leave the entries half written.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds or updates a backend; says whether it needs a new task.
    fn place(&self, key: BackendKey, label: String, spec: &HealthSpec) -> bool {
        let mut entries = self.lock();
        match entries.backends.get_mut(&key) {
            Some(entry) => {
                entry.label = label;
                let changed = entry.spec != *spec;
                if changed {
                    entry.spec = spec.clone();
                    entry.fsm.set_rules(Rules::from(spec));
                }
                changed
            }
            None => {
                let fsm = Fsm::new(Rules::from(spec), self.epoch.elapsed());
                entries.backends.insert(key, Entry { label, spec: spec.clone(), fsm, last: None });
                true
            }
        }
    }

    /// Lets a check count; `None` when the backend was removed meanwhile.
    fn record(&self, key: BackendKey, checked: Checked) -> Option<CheckObservation> {
        let at = Instant::now();
        let mut entries = self.lock();
        let entry = entries.backends.get_mut(&key)?;
        let change = entry.fsm.observe(checked.result, at.duration_since(self.epoch));
        entry.log(checked.result, change);
        entry.last = Some(checked);
        entries.note_first_round();
        let Checked { result, duration } = checked;
        Some(CheckObservation { key, at, result, duration, change })
    }
}

impl Entries {
    fn note_first_round(&mut self) {
        self.first_round_done |= self.backends.values().all(|entry| entry.last.is_some());
    }
}

impl Entry {
    fn health(&self, epoch: Instant) -> BackendHealth {
        BackendHealth {
            state: self.fsm.state(),
            since: epoch + self.fsm.since(),
            why: self.fsm.why(),
            last_result: self.last.map(|checked| checked.result),
            last_duration: self.last.map(|checked| checked.duration),
            consecutive: self.fsm.consecutive(),
        }
    }

    /// One line per change, and one when checks cannot be made any more.
    fn log(&self, result: CheckResult, change: Option<Transition>) {
        if let Some(Transition { from, to, why, .. }) = change {
            let (backend, from, to_name) = (&self.label, from.name(), to.name());
            if to == HealthState::Healthy {
                info!(%backend, from, to = to_name, %why, "backend is healthy");
            } else {
                warn!(%backend, from, to = to_name, %why, "backend gets no new flows");
            }
        }
        let local_before = matches!(self.last, Some(Checked { result: CheckResult::Local(_), .. }));
        if matches!(result, CheckResult::Local(_)) && !local_before {
            warn!(backend = %self.label, "{result}: its state stays until checks can be made again");
        }
    }
}
