//! Checks every backend, in a task of its own, and keeps what the checks say of it.
//!
//! [`fsm`] decides, [`probe`] looks, [`passive`] hears what the data path has seen, `schedule` says when; this module owns the clock and
//! the tasks. A check that
//! hangs holds up the next check of its own backend only, and never more than one is under way for a backend.
#![forbid(unsafe_code)]

mod board;
pub mod fsm;
mod pace;
pub mod passive;
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
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::model::{BackendKey, HealthSpec, HealthState, ServiceSpec};
use board::Board;
pub use board::{PassiveHealth, Verdict};
use fsm::{CheckResult, Transition, Why};
use pace::Pace;
use probe::{Checked, Probe};
use request::RequestError;

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

    /// With another way to make a check, for tests.
    pub(crate) fn with_check(check: CheckFn) -> (Self, mpsc::Receiver<CheckObservation>) {
        let (reports, receiver) = mpsc::channel(REPORTS);
        let board = Arc::new(Board::new(Instant::now()));
        (Self { board, tasks: BTreeMap::new(), check, reports }, receiver)
    }

    /// Checks the backends of these services from now on, and no others. A backend that stays keeps its state and
    /// its counts; when its `[service.health]` changed, they are judged by the new numbers. It stays when its name,
    /// its service's name and its address are the same, although the VIP may be another. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When a check cannot be made as it is configured; then nothing changes.
    pub fn set_targets(&mut self, services: &[ServiceSpec]) -> Result<(), TargetError> {
        let targets = targets(services)?;
        let wanted = targets.iter().map(|(key, target)| (*key, target.label.as_str(), target.spec));
        let mut new_tasks = self.board.set(wanted);
        self.tasks.retain(|key, _| targets.contains_key(key));
        for (key, target) in targets {
            if let Some(hurry) = new_tasks.remove(&key) {
                self.tasks.insert(key, self.spawn(key, target.probe, target.spec, hurry));
            }
        }
        Ok(())
    }

    /// Checks nothing any more.
    pub fn stop(&mut self) {
        self.tasks.clear();
    }

    /// The state of every backend, for the ring.
    #[must_use]
    pub fn states(&self) -> BTreeMap<BackendKey, HealthState> {
        self.board.states()
    }

    /// All that is known of every backend, for people.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<BackendKey, BackendHealth> {
        self.board.snapshot()
    }

    /// Whether every backend of the first [`Checker::set_targets`] was checked once. Stays true.
    #[must_use]
    pub fn first_round_done(&self) -> bool {
        self.board.first_round_done()
    }

    /// Where to say what is seen of backends besides checks.
    #[must_use]
    pub fn passive(&self) -> PassiveHealth {
        PassiveHealth::new(self.board.clone())
    }

    fn spawn(&self, key: BackendKey, probe: Probe, spec: &HealthSpec, hurry: Arc<Notify>) -> Task {
        let (board, check, reports) = (self.board.clone(), self.check.clone(), self.reports.clone());
        let (probe, pace) = (Arc::new(probe), Pace::new(spec, hurry));
        Task(tokio::spawn(async move { watch(&board, key, &probe, &check, &reports, pace).await }))
    }
}

/// How a check is made; tests put their own in its place.
pub(crate) type CheckFn =
    Arc<dyn Fn(Arc<Probe>) -> Pin<Box<dyn Future<Output = Checked> + Send>> + Send + Sync>;

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
    mut pace: Pace,
) {
    loop {
        pace.next().await;
        let checked = check(probe.clone()).await;
        pace.made(checked.result);
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
