//! The whole loop, on a fake kernel and a paused clock.

mod drains;
mod passive;
mod reload;
mod requests;

use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};

use super::driver::{RESYNC, SWEEP};
use super::testing::{Lab, SharedKernel, core, hops};
use super::writer::{BATCH, SPACING};
use crate::dataplane::{Dataplane, Op};
use crate::health::fsm::CheckResult;
use crate::model::HealthState::{Dead, Healthy, Suspect};

/// The promise of the product.
const PROMISE: Duration = Duration::from_millis(100);

/// The value of a series in the exposition.
fn metric(lab: &Lab, series: &str) -> f64 {
    let text = lab.metrics.text().unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
    line.unwrap_or_else(|| panic!("no {series} in\n{text}"))
}

async fn all_healthy(lab: &mut Lab) {
    for i in 0..lab.service.backends.len() {
        lab.check(i, CheckResult::Ok, Some(Healthy)).await;
    }
    lab.until(|s| s.is_ready() && !s.dataplane.pending && !s.services[0].fail_open).await;
}

#[tokio::test(start_paused = true)]
async fn it_starts_failing_open_and_is_ready_after_the_first_checks() {
    let mut lab = Lab::start(3);
    assert_eq!(lab.kernel.ring(), [1, 2, 3]);
    assert_eq!(lab.kernel.lock().attached["eth0"], 2);
    let s = lab.until(|s| !s.interfaces.is_empty() && s.services[0].backends.len() == 3).await;
    assert!(s.services[0].fail_open);
    assert_eq!(s.not_ready.len(), 3, "{:?}", s.not_ready);
    assert!(s.not_ready[0].starts_with("superset/superset-"), "{:?}", s.not_ready);

    lab.check(0, CheckResult::Ok, Some(Healthy)).await;
    lab.check(1, CheckResult::Refused, None).await;
    lab.check(2, CheckResult::Refused, None).await;
    let s = lab.until(|s| s.is_ready() && !s.dataplane.pending).await;
    assert_eq!(lab.kernel.ring(), [1]);
    assert!(!s.services[0].fail_open);
    let [up, waiting, _] = &s.services[0].backends[..] else { panic!() };
    assert_eq!((up.state.as_str(), up.in_ring), ("healthy", true));
    assert_eq!(
        (waiting.state.as_str(), waiting.why.as_str()),
        ("starting", "connection refused (within grace)")
    );
    assert!(metric(&lab, "lb_ready") > 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_decision_is_in_the_kernel_within_100_ms() {
    let mut lab = Lab::start(3);
    all_healthy(&mut lab).await;
    sleep(Duration::from_secs(1)).await;
    let decided = Instant::now();
    lab.check(1, CheckResult::Refused, Some(Dead)).await;
    let s = lab.until(|s| s.services[0].backends[1].state == "dead" && !s.dataplane.pending).await;
    assert_eq!(lab.kernel.ring(), [1, 3]);
    let written = *lab.kernel.lock().rings.last().unwrap();
    assert!(written - decided <= BATCH + Duration::from_millis(2), "{:?}", written - decided);
    assert!(s.services[0].backends[1].why.contains("connection refused"));
    assert_eq!(metric(&lab, "lb_backend_up{backend=\"superset-2\",service=\"superset\"}"), 0.0);
    let moved = metric(&lab, "lb_ring_moved_slots{service=\"superset\"}");
    assert!((20_000.0..24_000.0).contains(&moved), "a third of 65,537, seen {moved}");
}

/// The loop wakes for each step by itself, and not once more.
#[tokio::test(start_paused = true)]
async fn a_backend_that_was_dead_gets_its_share_step_by_step() {
    let mut lab = Lab::start(3);
    all_healthy(&mut lab).await;
    let kernel = lab.kernel.clone();
    let weights = || kernel.lock().maps.tables().backends.values().map(|b| b.weight).collect::<Vec<_>>();
    assert_eq!(weights(), [100, 100, 100], "nobody is a newcomer when the agent starts");
    lab.check(1, CheckResult::Refused, Some(Dead)).await;
    lab.until(|s| !s.services[0].backends[1].in_ring).await;
    lab.check(1, CheckResult::Ok, Some(Healthy)).await;
    for step in 1..=9 {
        sleep(Duration::from_millis(500)).await;
        assert_eq!(weights(), [100, step * 10, 100]);
        let percent = Some(u8::try_from(step * 10).unwrap());
        lab.until(|s| s.services[0].backends[1].slow_start == percent).await;
        let ratio = metric(&lab, "lb_backend_slow_start_ratio{backend=\"superset-2\",service=\"superset\"}");
        assert!((ratio - f64::from(step) / 10.0).abs() < 1e-9);
        sleep(Duration::from_millis(500)).await;
    }
    sleep(Duration::from_millis(500)).await;
    assert_eq!(weights(), [100, 100, 100]);
    lab.until(|s| s.services[0].backends[1].slow_start.is_none()).await;
    let writes = kernel.lock().maps.writes();
    sleep(RESYNC * 4).await;
    assert_eq!(kernel.lock().maps.writes(), writes);
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_decisions_is_written_in_batches_and_each_in_time() {
    let mut lab = Lab::start(4);
    all_healthy(&mut lab).await;
    sleep(Duration::from_secs(1)).await;
    let (before, start) = (lab.kernel.lock().rings.len(), Instant::now());
    for n in 0..100 {
        let state = if n % 2 == 0 { Suspect } else { Healthy };
        lab.check(n % 3, CheckResult::Timeout, Some(state)).await;
        sleep(Duration::from_millis(7)).await;
    }
    sleep(Duration::from_secs(1)).await;
    let kernel = lab.kernel.lock();
    let writes = &kernel.rings[before..];
    let most = (Duration::from_millis(700).as_millis() / SPACING.as_millis()) as usize + 2;
    assert!(writes.len() <= most, "{} writes in {:?}", writes.len(), start.elapsed());
    assert!(writes.windows(2).all(|w| w[1] - w[0] >= SPACING));
    drop(kernel);
    let within = metric(&lab, "lb_ring_rebuild_seconds_bucket{le=\"0.1\"}");
    assert_eq!(within, metric(&lab, "lb_ring_rebuild_seconds_count"));
    assert!(BATCH.max(SPACING) < PROMISE);
}

#[tokio::test(start_paused = true)]
async fn a_refused_write_is_reported_and_tried_again_until_it_is_in() {
    let mut lab = Lab::start(3);
    all_healthy(&mut lab).await;
    lab.kernel.lock().refuse = 4;
    lab.check(0, CheckResult::Refused, Some(Dead)).await;
    let s = lab.until(|s| s.dataplane.pending && s.dataplane.errors > 0).await;
    assert_eq!(lab.kernel.ring(), [1, 2, 3]);
    let error = s.dataplane.last_error.clone().unwrap();
    assert!(error.contains("map RINGS: a fault that was asked for"), "{error}");
    assert_eq!(metric(&lab, "lb_dataplane_pending"), 1.0);

    let s = lab.until(|s| !s.dataplane.pending).await;
    assert_eq!(lab.kernel.ring(), [2, 3]);
    assert_eq!(s.dataplane.errors, 4);
    assert!(s.dataplane.last_error.is_some(), "kept for whoever looks later");
    assert_eq!(metric(&lab, "lb_dataplane_errors_total{operation=\"apply\"}"), 4.0);
    assert_eq!(metric(&lab, "lb_dataplane_pending"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_kernel_that_refuses_for_ever_is_asked_ever_less_often() {
    let mut lab = Lab::start(3);
    all_healthy(&mut lab).await;
    lab.kernel.lock().refuse = usize::MAX;
    lab.check(0, CheckResult::Refused, Some(Dead)).await;
    sleep(Duration::from_secs(60)).await;
    let refused = lab.kernel.lock().refused;
    assert!((10..=20).contains(&refused), "{refused} attempts in a minute");
    lab.kernel.lock().refuse = 0;
    lab.until(|s| !s.dataplane.pending).await;
    assert_eq!(lab.kernel.ring(), [2, 3]);
}

#[tokio::test(start_paused = true)]
async fn what_someone_else_changed_is_found_counted_and_put_right() {
    let mut lab = Lab::start(3);
    all_healthy(&mut lab).await;
    let key = lab.service.key();
    lab.kernel.lock().maps.apply(&Op::RemoveServiceId(key)).unwrap();
    sleep(RESYNC * 2).await;
    assert_eq!(lab.kernel.lock().maps.tables().service_ids.get(&key), Some(&0));
    let s = lab.until(|s| s.dataplane.drift > 0).await;
    assert_eq!(s.dataplane.drift, 1);
    assert_eq!(metric(&lab, "lb_dataplane_drift_total"), 1.0);
    sleep(RESYNC * 3).await;
    assert_eq!(metric(&lab, "lb_dataplane_drift_total"), 1.0, "found once");
}

#[tokio::test(start_paused = true)]
async fn a_replaced_interface_is_attached_anew_and_a_lost_one_is_not_ready() {
    let mut lab = Lab::start(2);
    all_healthy(&mut lab).await;
    lab.hops.send_replace(hops(None, std::slice::from_ref(&lab.service)).into());
    let s = lab.until(|s| !s.is_ready()).await;
    assert_eq!(s.not_ready, ["interface eth0: the program is not attached"]);
    assert_eq!(s.interfaces[0].xdp_mode, "detached");
    lab.hops.send_replace(hops(Some(9), std::slice::from_ref(&lab.service)).into());
    let s = lab.until(|s| s.is_ready() && !s.dataplane.pending).await;
    assert_eq!(lab.kernel.lock().attached["eth0"], 9);
    assert_eq!((s.interfaces[0].ifindex, s.interfaces[0].xdp_mode.as_str()), (9, "native"));
    assert!(lab.kernel.lock().maps.tables().node.ports.iter().any(|p| p.ifindex == 9));
}

#[tokio::test(start_paused = true)]
async fn attaching_that_failed_is_tried_again() {
    let mut lab = Lab::start(2);
    all_healthy(&mut lab).await;
    lab.kernel.lock().no_attach = true;
    lab.hops.send_replace(hops(Some(9), std::slice::from_ref(&lab.service)).into());
    let s = lab.until(|s| !s.is_ready()).await;
    assert!(s.dataplane.last_error.as_deref().unwrap().contains("interface eth0: cannot attach"));
    lab.kernel.lock().no_attach = false;
    lab.until(crate::status::Status::is_ready).await;
    assert_eq!(lab.kernel.lock().attached["eth0"], 9);
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_cannot_be_reached_is_named_with_the_reason() {
    let mut lab = Lab::start(2);
    all_healthy(&mut lab).await;
    let mut lost = hops(Some(2), std::slice::from_ref(&lab.service));
    lost.next.remove(&lab.service.backends[0].address.ip());
    lab.hops.send_replace(lost.into());
    let s = lab.until(|s| s.unresolved() == 1 && !s.dataplane.pending).await;
    assert_eq!(s.services[0].backends[0].unresolved.as_deref(), Some("not looked up yet"));
    assert_eq!(lab.kernel.ring(), [2]);
    assert_eq!(metric(&lab, "lb_unresolved_backends"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn flows_are_swept_and_a_stop_detaches() {
    let lab = Lab::start(2);
    sleep(SWEEP * 3 + SWEEP / 2).await;
    assert_eq!(lab.kernel.lock().closed, [[1, 2], [1, 2], [1, 2]]);
    assert_eq!(metric(&lab, "lb_flow_table_expired_total"), 6.0);
    let (kernel, published) = (lab.kernel.clone(), lab.published.clone());
    let mut core = lab.stop().await;
    assert!(!kernel.lock().attached.is_empty(), "the loop's end alone detaches nothing");
    core.stop();
    assert!(kernel.lock().attached.is_empty());
    assert!(published.borrow().status.not_ready.contains(&"the data path is not running".to_owned()));
}

/// Not at the next sweep, but when the kernel has it that the backend is dead; and once.
#[tokio::test(start_paused = true)]
async fn the_clients_of_a_dead_backend_are_told_at_once() {
    let mut lab = Lab::start(4);
    all_healthy(&mut lab).await;
    for state in [Suspect, Dead] {
        lab.check(1, CheckResult::Refused, Some(state)).await;
        lab.until(|s| s.services[0].backends[1].health == state.name() && !s.dataplane.pending).await;
        let decided = Instant::now();
        let due = if state == Dead { 1 } else { 0 };
        while lab.kernel.lock().resets.len() < due {
            sleep(Duration::from_millis(1)).await;
        }
        assert!(decided.elapsed() < Duration::from_millis(100), "{:?}", decided.elapsed());
        assert_eq!(metric(&lab, "lb_resets_sent_total"), f64::from(u8::try_from(due).unwrap()));
    }
    assert_eq!(lab.kernel.lock().closed, [[1, 2, 3, 4]]);
    // Whoever is dead is told of once, as long as nothing of it is left.
    lab.check(0, CheckResult::Timeout, Some(Suspect)).await;
    lab.until(|s| s.services[0].backends[0].health == "suspect" && !s.dataplane.pending).await;
    assert_eq!(lab.kernel.lock().closed.len(), 1);

    lab.kernel.lock().no_resets = true;
    lab.check(2, CheckResult::Refused, Some(Dead)).await;
    while metric(&lab, "lb_dataplane_errors_total{operation=\"reset\"}") < 1.0 {
        sleep(Duration::from_millis(1)).await;
    }
    let s = lab.until(|s| !s.dataplane.pending).await;
    assert_eq!(s.services[0].backends[2].health, "dead");
    assert_eq!(lab.kernel.lock().resets.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_leaves_nothing_attached() {
    let kernel = SharedKernel::default();
    kernel.lock().no_attach = true;
    let (mut agent, ..) = core(kernel.clone(), 2);
    let e = agent.start().unwrap_err().to_string();
    assert_eq!(e, "interface eth0: cannot attach the program: attach: a fault that was asked for");
    assert!(kernel.lock().attached.is_empty());

    let kernel = SharedKernel::default();
    kernel.lock().refuse = 1;
    let (mut agent, ..) = core(kernel.clone(), 2);
    assert!(agent.start().unwrap_err().to_string().starts_with("cannot write: map RINGS"));
    assert!(kernel.lock().attached.is_empty());
}
