//! Reloads, on a fake kernel and a paused clock.

mod properties;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use super::drains::drain;
use super::*;
use crate::agent::testing::{config, service};
use crate::config::Config;
use crate::model::{BackendSpec, ServiceSpec};
use crate::status::reload::{ReloadReport, ReloadResult};
use crate::status::{BackendStatus, Status};

/// What checks find, by address; good where it is not said.
type Results = Arc<Mutex<BTreeMap<SocketAddr, CheckResult>>>;

/// A lab with so many backends, whose checks find what the results say.
fn checked(backends: u8) -> (Lab, Results) {
    let results = Results::default();
    let found = results.clone();
    let lab = Lab::checked(service(backends), move |address| {
        found.lock().unwrap().get(&address).copied().unwrap_or(CheckResult::Ok)
    });
    (lab, results)
}

/// The lab's service with these backends, by their numbers.
fn with_backends(numbers: &[u8]) -> ServiceSpec {
    let all = service(numbers.iter().copied().max().unwrap_or(0));
    let wanted = |b: &BackendSpec| numbers.iter().any(|n| b.name == format!("superset-{n}"));
    let backends = all.backends.iter().filter(|b| wanted(b)).cloned().collect();
    ServiceSpec { backends, ..all }
}

async fn ready(lab: &mut Lab) {
    lab.until(|s| s.is_ready() && !s.dataplane.pending && s.services[0].standing == "healthy").await;
}

fn backend<'a>(s: &'a Status, name: &str) -> &'a BackendStatus {
    s.services.iter().flat_map(|s| &s.backends).find(|b| b.name == name).unwrap()
}

fn reloads(lab: &Lab, result: ReloadResult) -> f64 {
    metric(lab, &format!("lb_config_reloads_total{{result=\"{}\"}}", result.name()))
}

fn is_success(report: &ReloadReport, changes: &[&str]) {
    assert_eq!((report.result, &report.errors), (ReloadResult::Success, &vec![]));
    assert_eq!(report.changes, changes);
}

#[tokio::test(start_paused = true)]
async fn backends_come_and_go_and_the_others_stay_as_they_are() {
    let (mut lab, results) = checked(3);
    ready(&mut lab).await;
    let boots = service(4).backends[3].address;
    results.lock().unwrap().insert(boots, CheckResult::Refused);
    let before = lab.published.borrow().status.clone();
    let entries = lab.kernel.lock().maps.tables().backends.clone();
    let asked = Instant::now();
    let report = lab.reload(vec![with_backends(&[1, 2, 4])]).await;
    let changes = [
        "backend superset/superset-3: removed (10.77.0.13:8088)",
        "backend superset/superset-4: added (10.77.0.14:8088)",
    ];
    is_success(&report, &changes);
    assert!(report.pending, "it was decided a moment ago");
    let s = lab.until(|s| !s.dataplane.pending).await;
    assert!(asked.elapsed() <= PROMISE, "{:?}", asked.elapsed());
    assert!(s.is_ready(), "a newcomer keeps the node from nothing: {:?}", s.not_ready);
    assert_eq!(lab.kernel.ring(), [1, 2]);
    for name in ["superset-1", "superset-2"] {
        assert_eq!(backend(&s, name), backend(&before, name));
    }
    let new = backend(&s, "superset-4");
    assert_eq!((new.state.as_str(), new.id), ("starting", Some(4)));
    {
        let kernel = lab.kernel.lock();
        let now = &kernel.maps.tables().backends;
        assert_eq!((now[&1], now[&2]), (entries[&1], entries[&2]));
        assert!(!now[&3].is_live());
    }
    // Whoever waits for the one that is gone is told at once.
    while lab.kernel.lock().resets.is_empty() {
        sleep(Duration::from_millis(1)).await;
    }
    assert!(asked.elapsed() < 2 * PROMISE);

    // It begins with a tenth of its share.
    results.lock().unwrap().clear();
    let s = lab.until(|s| backend(s, "superset-4").slow_start == Some(10) && !s.dataplane.pending).await;
    assert_eq!((backend(&s, "superset-4").state.as_str(), lab.kernel.ring()), ("healthy", vec![1, 2, 4]));
    lab.until(|s| backend(s, "superset-4").slow_start.is_none()).await;
    assert_eq!(reloads(&lab, ReloadResult::Success), 1.0);

    // The one that was gone comes back as a new one.
    is_success(
        &lab.reload(vec![with_backends(&[1, 2, 3, 4])]).await,
        &["backend superset/superset-3: added (10.77.0.13:8088)"],
    );
    let s = lab.until(|s| backend(s, "superset-3").slow_start == Some(10)).await;
    assert_eq!((backend(&s, "superset-3").id, backend(&s, "superset-3").generation), (Some(3), Some(2)));
    is_success(&lab.reload(vec![with_backends(&[1, 2, 3, 4])]).await, &[]);
    assert_eq!(backend(&lab.published.borrow().status, "superset-3").slow_start, Some(10), "as it was");
    assert_eq!(lab.until(|s| !s.dataplane.pending).await.dataplane.errors, 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_changes_nothing_and_is_shown_until_a_reload_succeeds() {
    let (mut lab, _) = checked(2);
    ready(&mut lab).await;
    let start = lab.published.borrow().status.clone();
    let writes = lab.kernel.lock().maps.writes();
    assert_eq!(metric(&lab, "lb_config_last_reload_successful"), 1.0);
    let other = Config::clone(&config(vec![with_backends(&[1])]));
    let mut restart = other.clone();
    restart.nat.ports = (1024, 2047);
    restart.agent.admin.set_port(1);
    let broken = ["lb.toml:3: nat.rest: is wrong; correct it".to_owned(), "and more".to_owned()];
    let rows = [
        (Err(broken.to_vec()), ReloadResult::Invalid, ["nat.rest", "and more"]),
        (Ok(Arc::new(restart)), ReloadResult::RestartNeeded, ["agent.admin", "nat.ports"]),
    ];
    for (read, result, parts) in rows {
        let report = lab.read(read).await;
        assert_eq!((report.result, report.changes.len(), report.errors.len()), (result, 0, 2), "{report:?}");
        assert!(report.errors.iter().zip(parts).all(|(line, part)| line.contains(part)), "{report:?}");
        sleep(Duration::from_secs(5)).await;
        let s = lab.published.borrow().status.clone();
        let refused = s.config_refused.clone().unwrap();
        assert_eq!((refused.result, &refused.errors), (result, &report.errors));
        let without = Status { config_refused: None, ..Status::clone(&s) };
        assert_eq!(without, *start, "all as it was");
        assert_eq!(lab.kernel.lock().maps.writes(), writes);
        assert_eq!(reloads(&lab, result), 1.0);
        assert_eq!(metric(&lab, "lb_config_last_reload_successful"), 0.0);
        let text = crate::status::render::render(&s, SystemTime::now());
        assert!(text.contains("RELOAD REFUSED") && text.contains(&report.errors[1]), "{text}");
    }
    let at = metric(&lab, "lb_config_last_reload_success_timestamp_seconds");
    let report = lab.read(Ok(Arc::new(other))).await;
    is_success(&report, &["backend superset/superset-2: removed (10.77.0.12:8088)"]);
    let s = lab.until(|s| !s.dataplane.pending).await;
    assert_eq!((s.config_refused.clone(), lab.kernel.ring()), (None, vec![1]));
    assert_eq!(metric(&lab, "lb_config_last_reload_successful"), 1.0);
    assert!(metric(&lab, "lb_config_last_reload_success_timestamp_seconds") > at);
}

#[tokio::test(start_paused = true)]
async fn drains_outlive_reloads_and_end_with_their_backends() {
    let (mut lab, _) = checked(4);
    ready(&mut lab).await;
    lab.ask(drain, 0).await.unwrap();
    lab.ask(drain, 1).await.unwrap();
    lab.until(|s| backend(s, "superset-1").state == "drained" && !s.dataplane.pending).await;
    let is_drained = |s: &Status, name: &str| backend(s, name).drain.is_some() && !backend(s, name).in_ring;

    // Another weight, another VIP, another backend: it is still the same.
    let mut other = with_backends(&[1, 2, 3]);
    other.backends[0].weight = 7;
    other.vip = "10.77.0.101:443".parse().unwrap();
    let before = lab.published.borrow().status.clone();
    lab.reload(vec![other.clone()]).await;
    let s = lab.until(|s| !s.dataplane.pending).await;
    for name in ["superset-1", "superset-2"] {
        assert!(is_drained(&s, name), "{s:?}");
        let (now, was) = (backend(&s, name), backend(&before, name));
        assert_eq!((&now.drain, &now.health, now.since), (&was.drain, &was.health, was.since));
    }
    let kept = backend(&s, "superset-3");
    assert_eq!((kept.state.as_str(), kept.since), ("healthy", backend(&before, "superset-3").since));
    assert_eq!(s.services[0].standing, "healthy");
    // Its checks go on: it is not one that nobody looks at any more.
    let checks = "lb_health_checks_total{backend=\"superset-3\",result=\"ok\",service=\"superset\"}";
    let made = metric(&lab, checks);
    sleep(Duration::from_secs(10)).await;
    assert!(metric(&lab, checks) >= made + 4.0);

    // Another name, or another address, is another backend; and what is gone is drained no more.
    other.backends[0].name = "new".into();
    other.backends[1].address = "10.77.0.15:8088".parse().unwrap();
    lab.reload(vec![other.clone()]).await;
    let s = lab.until(|s| s.services[0].backends.iter().all(|b| b.in_ring) && !s.dataplane.pending).await;
    assert!(s.services[0].backends.iter().all(|b| b.drain.is_none() && b.state == "healthy"));
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_its_backend_does_not_outlive_is_counted() {
    let (mut lab, _) = checked(2);
    ready(&mut lab).await;
    lab.counters.set(|v| {
        v.loads.insert(
            1,
            lb_common::stats::BackendLoad { flows: 1, waiting: 1, ..lb_common::stats::BackendLoad::ZERO },
        );
    });
    lab.ask(drain, 0).await.unwrap();
    sleep(Duration::from_secs(30)).await;
    lab.reload(vec![with_backends(&[2])]).await;
    assert_eq!(metric(&lab, "lb_drains_total{result=\"removed\"}"), 1.0);
    let again = lab.ask(drain, 0).await.unwrap_err();
    assert_eq!(again.to_string(), "service superset has no backend superset-1; it has superset-2");
    sleep(RESYNC * 2).await;
    assert_eq!(metric(&lab, "lb_drains_total{result=\"removed\"}"), 1.0);
    assert_eq!(lab.kernel.ring(), [2]);
}

/// Who was dead or suspect is not healthy again because somebody wrote the file.
#[tokio::test(start_paused = true)]
async fn a_reload_heals_nobody() {
    let (mut lab, results) = checked(3);
    ready(&mut lab).await;
    let address = |n: usize| lab.service.backends[n].address;
    results.lock().unwrap().insert(address(0), CheckResult::Refused);
    results.lock().unwrap().insert(address(1), CheckResult::Timeout);
    let s = lab
        .until(|s| {
            backend(s, "superset-1").state == "dead"
                && backend(s, "superset-2").state == "suspect"
                && !s.dataplane.pending
        })
        .await;
    for round in 0..3u32 {
        let mut same = service(3);
        same.health.rise = 3 + round;
        same.health.interval = Duration::from_secs(3);
        is_success(&lab.reload(vec![same]).await, &["service superset: changed health"]);
        let now = lab.until(|s| !s.dataplane.pending).await;
        assert_eq!(now.services, s.services);
        assert_eq!(lab.kernel.ring(), [3]);
    }
    // From now on by the new numbers: five good ones in a row, three seconds apart.
    results.lock().unwrap().clear();
    let good = Instant::now();
    lab.until(|s| backend(s, "superset-2").state == "healthy").await;
    assert!(good.elapsed() >= Duration::from_secs(8), "{:?}", good.elapsed());
}

/// Two reloads before the kernel had the first one.
#[tokio::test(start_paused = true)]
async fn what_was_never_written_never_was() {
    let (mut lab, _) = checked(3);
    ready(&mut lab).await;
    let before = lab.kernel.lock().maps.tables().clone();
    lab.kernel.lock().refuse = 6;
    lab.reload(vec![with_backends(&[3])]).await;
    lab.until(|s| s.dataplane.errors > 2).await;
    lab.reload(vec![service(3)]).await;
    let s = lab
        .until(|s| !s.dataplane.pending && s.services[0].backends.iter().all(|b| b.state == "healthy"))
        .await;
    assert_eq!(s.services[0].backends.iter().map(|b| b.id).collect::<Vec<_>>(), [Some(1), Some(2), Some(3)]);
    // To the agent they are new all the same.
    lab.until(|s| s.services[0].backends.iter().all(|b| b.slow_start.is_none()) && !s.dataplane.pending)
        .await;
    let after = lab.kernel.lock().maps.tables().clone();
    assert_eq!(after.service_ids, before.service_ids);
    let live = after.backends.iter().filter(|(_, b)| b.is_live()).count();
    assert_eq!(live, 3);
}

/// They are told from the VIP that they know, which the tables do not have any more.
#[tokio::test(start_paused = true)]
async fn clients_of_a_removed_service_are_told_at_once() {
    let (mut lab, _) = checked(2);
    ready(&mut lab).await;
    for round in 1..=2 {
        let told = lab.kernel.lock().resets.len();
        is_success(&lab.reload(vec![]).await, &["service superset: removed, with its backends"]);
        let asked = Instant::now();
        while lab.kernel.lock().resets.len() < told + 2 {
            assert!(asked.elapsed() < Duration::from_secs(1), "round {round}");
            sleep(Duration::from_millis(1)).await;
        }
        assert!(lab.kernel.lock().maps.tables().services.is_empty());
        lab.reload(vec![service(2)]).await;
        ready(&mut lab).await;
    }
}
