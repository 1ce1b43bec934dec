//! Every thread of one replica works on a long query: it answers no check, and must not be taken for dead.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::lab::wait_until;
use crate::proof::attempts::{Attempt, quantile};
use crate::proof::{Report, progress};
use crate::superset::replica::{THREADS, WORKERS, replica_name};
use crate::superset::views::Views;
use crate::superset::{Scenario, Session, Stand};

/// The replica.
const BUSY: u8 = 1;
/// How long its queries take.
const QUERY: Duration = Duration::from_secs(30);
/// Until queries that were sent are under way.
const SETTLING: Duration = Duration::from_secs(1);
/// How long pages are looked at while nothing else happens, before and after.
const QUIET: Duration = Duration::from_secs(10);

/// The scenario.
///
/// # Errors
/// When the queries cannot be brought to the replica.
pub fn prove(stand: &mut Stand) -> Result<Report> {
    let mut quiet = watch(stand, rest)?;
    let session = Session::log_in(stand)?;
    // Only while the queries begin, so that they come to this replica, through the VIP as any.
    let others: Vec<u8> = (1..=stand.replicas()).filter(|n| *n != BUSY).collect();
    others.iter().try_for_each(|n| stand.start_drain(*n))?;
    let queries = occupy(stand, &session);
    others.iter().try_for_each(|n| stand.undrain(*n))?;
    let queries = queries?;

    progress("busy: every thread has a query");
    let mut suspect = None;
    let before = stand.backend(BUSY)?.new_flows;
    let busy = watch(stand, || {
        suspect = Some(stand.wait_for_backend(BUSY, "is suspect", |b| b.state == "suspect")?);
        let over = || queries.iter().all(JoinHandle::is_finished);
        wait_until("the queries are over", 4 * QUERY, over).map(drop)
    })?;
    let given = stand.backend(BUSY)?.new_flows.zip(before).map(|(now, before)| now - before);
    let answered: Vec<_> = queries.into_iter().map(|query| session.client.wait(query)?).collect();
    let back = stand.wait_for_backend(BUSY, "is healthy", |b| b.state == "healthy" && b.in_ring)?;
    quiet.extend(watch(stand, rest)?);
    report(&quiet, &busy, &answered, [suspect.unwrap_or_default(), back], given)
}

/// Begins queries until every thread has one. gunicorn's workers do not share evenly, so some queries wait behind others.
fn occupy(stand: &Stand, session: &Session) -> Result<Vec<JoinHandle<Result<Value>>>> {
    let database = session.database()?;
    let sql = format!("select pg_sleep({})", QUERY.as_secs());
    let threads = (WORKERS * THREADS) as usize;
    let mut queries = Vec::new();
    while queries.len() < 4 * threads {
        queries.extend((0..threads / 4).map(|_| session.start_query(database, &sql)));
        if queries.len() >= threads && stand.wait_for_queries(threads, SETTLING).is_ok() {
            return Ok(queries);
        }
    }
    bail!("{} queries do not occupy {threads} threads", queries.len())
}

fn report(
    quiet: &[Attempt],
    busy: &[Attempt],
    queries: &[Result<Value>],
    [suspect, back]: [Duration; 2],
    given: Option<u64>,
) -> Result<Report> {
    let mut report = Report::new(Scenario::Busy, &["views", "failed", "p50 ms", "p95 ms", "longest ms"]);
    let [calm, full] = [("quiet", quiet), ("one replica busy", busy)].map(|(name, views)| {
        let mut times: Vec<Duration> =
            views.iter().filter(|view| !view.failed()).map(Attempt::took).collect();
        let failed = views.iter().filter(|view| view.failed()).count();
        let figures = [0.5, 0.95, 1.0].map(|share| quantile(&mut times, share));
        #[expect(clippy::cast_precision_loss, reason = "counts of views are far below 2^53")]
        let counts = [views.len() as f64, failed as f64];
        report.row(name, counts.into_iter().chain(figures).map(Some));
        (failed, figures[1])
    });
    let (all, answered) = (queries.len(), queries.iter().filter(|query| query.is_ok()).count());
    let why = queries
        .iter()
        .find_map(|query| query.as_ref().err())
        .map(|e| format!(" ({e:#})"))
        .unwrap_or_default();
    report
        .aim(answered == all, format!("{answered} of {all} queries on the busy replica were answered{why}"));
    report.aim(full.0 == 0, format!("{} of {} page views meanwhile failed", full.0, busy.len()));
    let (limit, p95) = (1.5 * calm.1, full.1);
    report.aim(p95 <= limit, format!("p95 of pages {p95:.0} ms, at most {limit:.0} (1.5 × quiet)"));
    report.aim(
        true,
        format!(
            "suspect after {:.1} s, in use again {:.1} s after the last query",
            suspect.as_secs_f64(),
            back.as_secs_f64()
        ),
    );
    let given = given.map_or_else(|| "?".to_owned(), |n| n.to_string());
    report.note(format!(
        "{} got {given} new connections from when all threads were busy until the last query was over",
        replica_name(BUSY)
    ));
    Ok(report)
}

/// Page views while something goes on.
fn watch(stand: &Stand, meanwhile: impl FnOnce() -> Result<()>) -> Result<Vec<Attempt>> {
    let views = Views::log_in(stand)?;
    let went = meanwhile();
    let views = views.finish()?;
    went.map(|()| views)
}

#[expect(clippy::unnecessary_wraps, reason = "what else goes on may fail")]
fn rest() -> Result<()> {
    std::thread::sleep(QUIET);
    Ok(())
}
