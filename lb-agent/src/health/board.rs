//! What is known of every backend: written by its checks and by what is seen besides, read by the agent.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{info, warn};

use super::fsm::{CheckResult, Fsm, Rules, Transition};
use super::passive::{Sighting, may_lose_one};
use super::probe::Checked;
use super::{BackendHealth, CheckObservation};
use crate::model::{BackendKey, HealthSpec, HealthState};

#[cfg(test)]
mod tests;

/// That a signal is held back is said again after this time.
const HELD_AGAIN: Duration = Duration::from_secs(60);

/// Where the tasks write and the agent reads.
pub(super) struct Board {
    epoch: Instant,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    backends: BTreeMap<BackendKey, Entry>,
    first_round_done: bool,
}

struct Entry {
    /// Service, backend and address: for the log, and which one it is.
    label: String,
    spec: HealthSpec,
    fsm: Fsm,
    last: Option<Checked>,
    /// Wakes the backend's task for a check at once.
    hurry: Arc<Notify>,
    /// When it was last said that signals against it are held back.
    held: Option<Instant>,
}

impl Board {
    /// Without backends; times count from `epoch`.
    pub(super) fn new(epoch: Instant) -> Self {
        Self { epoch, entries: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // No code that holds the lock can leave the entries half written.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn states(&self) -> BTreeMap<BackendKey, HealthState> {
        self.lock().backends.iter().map(|(key, entry)| (*key, entry.fsm.state())).collect()
    }

    pub(super) fn snapshot(&self) -> BTreeMap<BackendKey, BackendHealth> {
        self.lock().backends.iter().map(|(key, entry)| (*key, entry.health(self.epoch))).collect()
    }

    pub(super) fn first_round_done(&self) -> bool {
        self.lock().first_round_done
    }

    /// Has these backends from now on, with their labels, and no others. One that was known by its label, under
    /// whatever key, goes on where it stood. Gives those that need a new task, and what hurries it.
    pub(super) fn set<'a>(
        &self,
        wanted: impl Iterator<Item = (BackendKey, &'a str, &'a HealthSpec)>,
    ) -> BTreeMap<BackendKey, Arc<Notify>> {
        let mut entries = self.lock();
        let before = std::mem::take(&mut entries.backends);
        let mut known: BTreeMap<String, _> =
            before.into_iter().map(|(key, entry)| (entry.label.clone(), (key, entry))).collect();
        let mut tasks = BTreeMap::new();
        for (key, label, spec) in wanted {
            let (entry, stays) = match known.remove(label) {
                Some((old, mut entry)) => {
                    let same_rules = entry.follow(spec);
                    (entry, same_rules && old == key)
                }
                None => (Entry::new(label, spec, self.epoch.elapsed()), false),
            };
            if !stays {
                tasks.insert(key, entry.hurry.clone());
            }
            entries.backends.insert(key, entry);
        }
        // Fewer backends may be all it takes.
        entries.note_first_round();
        tasks
    }

    /// Lets a check count; `None` when the backend was removed meanwhile.
    pub(super) fn record(&self, key: BackendKey, checked: Checked) -> Option<CheckObservation> {
        let mut entries = self.lock();
        // With the lock held, so that changes have the order of their times.
        let at = Instant::now();
        let entry = entries.backends.get_mut(&key)?;
        let change = entry.fsm.observe(checked.result, at.duration_since(self.epoch));
        entry.log_change(change);
        entry.log_local(checked.result);
        entry.last = Some(checked);
        entries.note_first_round();
        let Checked { result, duration } = checked;
        Some(CheckObservation { key, at, result, duration, change })
    }

    /// Lets something count that was seen besides checks; `elsewhere` are backends that are out of use for another reason
    /// than their health. `None` for a backend that is not checked.
    fn suspect(
        &self,
        key: &BackendKey,
        sighting: Sighting,
        elsewhere: &BTreeSet<BackendKey>,
    ) -> Option<(Verdict, Instant)> {
        let mut entries = self.lock();
        let at = Instant::now();
        let may = entries.may_lose_one(key, elsewhere);
        let entry = entries.backends.get_mut(key)?;
        if entry.fsm.state() == HealthState::Healthy && !may {
            entry.log_held(sighting, at);
            return Some((Verdict::Held, at));
        }
        let change = entry.fsm.suspect(sighting, at.duration_since(self.epoch));
        entry.log_change(change);
        Some((change.map_or(Verdict::Unchanged, Verdict::Suspect), at))
    }
}

/// What became of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The backend is suspect because of it.
    Suspect(Transition),
    /// Held back: too few other backends of the service are in use.
    Held,
    /// It does not matter to a backend that is not healthy; a suspect one comes back later.
    Unchanged,
}

impl Verdict {
    /// Every value of [`Verdict::name`].
    pub const NAMES: [&'static str; 3] = ["suspect", "held", "unchanged"];

    /// Label in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Suspect(_) => "suspect",
            Self::Held => "held",
            Self::Unchanged => "unchanged",
        }
    }
}

/// Where to say what is seen of backends besides checks. A handle, cheap to clone.
#[derive(Clone)]
pub struct PassiveHealth {
    board: Arc<Board>,
}

impl PassiveHealth {
    pub(super) const fn new(board: Arc<Board>) -> Self {
        Self { board }
    }

    /// Makes a check of a backend due at once, and the next ones soon while they fail.
    pub fn hurry(&self, key: &BackendKey) {
        if let Some(entry) = self.board.lock().backends.get(key) {
            entry.hurry.notify_one();
        }
    }

    /// Lets a signal count against a backend, and says what became of it and when. At least half of a service's backends
    /// stay in use whatever is seen of them: `elsewhere` are those that are not, although they may be healthy. `None`
    /// for a backend that is not checked any more.
    #[must_use = "a change of state must reach the ring"]
    pub fn suspect(
        &self,
        key: &BackendKey,
        sighting: Sighting,
        elsewhere: &BTreeSet<BackendKey>,
    ) -> Option<(Verdict, Instant)> {
        self.board.suspect(key, sighting, elsewhere)
    }
}

impl Entries {
    fn note_first_round(&mut self) {
        self.first_round_done |= self.backends.values().all(|entry| entry.last.is_some());
    }

    /// Whether a signal may take a backend of this one's service out of use: see [`may_lose_one`].
    fn may_lose_one(&self, key: &BackendKey, elsewhere: &BTreeSet<BackendKey>) -> bool {
        let of_service = self.backends.iter().filter(|(k, _)| k.service == key.service);
        let is_usable = |key: &BackendKey, entry: &Entry| {
            entry.fsm.state() == HealthState::Healthy && !elsewhere.contains(key)
        };
        let (all, usable) = of_service.fold((0, 0), |(all, usable), (key, entry)| {
            (all + 1, usable + usize::from(is_usable(key, entry)))
        });
        may_lose_one(all, usable)
    }
}

impl Entry {
    fn new(label: &str, spec: &HealthSpec, now: Duration) -> Self {
        Self {
            label: label.to_owned(),
            spec: spec.clone(),
            fsm: Fsm::new(Rules::from(spec), now),
            last: None,
            hurry: Arc::default(),
            held: None,
        }
    }

    /// Goes by this specification from now on; says whether it did already.
    fn follow(&mut self, spec: &HealthSpec) -> bool {
        let same = self.spec == *spec;
        if !same {
            self.spec = spec.clone();
            self.fsm.set_rules(Rules::from(spec));
        }
        same
    }

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

    fn log_change(&mut self, change: Option<Transition>) {
        let Some(Transition { from, to, why, .. }) = change else { return };
        self.held = None;
        let (backend, from, to_name) = (&self.label, from.name(), to.name());
        if to == HealthState::Healthy {
            info!(%backend, from, to = to_name, %why, "backend is healthy");
        } else {
            warn!(%backend, from, to = to_name, %why, "backend gets no new flows");
        }
    }

    /// One line when checks cannot be made any more. To be called before `last` is written.
    fn log_local(&self, result: CheckResult) {
        let local_before = matches!(self.last, Some(Checked { result: CheckResult::Local(_), .. }));
        if matches!(result, CheckResult::Local(_)) && !local_before {
            warn!(backend = %self.label, "{result}: its state stays until checks can be made again");
        }
    }

    /// One line in a minute at most.
    fn log_held(&mut self, sighting: Sighting, now: Instant) {
        if self.held.is_some_and(|at| now.duration_since(at) < HELD_AGAIN) {
            return;
        }
        self.held = Some(now);
        warn!(
            backend = %self.label, seen = %sighting,
            "backend stays in use: half of the service's backends are not to be taken out by what is seen of their traffic"
        );
    }
}
