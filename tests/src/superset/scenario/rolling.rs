//! Every replica is updated in turn as an operator's script does it (drain, stop, start, warm, undrain), while users open pages and
//! run queries.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use crate::proof::attempts::{Attempt, quantile};
use crate::proof::{Report, progress};
use crate::superset::replica::{THREADS, WORKERS, replica_name};
use crate::superset::views::{PAGE, Views};
use crate::superset::{Scenario, Session, Stand, User};

/// How long each query takes.
pub const QUERY: Duration = Duration::from_secs(20);
/// From one query's begin to the next one's.
const EVERY: Duration = Duration::from_secs(3);

/// The scenario.
///
/// # Errors
/// When a drain does not end, or a replica does not start.
pub fn prove(stand: &mut Stand, query: Duration) -> Result<Report> {
    let session = Session::log_in(stand)?;
    let stopped = Arc::<AtomicBool>::default();
    let queries = queries(session.user.clone(), session.database()?, query, Arc::clone(&stopped));
    let queries = session.client.spawn(queries);
    let views = Views::start(stand, stand.vip(), &session.user)?;
    stand.wait_for_query()?;
    let restarts = (1..=stand.replicas()).map(|n| update(stand, &session, n)).collect::<Result<Vec<_>>>();
    stopped.store(true, Ordering::Relaxed);
    let (views, queries) = (views.finish()?, session.client.wait(queries)?);
    let restarts = restarts?;

    let mut report = Report::new(Scenario::Rolling, &["asked", "failed", "p50 ms", "p99 ms", "longest ms"]);
    let failed = views.iter().filter(|view| view.failed()).count();
    let mut times: Vec<Duration> = views.iter().filter(|view| !view.failed()).map(Attempt::took).collect();
    row(&mut report, "page views", failed, &mut times);
    report.aim(failed == 0, format!("{failed} of {} page views failed", views.len()));
    let (mut times, lost): (Vec<_>, Vec<_>) = queries.into_iter().partition(Result::is_ok);
    let why =
        lost.iter().find_map(|query| query.as_ref().err()).map(|e| format!(" ({e:#})")).unwrap_or_default();
    let (all, lost) = (times.len() + lost.len(), lost.len());
    let mut times: Vec<Duration> = times.drain(..).flatten().collect();
    row(&mut report, &format!("{}-second queries", query.as_secs()), lost, &mut times);
    report.aim(
        lost == 0 && all > 0,
        format!("{lost} of {all} queries of {} s were lost{why}", query.as_secs()),
    );
    for (n, Restart { drained, took }) in (1..).zip(&restarts) {
        let (name, drained, took) = (replica_name(n), drained.as_secs_f64(), took.as_secs_f64());
        report.note(format!("{name}: drained after {drained:.0} s, in use again after {took:.0} s"));
    }
    Ok(report)
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^53")]
fn row(report: &mut Report, name: &str, failed: usize, times: &mut [Duration]) {
    let counts = [times.len() + failed, failed].map(|n| n as f64);
    let times = [0.5, 0.99, 1.0].map(|share| quantile(times, share));
    report.row(name, counts.into_iter().chain(times).map(Some));
}

/// One replica's update.
pub(super) struct Restart {
    drained: Duration,
    took: Duration,
}

/// Updates one replica as an operator's script does it.
///
/// # Errors
/// When a step fails.
pub(super) fn update(stand: &mut Stand, session: &Session, n: u8) -> Result<Restart> {
    progress(&format!("rolling: {}", replica_name(n)));
    let begun = Instant::now();
    stand.drain(n)?;
    let drained = begun.elapsed();
    stand.stop_replica(n)?;
    stand.start_replica(n)?;
    warm(stand, session, n)?;
    stand.undrain(n)?;
    stand.wait_for_backend(n, "is in use again", |b| b.health == "healthy" && b.in_ring)?;
    Ok(Restart { drained, took: begun.elapsed() })
}

/// Opens a page at the replica itself once for each of its threads: the first ones import modules and fill caches.
fn warm(stand: &Stand, session: &Session, n: u8) -> Result<()> {
    let user = session.user.at(stand.replica(n));
    session
        .client
        .wait(session.client.spawn(async move {
            let mut pages = JoinSet::new();
            for _ in 0..WORKERS * THREADS {
                let user = user.clone();
                pages.spawn(async move { user.get(PAGE).await.map(drop) });
            }
            pages.join_all().await.into_iter().collect::<Result<()>>()
        }))?
        .with_context(|| format!("warm {}", replica_name(n)))
}

/// Begins queries until it is stopped; gives how long each took.
async fn queries(
    user: User,
    database: i64,
    query: Duration,
    stopped: Arc<AtomicBool>,
) -> Vec<Result<Duration>> {
    let mut all = JoinSet::new();
    let sql = format!("select pg_sleep({})", query.as_secs());
    while !stopped.load(Ordering::Relaxed) {
        let (user, sql) = (user.clone(), sql.clone());
        all.spawn(async move {
            let begun = Instant::now();
            user.query(database, &sql).await?;
            Ok(begun.elapsed())
        });
        tokio::time::sleep(EVERY).await;
    }
    all.join_all().await
}
