//! A real browser loads the dashboard again and again, while every replica is drained and restarted.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::rolling::update;
use crate::lab::wait_until;
use crate::proof::attempts::quantile;
use crate::proof::{Report, progress};
use crate::superset::content::{CHARTS, DASHBOARD};
use crate::superset::webdriver::Browser;
use crate::superset::{Scenario, Session, Stand};

/// Loads, at least.
const LOADS: usize = 10;
/// Until every chart is there.
const LIMIT: Duration = Duration::from_secs(60);
/// Charts that show what they have: a drawing, a table with rows, or a number.
const RENDERED: &str = "return [...document.querySelectorAll('.dashboard-component-chart-holder')].filter(chart => \
                        chart.querySelector('canvas, tbody tr td, .header-line')).length";
/// Errors that Superset shows in place of a chart, or above the page.
const ERRORS: &str = "return document.querySelectorAll('.ant-alert-error, .chart-error').length";

/// One load.
struct Load {
    took: Duration,
    rendered: bool,
    /// What the console said of requests to the VIP that failed.
    errors: Vec<String>,
}

/// The scenario. `dashboard.png` in `out` is what the browser saw last.
///
/// # Errors
/// When the browser does not start, or a replica not again.
pub fn prove(stand: &mut Stand, out: &Path) -> Result<Report> {
    let session = Session::log_in(stand)?;
    let browser = Browser::start(stand)?;
    log_in(stand, &browser)?;
    let (vip, over) = (stand.vip().ip().to_string(), AtomicBool::new(false));
    let (loads, restarts) = std::thread::scope(|scope| {
        let loads = scope.spawn(|| {
            let mut loads = Vec::new();
            while loads.len() < LOADS || !over.load(Ordering::Relaxed) {
                loads.push(load(&browser, &vip)?);
                progress(&format!(
                    "dashboard: load {} took {:.1} s",
                    loads.len(),
                    loads.last().map_or(0.0, |l| l.took.as_secs_f64())
                ));
            }
            browser.screenshot(&out.join("dashboard.png"))?;
            anyhow::Ok(loads)
        });
        let restarts = (1..=stand.replicas()).map(|n| update(stand, &session, n)).collect::<Result<Vec<_>>>();
        over.store(true, Ordering::Relaxed);
        (loads.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), restarts)
    });
    let (loads, restarts) = (loads?, restarts?);
    let mut times: Vec<Duration> = loads.iter().map(|load| load.took).collect();
    let mut report = Report::new(Scenario::Dashboard, &["loads", "p50 ms", "longest ms"]);
    #[expect(clippy::cast_precision_loss, reason = "some dozens")]
    let count = loads.len() as f64;
    report.row("dashboard", [count, quantile(&mut times, 0.5), quantile(&mut times, 1.0)].map(Some));
    let whole = loads.iter().filter(|load| load.rendered).count();
    let (all, charts, restarted) = (loads.len(), CHARTS, restarts.len());
    report.aim(
        whole == all,
        format!("{whole} of {all} loads showed all {charts} charts, through {restarted} restarts"),
    );
    let errors: Vec<&String> = loads.iter().flat_map(|load| &load.errors).collect();
    let first = errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
    report.aim(errors.is_empty(), format!("{} network errors in the console{first}", errors.len()));
    report.note(format!("what the browser saw last: {}", out.join("dashboard.png").display()));
    Ok(report)
}

/// Fills in the form and sends it, as a person does.
fn log_in(stand: &Stand, browser: &Browser) -> Result<()> {
    browser.open(&format!("http://{}/login/", stand.vip().ip()))?;
    let there =
        || browser.run("return document.querySelector('#username') !== null").is_ok_and(|v| v == true);
    wait_until("the login form is there", LIMIT, there)?;
    browser.type_into("#username", "admin")?;
    // The last character is Enter.
    browser.type_into("#password", "admin\u{e007}")?;
    let away = || browser.run("return location.pathname").is_ok_and(|path| path != "/login/");
    wait_until("the browser is logged in", LIMIT, away).map(drop)
}

fn load(browser: &Browser, vip: &str) -> Result<Load> {
    let begun = Instant::now();
    browser.open(&format!("http://{vip}{DASHBOARD}")).context("open the dashboard")?;
    let whole = || browser.run(RENDERED).is_ok_and(|count| count == CHARTS);
    let rendered = wait_until("every chart is there", LIMIT, whole).is_ok() && browser.run(ERRORS)? == 0;
    let took = begun.elapsed();
    let ours = |[level, source, message]: &[String; 3]| {
        level == "SEVERE" && source == "network" && message.contains(vip)
    };
    let errors = browser.console()?.into_iter().filter(ours).map(|[_, _, message]| message).collect();
    Ok(Load { took, rendered, errors })
}
