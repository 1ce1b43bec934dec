//! One login through the VIP, then pages and API calls that every replica has a share of.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::proof::Report;
use crate::proof::attempts::quantile;
use crate::superset::{Scenario, Session, Stand};

/// How many answers are wanted.
const ASKED: usize = 50;
/// What is asked for in turn: pages, and what their scripts ask for.
const PATHS: [&str; 5] = [
    "/dashboard/list/",
    "/api/v1/me/",
    "/sqllab/",
    "/api/v1/dashboard/evenkeel",
    "/superset/dashboard/evenkeel/",
];

/// The scenario.
///
/// # Errors
/// When the login fails.
pub fn prove(stand: &Stand) -> Result<Report> {
    let begun = Instant::now();
    let session = Session::log_in(stand)?;
    let login = begun.elapsed();
    let mut times = BTreeMap::<String, Vec<Duration>>::new();
    let (mut answered, mut refused) = (0, None);
    for path in PATHS.iter().cycle().take(ASKED) {
        let begun = Instant::now();
        match session.get(path) {
            Ok(answer) => {
                answered += 1;
                let replica = answer.header("x-replica").to_owned();
                times.entry(replica).or_default().push(begun.elapsed());
            }
            Err(e) => refused = refused.or(Some(format!("{e:#}"))),
        }
    }
    let mut report = Report::new(Scenario::Login, &["answers", "p50 ms", "longest ms"]);
    for (replica, times) in &mut times {
        #[expect(clippy::cast_precision_loss, reason = "fifty at most")]
        let answers = times.len() as f64;
        report.row(replica, [answers, quantile(times, 0.5), quantile(times, 1.0)].map(Some));
    }
    let why = refused.map(|why| format!(" ({why})")).unwrap_or_default();
    report.aim(
        answered == ASKED,
        format!("{answered} of {ASKED} pages and API calls answered with one session{why}"),
    );
    let (replicas, all) = (times.len(), stand.replicas());
    report.aim(replicas == usize::from(all), format!("by {replicas} of {all} replicas"));
    report.note(format!("the login itself took {:.2} s", login.as_secs_f64()));
    Ok(report)
}
