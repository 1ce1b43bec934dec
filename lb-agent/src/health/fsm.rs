//! What a row of check results says of one backend. Pure: time is a parameter.
//!
//! ```text
//!             first good check                 fall bad checks in a row
//!   Starting ──────────────────► Healthy ──────────────────────────────────► Suspect
//!      │                          ▲   │ ▲                                       │
//!      │ failures count           │   │ └───────── rise good ones in a row ─────┤
//!      │ once grace is over       │   │                                         │
//!      ▼                          │   │ fall refused or unreachable in a row,   │
//!   Suspect or Dead          rise │   │ or no connection for dead_after         │
//!                            good │   ▼                                         ▼
//!                                 └─ Dead ◄─────────────────────────────────────┘
//! ```
//!
//! - A count is of checks *in a row*: one result of another sort sets it back to zero.
//! - One good check is enough for a backend that is `Starting`. Nothing is known against it, and an agent that
//!   was restarted would otherwise keep every backend out of the ring for `rise` intervals.
//! - `Dead` ends with `rise` good checks only. A dead backend that begins to time out (a pod that boots again)
//!   gets no new flows either way, and its old ones are gone already: `Suspect` would say something untrue.
//! - A result that says nothing of the backend ([`CheckResult::Local`]) changes nothing.
//! - A passive signal ([`Fsm::suspect`]) makes a healthy backend `Suspect` at once, whatever its checks say. From there it comes back as
//!   from any suspicion, by `rise` good checks in a row; but a check counts only if the signal was not seen
//!   since the one before it, and, for signals that checks cannot see, not until they have been over for a while. On a
//!   backend that is `Starting` or `Dead` a signal has no influence.
#![forbid(unsafe_code)]

use std::fmt;
use std::time::Duration;

use super::passive::Sighting;
use crate::model::{HealthSpec, HealthState};

#[cfg(test)]
mod tests;

/// What one check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CheckResult {
    /// The expected answer, in time.
    Ok,
    /// The host is there, and nobody listens.
    Refused,
    /// The network says that there is no way to the host.
    Unreachable,
    /// No connection in time, and no word why.
    ConnectTimeout,
    /// Connected, but no complete answer in time: hung, or busy.
    Timeout,
    /// An answer, but not the expected one.
    BadAnswer(BadAnswer),
    /// This node could not make the check: it says nothing of the backend. Holds the `errno`.
    Local(i32),
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BadAnswer {
    /// A status that is not expected.
    Status(u16),
    /// The expected text is not in the body.
    Body,
    /// Closed or reset before the answer was complete.
    Closed,
    /// Not HTTP/1.
    Protocol,
}

impl CheckResult {
    /// Every value of [`CheckResult::name`].
    pub const NAMES: [&'static str; 7] =
        ["ok", "refused", "unreachable", "connect_timeout", "timeout", "bad_answer", "local_error"];

    /// Label in metrics and status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::ConnectTimeout => "connect_timeout",
            Self::Timeout => "timeout",
            Self::BadAnswer(_) => "bad_answer",
            Self::Local(_) => "local_error",
        }
    }

    /// Whether somebody said that nothing is there.
    const fn is_down(self) -> bool {
        matches!(self, Self::Refused | Self::Unreachable)
    }

    /// Whether there was no connection at all.
    const fn is_unconnected(self) -> bool {
        self.is_down() || matches!(self, Self::ConnectTimeout)
    }
}

impl fmt::Display for CheckResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("good answer"),
            Self::Refused => f.write_str("connection refused"),
            Self::Unreachable => f.write_str("host or network unreachable"),
            Self::ConnectTimeout => f.write_str("no connection in time"),
            Self::Timeout => f.write_str("connected, no answer in time"),
            Self::BadAnswer(reason) => reason.fmt(f),
            Self::Local(errno) => {
                write!(f, "check not made: {}", std::io::Error::from_raw_os_error(*errno))
            }
        }
    }
}

impl fmt::Display for BadAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "unexpected status {status}"),
            Self::Body => f.write_str("body lacks the expected text"),
            Self::Closed => f.write_str("closed before the answer was complete"),
            Self::Protocol => f.write_str("answer is not HTTP/1"),
        }
    }
}

/// The numbers of `[service.health]` that the machine goes by. `rise` and `fall` of 0 count as 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Good checks in a row that make a suspect or dead backend healthy.
    pub rise: u32,
    /// Bad checks in a row that make it suspect or dead.
    pub fall: u32,
    /// How long a new backend's failures do not count.
    pub grace: Duration,
    /// How long nobody may get a connection before the backend is dead.
    pub dead_after: Duration,
}

impl From<&HealthSpec> for Rules {
    fn from(spec: &HealthSpec) -> Self {
        Self { rise: spec.rise, fall: spec.fall, grace: spec.grace, dead_after: spec.dead_after }
    }
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// State before.
    pub from: HealthState,
    /// State after; never the same as before.
    pub to: HealthState,
    /// What decided it.
    pub why: Why,
    /// When, on the clock of [`Fsm::observe`]'s caller.
    pub at: Duration,
}

/// What decided a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The first good check of a new backend.
    FirstGood,
    /// This many good checks in a row.
    Recovered(u32),
    /// This many bad checks in a row, and the last of them.
    Failed(u32, CheckResult),
    /// No connection for this long, and the last result.
    NoConnection(Duration, CheckResult),
    /// What the data path has seen.
    Seen(Sighting),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstGood => f.write_str("first good check"),
            Self::Recovered(n) => write!(f, "good checks in a row: {n}"),
            Self::Failed(n, last) => write!(f, "failed checks in a row: {n} ({last})"),
            Self::NoConnection(time, last) => {
                write!(f, "no connection for {:.1} s ({last})", time.as_secs_f64())
            }
            Self::Seen(sighting) => sighting.fmt(f),
        }
    }
}

/// One backend's state. Times are since any epoch that the caller keeps to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fsm {
    rules: Rules,
    state: HealthState,
    added: Duration,
    since: Duration,
    why: Option<Why>,
    run: Run,
    /// Good checks before this time do not make a suspect backend healthy.
    held_until: Duration,
}

/// The checks in a row up to now. Failures that grace forgives are not in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Run {
    good: u32,
    bad: u32,
    /// Refused or unreachable.
    down: u32,
    /// When the first of the checks without a connection ended.
    unconnected_since: Option<Duration>,
}

impl Fsm {
    /// A backend that was added at `now`: `Starting`.
    #[must_use]
    pub fn new(rules: Rules, now: Duration) -> Self {
        Self {
            rules,
            state: HealthState::Starting,
            added: now,
            since: now,
            why: None,
            run: Run::default(),
            held_until: Duration::ZERO,
        }
    }

    /// Takes the result of a check that ended at `now` and says whether the state changed.
    #[must_use = "a change of state must reach the ring"]
    pub fn observe(&mut self, result: CheckResult, now: Duration) -> Option<Transition> {
        let decision = match result {
            CheckResult::Local(_) => None,
            CheckResult::Ok => self.good(now),
            CheckResult::Refused
            | CheckResult::Unreachable
            | CheckResult::ConnectTimeout
            | CheckResult::Timeout
            | CheckResult::BadAnswer(_) => self.bad(result, now),
        };
        decision.map(|(to, why)| self.enter(to, why, now))
    }

    /// Takes what the data path has seen at `now` and says whether the state changed. Whether it may, in view of the other
    /// backends, is the caller's to know: [`super::passive::may_lose_one`].
    #[must_use = "a change of state must reach the ring"]
    pub fn suspect(&mut self, sighting: Sighting, now: Duration) -> Option<Transition> {
        match self.state {
            HealthState::Starting | HealthState::Dead => return None,
            HealthState::Healthy | HealthState::Suspect => {}
        }
        self.run.good = 0;
        self.held_until = self.held_until.max(now.saturating_add(sighting.hold()));
        let healthy = self.state == HealthState::Healthy;
        healthy.then(|| self.enter(HealthState::Suspect, Why::Seen(sighting), now))
    }

    /// Goes by other numbers from the next check on; the state and the counts stay.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// The state now.
    #[must_use]
    pub const fn state(&self) -> HealthState {
        self.state
    }

    /// Since when it has this state, on the caller's clock.
    #[must_use]
    pub const fn since(&self) -> Duration {
        self.since
    }

    /// What brought it into this state; `None` for a backend that is new.
    #[must_use]
    pub const fn why(&self) -> Option<Why> {
        self.why
    }

    /// How many checks in a row ended like the last one, good or bad; 0 when none counted yet.
    #[must_use]
    pub const fn consecutive(&self) -> u32 {
        // One of the two is always zero.
        self.run.good.saturating_add(self.run.bad)
    }

    fn enter(&mut self, to: HealthState, why: Why, now: Duration) -> Transition {
        let transition = Transition { from: self.state, to, why, at: now };
        (self.state, self.since, self.why) = (to, now, Some(why));
        if to != HealthState::Suspect {
            self.held_until = Duration::ZERO;
        }
        transition
    }

    fn good(&mut self, now: Duration) -> Option<(HealthState, Why)> {
        if now < self.held_until {
            self.run = Run::default();
            return None;
        }
        self.run = Run { good: self.run.good.saturating_add(1), ..Run::default() };
        match self.state {
            HealthState::Healthy => None,
            HealthState::Starting => Some((HealthState::Healthy, Why::FirstGood)),
            HealthState::Suspect | HealthState::Dead => (self.run.good >= self.rules.rise.max(1))
                .then_some((HealthState::Healthy, Why::Recovered(self.run.good))),
        }
    }

    fn bad(&mut self, result: CheckResult, now: Duration) -> Option<(HealthState, Why)> {
        if self.state == HealthState::Starting && now.saturating_sub(self.added) < self.rules.grace {
            return None;
        }
        self.run.add_bad(result, now);
        let (verdict, why) = self.verdict(result, now)?;
        match self.state {
            HealthState::Dead => None,
            HealthState::Suspect if verdict == HealthState::Suspect => None,
            HealthState::Starting | HealthState::Healthy | HealthState::Suspect => Some((verdict, why)),
        }
    }

    /// What the bad checks up to now amount to.
    fn verdict(&self, last: CheckResult, now: Duration) -> Option<(HealthState, Why)> {
        let fall = self.rules.fall.max(1);
        if self.run.down >= fall {
            return Some((HealthState::Dead, Why::Failed(self.run.down, last)));
        }
        if self.run.bad < fall {
            return None;
        }
        let silent = self.run.unconnected_since.map(|since| now.saturating_sub(since));
        match silent {
            Some(time) if time >= self.rules.dead_after => {
                Some((HealthState::Dead, Why::NoConnection(time, last)))
            }
            Some(_) | None => Some((HealthState::Suspect, Why::Failed(self.run.bad, last))),
        }
    }
}

impl Run {
    fn add_bad(&mut self, result: CheckResult, now: Duration) {
        *self = Self {
            good: 0,
            bad: self.bad.saturating_add(1),
            down: if result.is_down() { self.down.saturating_add(1) } else { 0 },
            // A host that is gone answers now with silence and now with "unreachable" (its neighbour entry
            // fails in between), so both belong to the same silence.
            unconnected_since: result.is_unconnected().then(|| self.unconnected_since.unwrap_or(now)),
        };
    }
}
