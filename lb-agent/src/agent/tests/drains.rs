//! Drains, on a fake kernel and a paused clock.

use lb_common::stats::{BackendLoad, BackendStats};

use super::*;
use crate::admin::command::{Change, Refusal, ask};
use crate::model::DrainSpec;
use crate::status::{BackendStatus, Status};

/// As the configuration of a [`Lab`] has it.
const RULES: DrainSpec = DrainSpec { idle: Duration::from_secs(5), deadline: Duration::from_secs(600) };
/// An end is noticed this late at most.
const LATE: Duration = Duration::from_millis(300);

pub(super) fn drain(service: String, backend: String) -> Change {
    Change::Drain { service, backend, deadline: None }
}

fn drain_for_a_minute(service: String, backend: String) -> Change {
    Change::Drain { service, backend, deadline: Some(Duration::from_secs(60)) }
}

fn undrain(service: String, backend: String) -> Change {
    Change::Undrain { service, backend }
}

/// What the data path says of a backend from now on.
fn counts(lab: &Lab, id: u16, waiting: u64, data_seen: u64) {
    lab.counters.set(|v| {
        v.loads.insert(id, BackendLoad { flows: 3, waiting, ..BackendLoad::ZERO });
        v.backends.insert(id, BackendStats { data_seen, ..BackendStats::ZERO });
    });
}

fn backend(s: &Status, i: usize) -> &BackendStatus {
    &s.services[0].backends[i]
}

fn drains(lab: &Lab, result: &str) -> f64 {
    metric(lab, &format!("lb_drains_total{{result=\"{result}\"}}"))
}

fn state(lab: &Lab, backend: &str, state: &str) -> f64 {
    metric(lab, &format!("lb_backend_state{{backend=\"{backend}\",service=\"superset\",state=\"{state}\"}}"))
}

#[tokio::test(start_paused = true)]
async fn a_drain_takes_a_backend_off_the_ring_and_ends_when_it_is_quiet() {
    let mut lab = Lab::start(3);
    all_healthy(&mut lab).await;
    counts(&lab, 2, 1, 10);
    let asked = Instant::now();
    lab.ask(drain, 1).await.unwrap();
    let s = lab.published.borrow().status.clone();
    assert_eq!((backend(&s, 1).state.as_str(), backend(&s, 1).health.as_str()), ("draining", "healthy"));
    lab.until(|s| !s.dataplane.pending).await;
    assert_eq!(lab.kernel.ring(), [1, 3]);
    assert!(asked.elapsed() <= PROMISE, "{:?}", asked.elapsed());
    assert_eq!((state(&lab, "superset-2", "draining"), state(&lab, "superset-2", "healthy")), (1.0, 0.0));
    assert_eq!(metric(&lab, "lb_backend_up{backend=\"superset-2\",service=\"superset\"}"), 1.0);
    assert_eq!(metric(&lab, "lb_service_backends{service=\"superset\",state=\"draining\"}"), 1.0);

    // A long query, and then its answer, in two parts.
    sleep(Duration::from_secs(120)).await;
    assert_eq!(backend(&lab.published.borrow().status, 1).state, "draining");
    counts(&lab, 2, 0, 11);
    sleep(Duration::from_secs(4)).await;
    counts(&lab, 2, 0, 12);
    let answered = Instant::now();
    let s = lab.until(|s| backend(s, 1).state == "drained").await;
    let took = answered.elapsed();
    assert!((RULES.idle..=RULES.idle + LATE).contains(&took), "{took:?}");
    let b = backend(&s, 1);
    let d = b.drain.clone().unwrap();
    assert_eq!((d.result.as_deref(), d.left_waiting), (Some("complete"), Some(0)));
    assert_eq!((b.why.as_str(), Some(b.since), b.in_ring), ("no flow waits for an answer", d.ended, false));
    assert_eq!(d.deadline.duration_since(d.since).unwrap(), RULES.deadline);
    assert_eq!(drains(&lab, "complete"), 1.0);

    // It stays away, whatever the checks say, and whoever wakes up.
    counts(&lab, 2, 1, 13);
    lab.check(1, CheckResult::Refused, Some(Dead)).await;
    lab.check(1, CheckResult::Ok, Some(Healthy)).await;
    sleep(RESYNC * 2).await;
    assert_eq!(lab.kernel.ring(), [1, 3]);
    assert_eq!(backend(&lab.published.borrow().status, 1).state, "drained");

    lab.ask(undrain, 1).await.unwrap();
    let s = lab.until(|s| backend(s, 1).in_ring && !s.dataplane.pending).await;
    assert_eq!((backend(&s, 1).state.as_str(), &backend(&s, 1).drain), ("healthy", &None));
    assert_eq!(lab.kernel.ring(), [1, 2, 3]);
    assert_eq!((drains(&lab, "complete"), drains(&lab, "undone")), (1.0, 0.0), "it had ended");
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_a_drain_and_a_second_one_begins_anew() {
    let mut lab = Lab::start(2);
    all_healthy(&mut lab).await;
    counts(&lab, 1, 2, 10);
    let asked = Instant::now();
    lab.ask(drain_for_a_minute, 0).await.unwrap();
    let s = lab.until(|s| backend(s, 0).state == "drained").await;
    let took = asked.elapsed();
    assert!((Duration::from_secs(60)..=Duration::from_secs(60) + LATE).contains(&took), "{took:?}");
    let d = backend(&s, 0).drain.clone().unwrap();
    assert_eq!((d.result.as_deref(), d.left_waiting), (Some("deadline"), Some(2)));
    assert_eq!(backend(&s, 0).why, "deadline; flows that waited for an answer: 2");
    assert_eq!((drains(&lab, "deadline"), drains(&lab, "complete")), (1.0, 0.0));
    assert_eq!(lab.kernel.ring(), [2]);

    lab.ask(drain, 0).await.unwrap();
    assert_eq!(backend(&lab.published.borrow().status, 0).state, "draining");
    counts(&lab, 1, 0, 11);
    lab.until(|s| backend(s, 0).state == "drained").await;
    assert_eq!(drains(&lab, "complete"), 1.0);
    lab.ask(drain, 0).await.unwrap();
    lab.ask(undrain, 0).await.unwrap();
    lab.ask(undrain, 0).await.unwrap();
    assert_eq!(drains(&lab, "undone"), 1.0, "the second time there was nothing to undo");
}

#[tokio::test(start_paused = true)]
async fn no_drain_is_complete_before_the_kernel_has_the_ring() {
    let mut lab = Lab::start(2);
    all_healthy(&mut lab).await;
    counts(&lab, 1, 0, 10);
    lab.kernel.lock().refuse = usize::MAX;
    lab.ask(drain, 0).await.unwrap();
    sleep(RULES.idle * 4).await;
    assert_eq!(backend(&lab.published.borrow().status, 0).state, "draining", "it still gets flows");
    lab.kernel.lock().refuse = 0;
    lab.until(|s| !s.dataplane.pending).await;
    let written = Instant::now();
    lab.until(|s| backend(s, 0).state == "drained").await;
    assert!(written.elapsed() >= RULES.idle, "{:?}", written.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_cannot_be_watched_is_not_complete() {
    let mut lab = Lab::start(2);
    all_healthy(&mut lab).await;
    counts(&lab, 1, 0, 10);
    lab.counters.set(|v| v.broken = true);
    lab.ask(drain_for_a_minute, 0).await.unwrap();
    let s = lab.until(|s| backend(s, 0).state == "drained").await;
    let d = backend(&s, 0).drain.clone().unwrap();
    assert_eq!((d.result.as_deref(), d.left_waiting), (Some("deadline"), None));
    assert_eq!(s.dataplane.last_error.as_deref(), Some("a drain cannot be watched: counters: broken"));
}

/// The last resort is a metric and a word in the status.
#[tokio::test(start_paused = true)]
async fn when_all_are_drained_they_get_flows_all_the_same() {
    let mut lab = Lab::start(2);
    all_healthy(&mut lab).await;
    lab.ask(drain, 0).await.unwrap();
    lab.check(1, CheckResult::Refused, Some(Dead)).await;
    let s = lab.until(|s| s.services[0].standing == "fail-open" && !s.dataplane.pending).await;
    assert_eq!(lab.kernel.ring(), [2], "rather a dead one than a drained one");
    assert!(s.services[0].fail_open);
    lab.ask(drain, 1).await.unwrap();
    let s = lab.until(|s| s.services[0].standing == "draining" && !s.dataplane.pending).await;
    assert_eq!(lab.kernel.ring(), [1], "rather one that works");
    assert!(s.services[0].fail_open && backend(&s, 0).in_ring);
    assert_eq!(metric(&lab, "lb_service_fail_open{service=\"superset\"}"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn unknown_names_are_refused_and_change_nothing() {
    let mut lab = Lab::start(2);
    all_healthy(&mut lab).await;
    let ask = async |service: &str, backend: &str| {
        ask(&lab.commands, drain(service.into(), backend.into())).await.unwrap_err()
    };
    let unknown = |text: &str| Refusal::Unknown(text.to_owned());
    assert_eq!(ask("web", "superset-1").await, unknown("there is no service web; there is superset"));
    assert_eq!(
        ask("superset", "x").await,
        unknown("service superset has no backend x; it has superset-1, superset-2")
    );
    sleep(Duration::from_secs(1)).await;
    assert_eq!(lab.kernel.ring(), [1, 2]);
}
