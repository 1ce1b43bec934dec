//! A rolling restart: each backend is drained, stopped, started and given flows again, as an operator's script does it, while
//! users ask for pages and run 30-second queries.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::arena::{Arena, Contender};
use super::attempts::{Attempt, Attempts, Plan, Until, quantile};
use super::{Name, Report, progress};
use crate::e2e::{LIMIT, Stand, service};
use crate::lab::{LB, Lab, Servers, Topology, backend_host, programs};
use crate::packet::world::Family::V4;

const BACKENDS: u8 = 3;
/// How long each query waits in silence, and how many begin a second.
const QUERY: Duration = Duration::from_secs(30);
const QUERIES: u32 = 2;
/// Pages a second.
const PAGES: u32 = 100;
/// Before the first restart: queries are under way at every backend by then.
const BEFORE: Duration = Duration::from_secs(5);

/// One backend's restart.
#[derive(Clone, Copy, Debug)]
struct Restart {
    drained: Duration,
    back: Duration,
}

/// The proof.
///
/// # Errors
/// When something does not start, or a drain does not end.
pub fn prove() -> Result<Report> {
    progress("rolling: three restarts under load, about 40 s each");
    let lab = Lab::new(Topology::two_arm(BACKENDS))?;
    let servers = Servers::start(&lab)?;
    let mut arena = Arena::over(Contender::Evenkeel("least-waiting"), lab, servers, "")?;
    let client = arena.client()?;
    let stopped = Arc::<AtomicBool>::default();
    let plan = |path: String, rate| Plan {
        target: arena.vip(),
        path,
        headers: String::new(),
        rate,
        until: Until::Stopped(Arc::clone(&stopped)),
        patience: QUERY + LIMIT,
    };
    let pages = Attempts::start(&client, plan("/".to_owned(), PAGES));
    let queries = Attempts::start(&client, plan(format!("/sleep?ms={}", QUERY.as_millis()), QUERIES));
    std::thread::sleep(BEFORE);
    let restarts = (1..=BACKENDS).map(|n| restart(&mut arena, n)).collect::<Result<Vec<_>>>();
    stopped.store(true, Ordering::Relaxed);
    let (pages, queries) = (pages.finish(&client)?, queries.finish(&client)?);
    report(&pages, &queries, &restarts?)
}

fn restart(arena: &mut Arena, n: u8) -> Result<Restart> {
    let begun = Instant::now();
    let name = format!("{}/{}", service(V4), backend_host(n));
    let stand = arena.evenkeel().context("no agent")?;
    lb_agent(stand, &["drain", &name, "--deadline", "2m", "--wait"])?;
    let drained = begun.elapsed();
    let Arena::Evenkeel(stand) = arena else { return Err(anyhow::anyhow!("no agent")) };
    stand.servers.process(n)?.terminate(LIMIT)?;
    stand.servers.start_one(&stand.lab, n, &[])?;
    lb_agent(stand, &["undrain", &name])?;
    stand.wait_for(V4, n, "is back", |b| b.state == "healthy" && b.in_ring)?;
    let before = new_flows(stand, n)?;
    crate::lab::wait_until("it gets flows again", LIMIT, || new_flows(stand, n).is_ok_and(|n| n > before))?;
    Ok(Restart { drained, back: begun.elapsed() })
}

/// Runs the command as an operator does; it says why when its exit status is not 0.
fn lb_agent(stand: &Stand, words: &[&str]) -> Result<()> {
    let mut command = Command::new(programs::agent()?);
    command.args(words).arg("--socket").arg(stand.agent.socket());
    let output = stand.lab.output(LB, &mut command)?;
    let said = String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned();
    ensure!(output.status.success(), "lb-agent {}: {}: {said}", words.join(" "), output.status);
    Ok(())
}

fn new_flows(stand: &Stand, n: u8) -> Result<u64> {
    let status = stand.status()?;
    let service = status.services.iter().find(|s| s.name == service(V4)).context("no service")?;
    let backend = service.backends.iter().find(|b| b.name == backend_host(n)).context("no backend")?;
    backend.new_flows.context("no count of new flows")
}

#[expect(clippy::cast_precision_loss, reason = "counts of attempts are far below 2^53")]
fn report(pages: &[Attempt], queries: &[Attempt], restarts: &[Restart]) -> Result<Report> {
    let mut report = Report::new(Name::Rolling, &["asked", "failed", "p50 ms", "p99 ms", "longest ms"]);
    for (name, attempts) in [("pages", pages), ("30-second queries", queries)] {
        let mut times: Vec<Duration> = attempts.iter().filter(|a| !a.failed()).map(Attempt::took).collect();
        let failed = attempts.iter().filter(|a| a.failed()).count();
        let figures = [0.5, 0.99, 1.0].map(|share| quantile(&mut times, share));
        report.row(name, [attempts.len() as f64, failed as f64].into_iter().chain(figures).map(Some));
        let why = attempts.iter().find_map(|a| a.connected.err().or(a.answered.err()));
        let why = why.map(|kind| format!(" ({kind})")).unwrap_or_default();
        report.aim(failed == 0, format!("{failed} of {} {name} failed{why}, aim 0", attempts.len()));
    }
    for (n, restart) in (1..).zip(restarts) {
        report.note(format!(
            "{}: drained after {:.0} s, stopped, started, and at work again after {:.0} s",
            backend_host(n),
            restart.drained.as_secs_f64(),
            restart.back.as_secs_f64()
        ));
    }
    report.aim(
        restarts.len() == usize::from(BACKENDS),
        format!("{} of {BACKENDS} backends restarted", restarts.len()),
    );
    Ok(report)
}
