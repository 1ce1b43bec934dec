//! A backend is lost under load, in three ways: killed, hung, cut off.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::arena::{Arena, Contender};
use super::attempts::{Attempt, Attempts, Plan, Until, quantile};
use super::{Name, Report, progress, survivors};
use crate::lab::backend_host;

/// The backend that is lost, of three.
const VICTIM: u8 = 2;
/// Attempts before the loss.
const BEFORE: Duration = Duration::from_secs(2);
/// Whoever waits longer for a page has noticed.
const SLOW: Duration = Duration::from_secs(3);
/// After this an attempt is given up: longer than anything takes that a balancer still saves.
const PATIENCE: Duration = Duration::from_secs(10);

/// How the backend is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Its server is killed; its host refuses connections.
    Kill,
    /// Its server is stopped; its host accepts connections, and nobody answers.
    Hang,
    /// Its host loses its link; nobody answers at all.
    Cut,
}

/// How many attempts at which rate.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Attempts a second.
    pub rate: u32,
    /// In all.
    pub attempts: u32,
}

/// What one balancer made of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Attempts that began after the loss.
    pub attempts: usize,
    /// Of these, without connection or without answer.
    pub failed: usize,
    /// Of these, answered after more than three seconds.
    pub slow: usize,
    /// Attempts that had begun before the loss was complete, and were lost with it.
    pub in_flight: usize,
    /// In milliseconds, of those that were answered: median, 99th percentile, longest.
    pub times: [f64; 3],
}

impl Outcome {
    /// Attempts whose user noticed.
    #[must_use]
    pub const fn noticed(&self) -> usize {
        self.failed + self.slow
    }

    pub(crate) fn of(attempts: &[Attempt], lost: Instant) -> Self {
        let (after, before): (Vec<_>, Vec<_>) = attempts.iter().partition(|a| a.begun >= lost);
        let mut times: Vec<Duration> = after.iter().filter(|a| !a.failed()).map(|a| a.took()).collect();
        Self {
            attempts: after.len(),
            failed: after.iter().filter(|a| a.failed()).count(),
            slow: times.iter().filter(|took| **took > SLOW).count(),
            in_flight: before.iter().filter(|a| a.failed()).count(),
            times: [0.5, 0.99, 1.0].map(|share| quantile(&mut times, share)),
        }
    }

    /// In the order of [`COLUMNS`].
    #[expect(clippy::cast_precision_loss, reason = "counts of attempts are far below 2^53")]
    pub(crate) fn figures(&self) -> impl Iterator<Item = Option<f64>> + use<> {
        let counts = [self.attempts, self.failed, self.slow, self.in_flight].map(|n| n as f64);
        counts.into_iter().chain(self.times).map(Some)
    }

    fn row(&self, report: &mut Report, name: &str) {
        report.row(name, self.figures());
    }
}

/// What [`Outcome::figures`] are.
pub(crate) const COLUMNS: [&str; 7] =
    ["attempts", "failed", "> 3 s", "in flight", "p50 ms", "p99 ms", "longest ms"];

/// `kill`: one balancer after the other.
///
/// # Errors
/// When something does not start.
pub fn kill() -> Result<Report> {
    let size = Size { rate: 500, attempts: 4000 };
    let mut report = Report::new(Name::Kill, &COLUMNS);
    let contenders =
        [Contender::Evenkeel("least-waiting"), Contender::Haproxy("leastconn"), Contender::Nftables];
    for contender in contenders {
        progress(&format!("kill: {}", contender.label()));
        let mut arena = Arena::new(contender, 3)?;
        let outcome = lose(&mut arena, Loss::Kill, size)?;
        outcome.row(&mut report, &contender.label());
        if contender == contenders[0] {
            let Outcome { failed, attempts, .. } = outcome;
            report.aim(failed == 0, format!("{failed} of {attempts} attempts failed after the kill, aim 0"));
        }
    }
    report.note("in flight: attempts that began before the killed server was gone, and were lost with it");
    Ok(report)
}

/// `hang` and `cut`: all balancers at the same time, each in a lab of its own.
///
/// # Errors
/// When something does not start.
pub fn hang_or_cut(loss: Loss) -> Result<Report> {
    let (name, size) =
        (if loss == Loss::Hang { Name::Hang } else { Name::Cut }, Size { rate: 200, attempts: 4000 });
    let mut report = Report::new(name, &COLUMNS);
    let contenders = [
        Contender::Evenkeel("least-waiting"),
        Contender::Haproxy("leastconn"),
        Contender::Haproxy("roundrobin"),
    ];
    progress(&format!("{}: three balancers at once", name.text()));
    let run = |contender: Contender| -> Result<(Outcome, Option<survivors::Outcome>)> {
        let mut arena = Arena::new(contender, 3)?;
        if loss == Loss::Hang && arena.evenkeel().is_some() {
            let (outcome, survived) = survivors::watch(&mut arena, VICTIM, |arena| lose(arena, loss, size))?;
            return Ok((outcome, Some(survived)));
        }
        Ok((lose(&mut arena, loss, size)?, None))
    };
    let outcomes = thread::scope(|scope| {
        let threads = contenders.map(|contender| (contender, scope.spawn(move || run(contender))));
        threads.map(|(contender, thread)| {
            let ran = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            ran.with_context(|| contender.label())
        })
    });
    let [ours, leastconn, roundrobin] = outcomes;
    let ((ours, survived), (leastconn, _), (roundrobin, _)) = (ours?, leastconn?, roundrobin?);
    for (contender, outcome) in contenders.iter().zip([&ours, &leastconn, &roundrobin]) {
        outcome.row(&mut report, &contender.label());
    }
    let (mine, other) = (ours.noticed(), leastconn.noticed());
    report.aim(
        mine <= other,
        format!("{mine} attempts failed or took more than 3 s, aim at most {other} as HAProxy's leastconn"),
    );
    if let Some(survived) = survived {
        survived.tell(&mut report);
    }
    Ok(report)
}

/// Loses a backend under load.
///
/// # Errors
/// When the load cannot be sent or the backend not be lost.
pub fn lose(arena: &mut Arena, loss: Loss, size: Size) -> Result<Outcome> {
    let client = arena.client()?;
    let plan = Plan {
        target: arena.vip(),
        path: "/".to_owned(),
        headers: String::new(),
        rate: size.rate,
        until: Until::Count(size.attempts),
        patience: PATIENCE,
    };
    let attempts = Attempts::start(&client, plan);
    thread::sleep(BEFORE);
    match loss {
        // Returns when the process is gone.
        Loss::Kill => arena.servers().process(VICTIM)?.kill(),
        Loss::Hang => arena.servers().process(VICTIM)?.signal(Signal::SIGSTOP)?,
        Loss::Cut => drop(arena.lab().exec(&backend_host(VICTIM), &["ip", "link", "set", "eth0", "down"])?),
    }
    let lost = Instant::now();
    Ok(Outcome::of(&attempts.finish(&client)?, lost))
}
