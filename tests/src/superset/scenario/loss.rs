//! A replica is lost under page views: killed, hung, cut off, or stopped in good order with a query under way. In turn behind
//! Evenkeel, HAProxy and nginx, which have the same replicas.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::lab::backend_host;
use crate::proof::outage::{COLUMNS, Outcome};
use crate::proof::{Report, progress};
use crate::superset::front::{Front, Running};
use crate::superset::replica::replica_name;
use crate::superset::views::{RATE, Views};
use crate::superset::{Scenario, Session, Stand};

/// The replica that is lost.
const VICTIM: u8 = 2;
/// Views before the loss, and after it.
const BEFORE: Duration = Duration::from_secs(3);
const AFTER: Duration = Duration::from_secs(10);
/// The first views after a loss meet a replica that nothing tells from the others, whoever balances: how many is chance.
const UNKNOWABLE: usize = 2;
/// The query that is under way when a replica is asked to end.
const QUERY: &str = "select pg_sleep(8)";

/// How a replica is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Its processes are killed; its host refuses connections.
    Kill,
    /// Its processes are stopped; its host accepts connections, and nobody answers.
    Hang,
    /// Its host loses its link; nobody answers at all.
    Cut,
    /// It gets SIGTERM while it works on a query, and nobody has told the balancer.
    Graceful,
}

impl Loss {
    const fn scenario(self) -> Scenario {
        match self {
            Self::Kill => Scenario::Kill,
            Self::Hang => Scenario::Hang,
            Self::Cut => Scenario::Cut,
            Self::Graceful => Scenario::Graceful,
        }
    }

    fn strike(self, stand: &Stand, n: u8) -> Result<()> {
        let replica = stand.daemon(&replica_name(n))?;
        match self {
            // Returns when the processes are gone.
            Self::Kill => replica.kill(),
            Self::Hang => replica.signal_all(Signal::SIGSTOP),
            Self::Cut => link(stand, n, "down"),
            Self::Graceful => replica.signal(Signal::SIGTERM),
        }
    }

    fn undo(self, stand: &mut Stand, n: u8) -> Result<()> {
        match self {
            Self::Kill => {}
            Self::Hang => return stand.daemon(&replica_name(n))?.signal_all(Signal::SIGCONT),
            Self::Cut => return link(stand, n, "up"),
            Self::Graceful => stand.stop_replica(n)?,
        }
        stand.start_replica(n)
    }
}

fn link(stand: &Stand, n: u8, state: &str) -> Result<()> {
    let host = backend_host(n);
    stand.lab().exec(&host, &["ip", "link", "set", "eth0", state])?;
    if state == "up" {
        // It went with the link.
        let router = stand.lab().topology().snat(crate::packet::world::Family::V4).to_string();
        stand.lab().exec(&host, &["ip", "route", "replace", "default", "via", &router])?;
    }
    Ok(())
}

/// What one balancer made of it.
struct Seen {
    outcome: Outcome,
    detected: Option<Duration>,
    /// Whether the query was answered, when there was one.
    query: Option<Result<()>>,
}

/// The scenario with all balancers.
///
/// # Errors
/// When something does not start.
pub fn prove(stand: &mut Stand, loss: Loss) -> Result<Report> {
    compare(stand, loss, &Front::ALL)
}

/// The scenario with some balancers, of which Evenkeel is the first.
///
/// # Errors
/// When something does not start.
pub fn compare(stand: &mut Stand, loss: Loss, fronts: &[Front]) -> Result<Report> {
    let columns: Vec<&str> = COLUMNS.into_iter().chain(["detected s"]).collect();
    let mut report = Report::new(loss.scenario(), &columns);
    let mut all = Vec::new();
    for front in fronts {
        progress(&format!("{}: {}", loss.scenario().text(), front.label()));
        let seen = lose(stand, loss, *front).with_context(|| front.label())?;
        let detected = seen.detected.map(|time| time.as_secs_f64());
        report.row(front.label(), seen.outcome.figures().chain([detected]));
        all.push(seen);
    }
    let (ours, others) = all.split_first().context("no balancer")?;
    judge(&mut report, loss, ours, others);
    report.note(format!(
        "{RATE} logged-in page views a second, each over a new connection, {} s before the loss and {} s after it. in flight: views \
         that had begun before the loss was complete, and failed. detected: until the balancer says that the replica gets nothing \
         new; nginx says no such thing.",
        BEFORE.as_secs(),
        AFTER.as_secs()
    ));
    Ok(report)
}

fn judge(report: &mut Report, loss: Loss, ours: &Seen, others: &[Seen]) {
    let Outcome { attempts, failed, times, .. } = ours.outcome;
    let slowest = times[2];
    let what = format!(
        "{failed} of {attempts} views that began after the loss failed, the slowest took {slowest:.0} ms"
    );
    if loss == Loss::Graceful {
        // gunicorn's busy worker accepts connections that nobody will answer: that is what drains are for.
        report.note(format!("without a drain {what}"));
    } else {
        report.aim(failed == 0, what);
    }
    if let Some(haproxy) = others.first() {
        let (mine, other) = (ours.outcome.noticed(), haproxy.outcome.noticed());
        report.aim(
            mine <= other + UNKNOWABLE,
            format!(
                "{mine} failed or took more than 3 s, aim at most {UNKNOWABLE} more than HAProxy's {other}"
            ),
        );
    }
    let detected =
        ours.detected.map_or_else(|| "not".to_owned(), |d| format!("after {:.2} s", d.as_secs_f64()));
    report.aim(ours.detected.is_some(), format!("detected {detected}"));
    if loss == Loss::Graceful {
        let why = ours.query.as_ref().and_then(|query| query.as_ref().err());
        let why = why.map(|e| format!(": {e:#}")).unwrap_or_default();
        report.aim(matches!(ours.query, Some(Ok(()))), format!("the query under way was answered{why}"));
    }
}

fn lose(stand: &mut Stand, loss: Loss, front: Front) -> Result<Seen> {
    stand.ensure()?;
    let running = Running::start(stand, front)?;
    let session = Session::log_in_at(stand, running.address())?;
    let query =
        if loss == Loss::Graceful { Some(session.start_query(session.database()?, QUERY)) } else { None };
    let victim = if query.is_some() { stand.wait_for_query()? } else { VICTIM };
    let views = Views::start(stand, running.address(), &session.user)?;
    std::thread::sleep(BEFORE);
    loss.strike(stand, victim)?;
    let lost = Instant::now();
    let detected = running.detects(stand, victim, AFTER);
    std::thread::sleep(AFTER.saturating_sub(lost.elapsed()));
    views.stop();
    // A replica that only hung answers what it has once it goes on.
    let query = query.map(|query| session.client.wait(query)?.map(drop));
    loss.undo(stand, victim)?;
    let outcome = Outcome::of(&views.finish()?, lost);
    running.wait_for(stand, victim)?;
    Ok(Seen { outcome, detected, query })
}
