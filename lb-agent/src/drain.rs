//! When a backend that gets no new flows any more may be stopped. Pure: time is a parameter.
//!
//! ```text
//!   Draining ── no flow waits, and none had data for `idle` ──► Drained (complete)
//!       └────── the deadline ─────────────────────────────────► Drained (deadline)
//! ```
//!
//! - Quiet is counted from the first reading on, not from the last data before it: a client that connected a moment
//!   ago has yet to send its request. So no drain is complete before `idle` has passed.
//! - Data is noticed by a change of [`Reading::data_seen`]. Its value has no meaning here, so nothing depends on the
//!   data path's clock, or on when that wraps.
//! - What is over stays over: a drained backend whose old flows wake up again is still drained.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::model::DrainSpec;

#[cfg(test)]
mod tests;

/// What the data path says of the backend at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Flows that wait for an answer.
    pub waiting: u64,
    /// Another number each time that data passed, see [`lb_common::stats::BackendStats::data_seen`].
    pub data_seen: u64,
}

/// How a drain came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nobody is hurt when the backend is stopped now.
    Complete,
    /// The deadline came first.
    Deadline,
}

impl Outcome {
    /// Label in metrics and status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Deadline => "deadline",
        }
    }
}

/// The end of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// When.
    pub at: Duration,
    /// How.
    pub outcome: Outcome,
    /// Flows that waited then, as far as is known.
    pub waiting: Option<u64>,
}

/// The drain of one backend. Times are since any epoch that the caller keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    idle: Duration,
    since: Duration,
    deadline: Duration,
    quiet: Option<Quiet>,
    end: Option<End>,
}

/// Since when nothing waits and no data passes, and what was read last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Quiet {
    since: Duration,
    last: Reading,
}

impl Drain {
    /// Every value of [`Drain::name`].
    pub const NAMES: [&'static str; 2] = ["draining", "drained"];

    /// Label of its state in metrics and status.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        if self.end.is_some() { "drained" } else { "draining" }
    }

    /// A drain that begins now, by these rules.
    #[must_use]
    pub fn new(now: Duration, rules: DrainSpec) -> Self {
        let deadline = now.saturating_add(rules.deadline);
        Self { idle: rules.idle, since: now, deadline, quiet: None, end: None }
    }

    /// Takes what is seen now. `None` when nothing can be seen: the counters cannot be read, or new flows may still
    /// come because the kernel does not have the ring without this backend yet. Returns the outcome when this is the
    /// end of the drain.
    pub fn observe(&mut self, now: Duration, seen: Option<Reading>) -> Option<Outcome> {
        if self.end.is_some() {
            return None;
        }
        let quiet_since = seen.map(|reading| self.note(now, reading));
        let complete = quiet_since
            .is_some_and(|since| self.waiting() == Some(0) && now.saturating_sub(since) >= self.idle);
        let outcome = if complete {
            Outcome::Complete
        } else if now >= self.deadline {
            Outcome::Deadline
        } else {
            return None;
        };
        self.end = Some(End { at: now, outcome, waiting: self.waiting() });
        Some(outcome)
    }

    /// When it began.
    #[must_use]
    pub const fn since(&self) -> Duration {
        self.since
    }

    /// When it ends at the latest.
    #[must_use]
    pub const fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Its end, once there is one.
    #[must_use]
    pub const fn end(&self) -> Option<End> {
        self.end
    }

    /// Since when there is quiet, after this reading.
    fn note(&mut self, now: Duration, reading: Reading) -> Duration {
        let since = match self.quiet {
            Some(quiet) if reading.waiting == 0 && quiet.last == reading => quiet.since,
            Some(_) | None => now,
        };
        self.quiet = Some(Quiet { since, last: reading });
        since
    }

    fn waiting(&self) -> Option<u64> {
        self.quiet.map(|quiet| quiet.last.waiting)
    }
}
