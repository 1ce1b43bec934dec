//! What the data path's counters say of a backend, beside the checks. Pure: counters and time in, signals out.
//!
//! A signal can make a healthy backend suspect, and keep a suspect one from coming back; see [`super::fsm`]. It cannot
//! do more: a backend that serves badly is not one that is gone.
#![forbid(unsafe_code)]

use std::fmt;
use std::time::Duration;

use lb_common::stats::BackendLoad;

use crate::model::PassiveSpec;

#[cfg(test)]
mod tests;

/// What there is to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Signal {
    /// SYNs that were refused, in a row.
    Refused,
    /// SYNs that were not answered, in a row.
    Unanswered,
    /// Flows that were cut off by a RST.
    Resets,
    /// A flow that waits for an answer, for long.
    OldestWaiting,
}

impl Signal {
    /// Every signal.
    pub const ALL: [Self; 4] = [Self::Refused, Self::Unanswered, Self::Resets, Self::OldestWaiting];

    /// Label in metrics, and the key of its threshold.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unanswered => "unanswered",
            Self::Resets => "resets",
            Self::OldestWaiting => "oldest_waiting",
        }
    }
}

/// A signal that has reached its threshold, with what was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// So many SYNs in a row were refused.
    Refused(u32),
    /// So many SYNs in a row were not answered.
    Unanswered(u32),
    /// So many flows were cut off within this time.
    Resets(u64, Duration),
    /// A flow has waited for so long.
    OldestWaiting(Duration),
}

impl Sighting {
    /// Which signal it is of.
    #[must_use]
    pub const fn signal(self) -> Signal {
        match self {
            Self::Refused(_) => Signal::Refused,
            Self::Unanswered(_) => Signal::Unanswered,
            Self::Resets(..) => Signal::Resets,
            Self::OldestWaiting(_) => Signal::OldestWaiting,
        }
    }

    /// How long it is held against a suspect backend. Checks see for themselves whether connections are taken; what
    /// becomes of answers they do not see.
    #[must_use]
    pub fn hold(self) -> Duration {
        match self {
            Self::Refused(_) | Self::Unanswered(_) => Duration::ZERO,
            Self::Resets(_, within) => within,
            Self::OldestWaiting(_) => WAITING_LOOK.saturating_mul(2),
        }
    }
}

/// How often the flow table is searched for the flow that waits longest, where that is a signal.
pub const WAITING_LOOK: Duration = Duration::from_secs(5);

impl fmt::Display for Sighting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(n) => write!(f, "SYNs refused in a row: {n}"),
            Self::Unanswered(n) => write!(f, "SYNs unanswered in a row: {n}"),
            Self::Resets(n, within) => write!(f, "flows cut off within {:.0} s: {n}", within.as_secs_f64()),
            Self::OldestWaiting(time) => write!(f, "a flow has waited for {:.0} s", time.as_secs_f64()),
        }
    }
}

/// Whether one more of a service's `all` backends may be taken out of use by a signal, when `usable` of them are in use:
/// at least half of all must be left.
#[must_use]
pub const fn may_lose_one(all: usize, usable: usize) -> bool {
    usable > all.div_ceil(2)
}

/// Finds the signals in one backend's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Detector {
    failed: Row,
    refused: Row,
    unanswered: Row,
    resets: Resets,
}

/// What a look at the counters has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// A check is due at once.
    pub check: bool,
    /// Signals that have reached their thresholds since the last look.
    pub sightings: [Option<Sighting>; 3],
}

impl Found {
    /// Whether there is nothing.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl Detector {
    /// Takes the counters at `now`. `answers` says how many answers the backend has begun, ever; it is asked only while
    /// flows are cut off. `None` from it: unknown, and then nothing is made of resets.
    pub fn look(
        &mut self,
        spec: &PassiveSpec,
        load: &BackendLoad,
        now: Duration,
        answers: impl FnOnce() -> Option<u64>,
    ) -> Found {
        let (refused, unanswered) = (load.refused(), load.unanswered());
        let failed = refused.saturating_add(unanswered);
        Found {
            check: self.failed.reaches(failed, spec.check_after),
            sightings: [
                self.refused.reaches(refused, spec.refused).then_some(Sighting::Refused(refused)),
                self.unanswered
                    .reaches(unanswered, spec.unanswered)
                    .then_some(Sighting::Unanswered(unanswered)),
                self.resets.reach(spec, load.resets, now, answers),
            ],
        }
    }
}

/// A count in a row, of which each `threshold` counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Row {
    taken: u32,
}

impl Row {
    fn reaches(&mut self, count: u32, threshold: u32) -> bool {
        if count < self.taken {
            // It has ended meanwhile, and this is another one.
            self.taken = 0;
        }
        let reached = threshold > 0 && count - self.taken >= threshold;
        if reached {
            self.taken = count;
        }
        reached
    }
}

/// Resets are rare and no fault by themselves, so they are judged against the answers of the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Resets {
    seen: u64,
    window: Option<Window>,
}

/// Begins when a flow is cut off. What is counted is what comes after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    since: Duration,
    resets: u64,
    answers: u64,
}

impl Resets {
    fn reach(
        &mut self,
        spec: &PassiveSpec,
        resets: u64,
        now: Duration,
        answers: impl FnOnce() -> Option<u64>,
    ) -> Option<Sighting> {
        let before = std::mem::replace(&mut self.seen, resets);
        if spec.resets == 0 || resets < before {
            self.window = None;
            return None;
        }
        let open = self.window.filter(|w| now.saturating_sub(w.since) < spec.resets_within);
        let Some(window) = open else {
            self.window = None;
            if resets > before {
                self.window = answers().map(|answers| Window { since: now, resets, answers });
            }
            return None;
        };
        let cut = resets.saturating_sub(window.resets);
        if resets == before || cut < u64::from(spec.resets) {
            return None;
        }
        let answered = answers()?.saturating_sub(window.answers);
        // A flow that is cut off in the middle of its answer has begun one, too.
        if cut.saturating_mul(2) < answered {
            return None;
        }
        self.window = None;
        Some(Sighting::Resets(cut, spec.resets_within))
    }
}
