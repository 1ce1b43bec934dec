//! From three replicas to five and back to three, by the configuration and SIGHUP, under page views.

use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::lab::wait_until;
use crate::proof::attempts::{Attempt, quantile};
use crate::proof::{Report, progress};
use crate::superset::agent::{AGENT, SERVICE};
use crate::superset::replica::replica_name;
use crate::superset::views::Views;
use crate::superset::{MOST_REPLICAS, REPLICAS, Scenario, Stand};

/// How long shares are counted, once the newcomers have started slowly.
const COUNTED: Duration = Duration::from_secs(20);
/// A newcomer's share of an even one, at least.
const FAIR: f64 = 0.5;
const NEWCOMERS: RangeInclusive<u8> = REPLICAS + 1..=MOST_REPLICAS;
const LIMIT: Duration = Duration::from_secs(30);

/// The scenario.
///
/// # Errors
/// When a replica does not start, or the agent does not take the configuration.
pub fn prove(stand: &mut Stand) -> Result<Report> {
    let views = Views::log_in(stand)?;
    let scaled = out(stand);
    // Whatever came of it: the other scenarios want three.
    let back = back(stand);
    let views = views.finish()?;
    back?;
    let shares = scaled?;

    let mut report = Report::new(Scenario::Scale, &["share"]);
    let total: f64 = shares.iter().sum();
    for (n, flows) in (1..).zip(&shares) {
        report.row(&replica_name(n), [Some(flows / total)]);
    }
    let failed = views.iter().filter(|view| view.failed()).count();
    let mut times: Vec<Duration> = views.iter().filter(|view| !view.failed()).map(Attempt::took).collect();
    let (p99, longest) = (quantile(&mut times, 0.99), quantile(&mut times, 1.0));
    report.aim(
        failed == 0,
        format!("{failed} of {} views failed from 3 to 5 to 3 replicas, p99 {p99:.0} ms, the slowest {longest:.0} ms", views.len()),
    );
    let even = total / f64::from(MOST_REPLICAS);
    let least = shares.iter().skip(usize::from(REPLICAS)).copied().fold(f64::INFINITY, f64::min) / even;
    report.aim(
        least >= FAIR,
        format!("after slow start the newcomers have at least {least:.2} of an even share"),
    );
    Ok(report)
}

/// Five replicas. Returns how many connections each was given, once all were at work.
fn out(stand: &mut Stand) -> Result<Vec<f64>> {
    progress("scale: two more replicas");
    NEWCOMERS.into_iter().try_for_each(|n| stand.spawn_replica(n))?;
    NEWCOMERS.into_iter().try_for_each(|n| stand.wait_for_replica(n))?;
    configure(stand, MOST_REPLICAS)?;
    stand.wait_for_backends()?;
    let before = given(stand)?;
    std::thread::sleep(COUNTED);
    Ok(given(stand)?.iter().zip(&before).map(|(now, before)| now - before).collect())
}

/// Three replicas again: drained, out of the configuration, stopped.
fn back(stand: &mut Stand) -> Result<()> {
    progress("scale: and without them");
    if stand.replicas() == MOST_REPLICAS {
        NEWCOMERS.into_iter().try_for_each(|n| stand.drain(n))?;
        configure(stand, REPLICAS)?;
    }
    NEWCOMERS.into_iter().try_for_each(|n| stand.stop_replica(n))
}

/// Has the agent take the configuration for so many replicas.
fn configure(stand: &mut Stand, replicas: u8) -> Result<()> {
    stand.set_replicas(replicas)?;
    stand.write_config()?;
    stand.daemon(AGENT)?.signal(Signal::SIGHUP)?;
    let known = || given(stand).is_ok_and(|flows| flows.len() == usize::from(replicas));
    wait_until(&format!("the agent knows {replicas} replicas"), LIMIT, known).map(drop)
}

/// How many connections each replica was given so far.
fn given(stand: &Stand) -> Result<Vec<f64>> {
    let status = stand.agent_status()?;
    let service = status.services.into_iter().find(|s| s.name == SERVICE).context("no service")?;
    #[expect(clippy::cast_precision_loss, reason = "counts of connections are far below 2^53")]
    let count = |flows: Option<u64>| flows.map(|n| n as f64).context("no count of connections");
    service.backends.into_iter().map(|backend| count(backend.new_flows)).collect()
}
