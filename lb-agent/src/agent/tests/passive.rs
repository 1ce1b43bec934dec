//! What the data path sees of the backends reaches their state, the ring and the metrics.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use lb_common::flow::{Ctrl, Slot, State};
use lb_common::stats::{BackendLoad, BackendStats, REFUSED, UNANSWERED};

use super::*;
use crate::admin::command::Change;
use crate::agent::core::drains::LOOK;
use crate::agent::testing::service;
use crate::model::{PassiveSpec, ServiceSpec};
use crate::status::Status;

const SECOND: Duration = Duration::from_secs(1);

/// How the checks of each backend end; good where nothing is said.
#[derive(Clone, Default)]
struct Checks(Arc<Mutex<Vec<(SocketAddr, CheckResult)>>>);

/// An agent whose backends are all healthy and have been for long, checked every 20 s.
async fn lab(backends: u8, passive: PassiveSpec) -> (Lab, Checks) {
    let mut spec = service(backends);
    spec.health.passive = passive;
    lab_of(spec).await
}

async fn lab_of(mut spec: ServiceSpec) -> (Lab, Checks) {
    spec.health.interval = 20 * SECOND;
    let checks = Checks::default();
    let results = checks.clone();
    let mut lab = Lab::checked(spec, move |address| {
        let results = results.0.lock().unwrap();
        results.iter().find(|(a, _)| *a == address).map_or(CheckResult::Ok, |(_, result)| *result)
    });
    lab.until(|s| s.is_ready() && !s.dataplane.pending && !s.services[0].fail_open).await;
    // Second checks come early.
    sleep(60 * SECOND).await;
    (lab, checks)
}

/// What the data path counts of backend `i` (from 0) from now on.
fn load(lab: &Lab, i: u16, failures: u64, resets: u64) {
    let load = BackendLoad { failures, resets, ..BackendLoad::ZERO };
    lab.counters.set(|v| {
        v.loads.insert(i + 1, load);
    });
}

fn quiet(lab: &Lab) {
    (0..).zip(&lab.service.backends).for_each(|(i, _)| load(lab, i, 0, 0));
}

fn state(s: &Status, i: usize) -> &str {
    &s.services[0].backends[i].state
}

fn signals(lab: &Lab, signal: &str, result: &str) -> f64 {
    let labels = format!("result=\"{result}\",service=\"superset\",signal=\"{signal}\"");
    metric(lab, &format!("lb_health_signals_total{{{labels}}}"))
}

fn early_checks(lab: &Lab) -> f64 {
    metric(lab, "lb_health_early_checks_total{service=\"superset\"}")
}

#[tokio::test(start_paused = true)]
async fn refused_syns_take_a_backend_off_the_ring_long_before_its_next_check() {
    let (mut lab, checks) = lab(3, PassiveSpec::default()).await;
    let killed = Instant::now();
    let address = lab.service.backends[1].address;
    checks.0.lock().unwrap().push((address, CheckResult::Refused));
    load(&lab, 1, 7 * REFUSED, 0);
    let s = lab.until(|s| state(s, 1) == "suspect" && !s.dataplane.pending).await;
    assert!(killed.elapsed() <= LOOK + PROMISE, "{:?}", killed.elapsed());
    assert_eq!(lab.kernel.ring(), [1, 3]);
    assert_eq!(s.services[0].backends[1].why, "SYNs refused in a row: 7");
    assert_eq!(signals(&lab, "refused", "suspect"), 1.0);
    assert_eq!(early_checks(&lab), 1.0);
    // The checks are made at once and say the rest.
    lab.until(|s| state(s, 1) == "dead").await;
    assert!(killed.elapsed() <= 3 * SECOND, "{:?}", killed.elapsed());
}

#[tokio::test(start_paused = true)]
async fn without_traffic_only_the_checks_tell() {
    let (mut lab, checks) = lab(3, PassiveSpec::default()).await;
    let killed = Instant::now();
    checks.0.lock().unwrap().push((lab.service.backends[1].address, CheckResult::Refused));
    lab.until(|s| state(s, 1) == "dead").await;
    assert!(killed.elapsed() >= 36 * SECOND, "{:?}", killed.elapsed());
    assert_eq!(early_checks(&lab), 0.0);
}

/// Good checks bring it back, when the signal is over.
#[tokio::test(start_paused = true)]
async fn a_suspect_backend_comes_back_by_good_checks() {
    let (mut lab, _) = lab(3, PassiveSpec::default()).await;
    load(&lab, 1, 5 * UNANSWERED, 0);
    let s = lab.until(|s| state(s, 1) == "suspect").await;
    assert_eq!(s.services[0].backends[1].why, "SYNs unanswered in a row: 5");
    let suspected = Instant::now();
    lab.until(|s| state(s, 1) == "healthy" && !s.dataplane.pending).await;
    assert!(
        suspected.elapsed() <= 23 * SECOND,
        "one at once, the other at the interval: {:?}",
        suspected.elapsed()
    );
    assert_eq!(lab.kernel.ring(), [1, 2, 3]);
    assert_eq!(metric(&lab, "lb_backend_slow_start_ratio{backend=\"superset-2\",service=\"superset\"}"), 1.0);
    sleep(120 * SECOND).await;
    assert_eq!(state(&lab.published.borrow().status, 1), "healthy", "the same row does not count twice");
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_cut_off_count_although_checks_are_good() {
    let (mut lab, _) = lab(3, PassiveSpec::default()).await;
    for resets in 1..=11 {
        load(&lab, 1, 0, resets);
        sleep(LOOK).await;
    }
    let s = lab.until(|s| state(s, 1) == "suspect").await;
    let suspected = Instant::now();
    assert_eq!(s.services[0].backends[1].why, "flows cut off within 30 s: 10");
    lab.until(|s| state(s, 1) == "healthy").await;
    let back = suspected.elapsed();
    assert!((30 * SECOND..80 * SECOND).contains(&back), "two good checks after 30 s: {back:?}");
}

/// Where nobody waits for answers there are none to compare with.
#[tokio::test(start_paused = true)]
async fn a_few_of_many_answers_or_flows_may_be_cut_off() {
    for requests in [true, false] {
        let (lab, _) = lab_of(ServiceSpec { requests, ..service(3) }).await;
        for n in 1..=100 {
            load(&lab, 1, 0, n);
            let (responses, new_flows) = if requests { (n * 3, 0) } else { (0, n * 3) };
            lab.counters.set(|v| {
                v.backends.insert(2, BackendStats { responses, new_flows, ..BackendStats::ZERO });
            });
            sleep(LOOK).await;
        }
        assert_eq!(state(&lab.published.borrow().status, 1), "healthy", "requests = {requests}");
    }
}

/// Half of the backends at most, and it says so.
#[tokio::test(start_paused = true)]
async fn signals_never_take_more_than_half_of_the_backends() {
    let (mut lab, _) = lab(5, PassiveSpec { check_after: 0, ..PassiveSpec::default() }).await;
    (0..5).for_each(|i| load(&lab, i, 5 * REFUSED, 0));
    let s = lab.until(|s| s.services[0].in_state("suspect") == 2 && !s.dataplane.pending).await;
    assert_eq!(s.services[0].in_state("healthy"), 3);
    assert_eq!(lab.kernel.ring(), [3, 4, 5]);
    assert_eq!((signals(&lab, "refused", "suspect"), signals(&lab, "refused", "held")), (2.0, 3.0));
    assert_eq!(early_checks(&lab), 0.0, "off");
}

/// One that drains is not there for the others.
#[tokio::test(start_paused = true)]
async fn draining_backends_are_none_to_fall_back_on() {
    let (lab, _) = lab(2, PassiveSpec::default()).await;
    quiet(&lab);
    lab.ask(|service, backend| Change::Drain { service, backend, deadline: None }, 0).await.unwrap();
    sleep(SECOND).await;
    load(&lab, 1, 50 * REFUSED, 0);
    sleep(SECOND).await;
    assert_eq!(state(&lab.published.borrow().status, 1), "healthy");
    assert_eq!(signals(&lab, "refused", "held"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn what_is_off_has_no_influence() {
    let (lab, _) = lab(3, PassiveSpec::OFF).await;
    let now = 2_000_000_000;
    lab.counters.set(|v| {
        let waits = Ctrl::new(State::Established, 0, 1, 1).with_waiting(true).0;
        (v.now, v.slots) = (now, vec![Slot { ctrl: waits, waiting_since: 0, ..Slot::EMPTY }]);
    });
    for n in 1..100 {
        (0..3).for_each(|i| load(&lab, i, n * 50 * (REFUSED + UNANSWERED), n * 1000));
        sleep(LOOK).await;
    }
    let s = lab.published.borrow().status.clone();
    assert_eq!(s.services[0].in_state("healthy"), 3);
    assert_eq!(lab.counters.scans(), 0, "nobody asks how long flows wait");
    assert_eq!(early_checks(&lab), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_waits_too_long_counts_until_it_has_its_answer() {
    let oldest_waiting = 600 * SECOND;
    let (mut lab, _) = lab(3, PassiveSpec { oldest_waiting, ..PassiveSpec::OFF }).await;
    let minutes = |n: u32| lb_common::abi::ticks_of_seconds(60 * n);
    let slot = Slot { ctrl: Ctrl::new(State::Established, 0, 2, 1).with_waiting(true).0, ..Slot::EMPTY };
    lab.counters.set(|v| (v.now, v.slots) = (minutes(9), vec![slot]));
    sleep(60 * SECOND).await;
    assert_eq!(state(&lab.published.borrow().status, 1), "healthy");
    lab.counters.set(|v| v.now = minutes(11));
    let s = lab.until(|s| state(s, 1) == "suspect").await;
    assert_eq!(s.services[0].backends[1].why, "a flow has waited for 660 s");
    sleep(300 * SECOND).await;
    assert_eq!(state(&lab.published.borrow().status, 1), "suspect", "good checks change nothing");
    lab.counters.set(|v| v.slots.clear());
    lab.until(|s| state(s, 1) == "healthy").await;
    assert_eq!(signals(&lab, "oldest_waiting", "suspect"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn counters_that_cannot_be_read_are_an_error_and_no_signal() {
    let (mut lab, _) = lab(2, PassiveSpec::default()).await;
    lab.counters.set(|v| v.broken = true);
    let s = lab.until(|s| s.dataplane.last_error.is_some()).await;
    let said = "passive health: counters cannot be read: counters: broken";
    assert_eq!(s.dataplane.last_error.as_deref(), Some(said));
    assert_eq!(s.services[0].in_state("healthy"), 2);
}
