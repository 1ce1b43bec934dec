//! PostgreSQL is down, then Redis: nothing that a balancer can help, and nothing that it must make worse.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::lab::wait_until;
use crate::proof::{Report, progress};
use crate::superset::agent::{DEEP_SERVICE, SERVICE};
use crate::superset::databases::{POSTGRES, REDIS};
use crate::superset::views::{PAGE, Views};
use crate::superset::{Scenario, Session, Stand};

/// How long each is down: longer than it takes until a check has failed often enough.
const DOWN: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(60);

/// What was seen of one outage.
struct Outage {
    views: usize,
    /// Answered by Superset with an error.
    errors: usize,
    /// Not answered at all.
    lost: usize,
    /// Replicas that the balancer still gave connections, at the end of it.
    in_use: usize,
    /// Whether the service whose checks ask for Redis failed open then.
    failed_open: bool,
    /// From the start of the program to the first good page.
    recovery: Duration,
}

/// The scenario.
///
/// # Errors
/// When something does not start again.
pub fn prove(stand: &mut Stand) -> Result<Report> {
    let columns = ["views", "errors", "unanswered", "in use", "recovery s"];
    let mut report = Report::new(Scenario::Databases, &columns);
    let all = usize::from(stand.replicas());
    for name in [POSTGRES, REDIS] {
        let seen = outage(stand, name)?;
        #[expect(clippy::cast_precision_loss, reason = "counts of views are far below 2^53")]
        let counts = [seen.views, seen.errors, seen.lost, seen.in_use].map(|n| n as f64);
        let recovery = seen.recovery.as_secs_f64();
        report.row(&format!("{name} down"), counts.into_iter().chain([recovery]).map(Some));
        let Outage { views, lost, in_use, failed_open, .. } = seen;
        report.aim(lost == 0, format!("{name} down: {lost} of {views} views were not answered by Superset"));
        report.aim(in_use == all, format!("{in_use} of {all} replicas stayed in use"));
        if name == REDIS {
            report.aim(failed_open, "with checks that ask for Redis the service failed open");
        }
        report.aim(true, format!("pages again {recovery:.1} s after {name} was started"));
    }
    wait_until("the service with deep checks is well", LIMIT, || {
        deep(stand).is_ok_and(|(_, healthy)| healthy == all)
    })?;
    report.aim(true, "and all replicas healthy by these checks as well, by themselves");
    Ok(report)
}

fn outage(stand: &mut Stand, name: &str) -> Result<Outage> {
    progress(&format!("databases: {name} is stopped"));
    let views = Views::log_in(stand)?;
    stand.daemon(name)?.end(Signal::SIGINT, DOWN)?;
    let stopped = Instant::now();
    let mut failed_open = false;
    while stopped.elapsed() < DOWN {
        failed_open |= deep(stand)?.0;
        std::thread::sleep(Duration::from_millis(100));
    }
    let in_use = in_use(stand)?;
    let views = views.finish()?;
    match name {
        POSTGRES => stand.ensure_postgres()?,
        _ => stand.ensure_redis()?,
    }
    let begun = Instant::now();
    // Redis has forgotten the session, so a new login is the first that can be well.
    let page = || Session::log_in(stand).and_then(|session| session.get(PAGE)).is_ok();
    wait_until("pages are well", LIMIT, page)?;
    let recovery = begun.elapsed();
    let failed = views.iter().filter_map(|view| view.answered.err());
    let (errors, lost): (Vec<_>, Vec<_>) = failed.partition(|kind| *kind == ErrorKind::InvalidData);
    Ok(Outage { views: views.len(), errors: errors.len(), lost: lost.len(), in_use, failed_open, recovery })
}

/// Replicas that get new connections.
fn in_use(stand: &Stand) -> Result<usize> {
    let status = stand.agent_status()?;
    let service = status.services.iter().find(|s| s.name == SERVICE).context("no service")?;
    Ok(service.backends.iter().filter(|b| b.in_ring && b.health == "healthy").count())
}

/// Whether the service with deep checks fails open, and how many of its replicas are healthy.
fn deep(stand: &Stand) -> Result<(bool, usize)> {
    let status = stand.agent_status()?;
    let service = status.services.iter().find(|s| s.name == DEEP_SERVICE).context("no service")?;
    Ok((service.fail_open, service.backends.iter().filter(|b| b.health == "healthy").count()))
}
