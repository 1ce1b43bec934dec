use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::timeout;

use super::testing::{Behaviour, Server};
use super::*;
use crate::model::{BackendSpec, DrainSpec, Forwarding, PassiveSpec, Policy, ProbeKind, Scheduler};
use HealthState::{Dead, Healthy, Starting, Suspect};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// A test that waits this long for a change has failed.
const PATIENCE: Duration = Duration::from_secs(20);

fn rules(interval: Duration, timeout: Duration) -> HealthSpec {
    HealthSpec {
        probe: ProbeKind::Http {
            path: "/health".into(),
            host: None,
            headers: vec![],
            status: (200, 200),
            body: None,
        },
        interval,
        timeout,
        rise: 2,
        fall: 3,
        grace: Duration::ZERO,
        dead_after: 30 * SECOND,
        passive: PassiveSpec::default(),
    }
}

fn service(health: &HealthSpec, backends: impl IntoIterator<Item = SocketAddr>) -> ServiceSpec {
    let backend = |address: SocketAddr| BackendSpec::new(address.to_string(), address);
    ServiceSpec {
        name: "superset".into(),
        vip: SocketAddr::from(([10, 77, 0, 100], 80)),
        forwarding: Forwarding::Nat,
        scheduler: Scheduler::Maglev,
        policy: Policy::default(),
        requests: true,
        health: health.clone(),
        drain: DrainSpec::default(),
        backends: backends.into_iter().map(backend).collect(),
    }
}

/// An address for checks that are not made for real.
fn host(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 77, 0, n], 8088))
}

/// The next change of any backend, and the results before it.
async fn next_change(reports: &mut mpsc::Receiver<CheckObservation>) -> (CheckObservation, Transition) {
    let change = async {
        loop {
            let observation = reports.recv().await.unwrap();
            if let Some(change) = observation.change {
                return (observation, change);
            }
        }
    };
    timeout(PATIENCE, change).await.expect("a change of state")
}

/// Kill, silence and return of a real server.
#[tokio::test]
async fn a_backend_comes_goes_and_comes_back() {
    let good = Behaviour::answer("200 OK", "OK");
    let server = Server::start(good.clone()).await;
    let address = server.address;
    let (mut checker, mut reports) = Checker::new();
    // Slow answers are told from good ones by a time-out that no good answer on loopback needs.
    let spec = rules(20 * MS, 250 * MS);
    checker.set_targets(&[service(&spec, [address])]).unwrap();

    let (seen, change) = next_change(&mut reports).await;
    assert_eq!((change.from, change.to, change.why), (Starting, Healthy, Why::FirstGood));
    assert_eq!(checker.states(), BTreeMap::from([(seen.key, Healthy)]));

    server.stop().await;
    let (_, change) = next_change(&mut reports).await;
    assert_eq!((change.from, change.to), (Healthy, Dead));
    assert_eq!(change.why, Why::Failed(3, CheckResult::Refused));

    let server = Server::start_at(address, good.clone()).await;
    let (_, change) = next_change(&mut reports).await;
    assert_eq!((change.from, change.to, change.why), (Dead, Healthy, Why::Recovered(2)));

    server.stop().await;
    // Between the two servers a check may be refused: too few to be dead, as this one listens at once.
    let _hung = Server::start_at(address, Behaviour::silent()).await;
    let (_, change) = next_change(&mut reports).await;
    assert_eq!((change.from, change.to), (Healthy, Suspect));
    assert!(matches!(change.why, Why::Failed(3, CheckResult::Timeout)), "{}", change.why);
    let health = checker.snapshot()[&seen.key];
    assert_eq!((health.state, health.why), (Suspect, Some(change.why)));
    assert_eq!(health.last_result, Some(CheckResult::Timeout));
}

#[tokio::test]
async fn hung_backends_do_not_hold_up_others() {
    let mut hung = Vec::new();
    for _ in 0..3 {
        hung.push(Server::start(Behaviour::silent()).await);
    }
    let good = Server::start(Behaviour::answer("200 OK", "OK")).await;
    let (mut checker, mut reports) = Checker::new();
    let all = hung.iter().map(|server| server.address).chain([good.address]);
    checker.set_targets(&[service(&rules(20 * MS, PATIENCE), all)]).unwrap();
    for _ in 0..10 {
        let observation = timeout(PATIENCE / 2, reports.recv()).await.unwrap().unwrap();
        assert_eq!(observation.key.address, good.address);
        assert_eq!(observation.result, CheckResult::Ok);
    }
    assert!(!checker.first_round_done(), "three checks are under way");
    for server in &mut hung {
        // A second request would mean that checks of one backend overlap.
        assert!(server.requests.recv().await.is_some());
        assert!(server.requests.try_recv().is_err());
    }
    // No check outlives its checker.
    drop(checker);
    for server in &mut hung {
        assert!(server.ends.recv().await.unwrap().is_err());
    }
    let rest = async { while reports.recv().await.is_some() {} };
    timeout(PATIENCE, rest).await.expect("every task has ended");
}

/// A checker on the paused clock whose checks take `duration(address)` and end as `result(address)` says.
fn simulated(
    duration: impl Fn(SocketAddr) -> Duration + Send + Sync + 'static,
    result: impl Fn(SocketAddr) -> CheckResult + Send + Sync + 'static,
) -> (Checker, mpsc::Receiver<CheckObservation>) {
    Checker::with_check(Arc::new(move |probe| {
        let (duration, result) = (duration(probe.address()), result(probe.address()));
        Box::pin(async move {
            tokio::time::sleep(duration).await;
            Checked { result, duration }
        })
    }))
}

/// Observations of the next `time`.
async fn observe(reports: &mut mpsc::Receiver<CheckObservation>, time: Duration) -> Vec<CheckObservation> {
    let end = Instant::now() + time;
    let mut seen = Vec::new();
    while let Ok(Some(observation)) = tokio::time::timeout_at(end, reports.recv()).await {
        assert_eq!(observation.at, Instant::now(), "it arrives when it is made");
        seen.push(observation);
    }
    seen
}

/// When the checks of each backend started.
fn starts(seen: &[CheckObservation]) -> BTreeMap<SocketAddr, Vec<Instant>> {
    let mut starts: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for o in seen {
        starts.entry(o.key.address).or_default().push(o.at - o.duration);
    }
    starts
}

#[tokio::test(start_paused = true)]
async fn checks_start_at_once_and_then_keep_the_interval() {
    let (mut checker, mut reports) = simulated(|_| 300 * MS, |_| CheckResult::Ok);
    let begin = Instant::now();
    assert!(!checker.first_round_done());
    checker.set_targets(&[service(&rules(SECOND, SECOND), (1..=50).map(host))]).unwrap();
    assert!(!checker.first_round_done());
    let mut seen = observe(&mut reports, 450 * MS).await;
    assert!(checker.first_round_done());
    seen.extend(observe(&mut reports, 20 * SECOND).await);

    let starts = starts(&seen);
    assert_eq!(starts.len(), 50);
    let seconds: BTreeSet<_> = starts.values().map(|times| times[1]).collect();
    assert!(seconds.len() > 25, "second checks are spread: {} times", seconds.len());
    for times in starts.values() {
        assert!(times[0] - begin <= 101 * MS, "{:?}", times[0] - begin);
        assert!((18..=23).contains(&times.len()), "{} checks in 20 s", times.len());
        for pair in times[1..].windows(2) {
            let gap = pair[1] - pair[0];
            // The clock of tokio's tests goes by milliseconds.
            assert!((899 * MS..=1102 * MS).contains(&gap), "{gap:?} from start to start");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_check_is_followed_at_once_and_never_overlapped() {
    static RUNNING: AtomicUsize = AtomicUsize::new(0);
    let (mut checker, mut reports) = Checker::with_check(Arc::new(|_| {
        Box::pin(async {
            assert_eq!(RUNNING.fetch_add(1, Ordering::Relaxed), 0);
            tokio::time::sleep(3 * SECOND).await;
            RUNNING.fetch_sub(1, Ordering::Relaxed);
            Checked { result: CheckResult::Timeout, duration: 3 * SECOND }
        })
    }));
    checker.set_targets(&[service(&rules(SECOND, 3 * SECOND), [host(1)])]).unwrap();
    let seen = observe(&mut reports, 31 * SECOND).await;
    assert_eq!(seen.len(), 10, "one each 3 s");
}

#[tokio::test(start_paused = true)]
async fn grace_runs_from_when_a_backend_was_added() {
    let (mut checker, mut reports) = simulated(|_| MS, |_| CheckResult::Refused);
    let spec = HealthSpec { grace: 60 * SECOND, ..rules(2 * SECOND, SECOND) };
    observe(&mut reports, 100 * SECOND).await;
    let begin = Instant::now();
    checker.set_targets(&[service(&spec, [host(1)])]).unwrap();
    let seen = observe(&mut reports, 80 * SECOND).await;
    let seen = seen.iter().find(|o| o.change.is_some()).unwrap();
    assert_eq!(seen.change.map(|c| (c.from, c.to)), Some((Starting, Dead)));
    let took = seen.at - begin;
    assert!((63 * SECOND..67 * SECOND).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn what_stays_keeps_its_state_and_what_goes_is_forgotten() {
    let (mut checker, mut reports) =
        simulated(|_| MS, |address| if address == host(1) { CheckResult::Refused } else { CheckResult::Ok });
    let spec = rules(SECOND, SECOND);
    checker.set_targets(&[service(&spec, [host(1), host(2), host(3)])]).unwrap();
    observe(&mut reports, 10 * SECOND).await;
    let before = checker.snapshot();
    let by_address = |address| *before.iter().find(|(k, _)| k.address == address).unwrap().1;
    assert_eq!([1, 2, 3].map(|n| by_address(host(n)).state), [Dead, Healthy, Healthy]);
    assert!([1, 2, 3].iter().all(|n| by_address(host(*n)).consecutive >= 8), "{before:?}");

    // One goes, one comes, the order changes.
    checker.set_targets(&[service(&spec, [host(4), host(2), host(1)])]).unwrap();
    let after = checker.snapshot();
    for (key, health) in &after {
        match key.address == host(4) {
            true => assert_eq!((health.state, health.last_result), (Starting, None)),
            false => assert_eq!(health, &before[key]),
        }
    }
    assert!(checker.first_round_done(), "a reload does not take readiness away");
    let seen = observe(&mut reports, 10 * SECOND).await;
    assert_eq!(starts(&seen).into_keys().collect::<Vec<_>>(), [host(1), host(2), host(4)]);

    // Another interval and other counts, the same state.
    let faster = HealthSpec { interval: 100 * MS, fall: 5, ..spec };
    checker.set_targets(&[service(&faster, [host(1)])]).unwrap();
    assert_eq!(checker.states().into_values().collect::<Vec<_>>(), [Dead]);
    let seen = observe(&mut reports, 10 * SECOND).await;
    assert!((90..115).contains(&seen.len()), "{} checks in 10 s", seen.len());
    assert!(seen.iter().all(|o| o.change.is_none()));

    checker.set_targets(&[]).unwrap();
    assert!(checker.states().is_empty());
    assert_eq!(observe(&mut reports, 10 * SECOND).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_cannot_be_checked_changes_nothing() {
    let (mut checker, _reports) = simulated(|_| MS, |_| CheckResult::Ok);
    let good = service(&rules(SECOND, SECOND), [host(1)]);
    checker.set_targets(std::slice::from_ref(&good)).unwrap();
    let before = checker.states();
    let mut bad = good.clone();
    bad.health.probe = ProbeKind::Http {
        path: "health".into(),
        host: None,
        headers: vec![],
        status: (200, 200),
        body: None,
    };
    bad.backends[0].address = host(2);
    let error = checker.set_targets(&[good, bad]).unwrap_err().to_string();
    assert!(error.starts_with("service \"superset\": health: path \"health\""), "{error}");
    assert_eq!(checker.states(), before);
}

/// The agent's runtime has one thread, and a thousand backends are nothing out of the ordinary.
#[tokio::test(start_paused = true)]
async fn a_thousand_backends_fall_and_every_change_arrives() {
    let begin = Instant::now();
    let (mut checker, mut reports) = simulated(
        |_| MS,
        move |_| if begin.elapsed() < 5 * SECOND { CheckResult::Ok } else { CheckResult::Refused },
    );
    let all = (0..1000_u16).map(|n| {
        let [high, low] = n.to_be_bytes();
        SocketAddr::from(([10, 78, high, low], 8088))
    });
    checker.set_targets(&[service(&rules(SECOND, SECOND), all)]).unwrap();
    let seen = observe(&mut reports, 10 * SECOND).await;
    for (from, to, before) in [(Starting, Healthy, 102 * MS), (Healthy, Dead, 5 * SECOND + 3400 * MS)] {
        let changes: Vec<_> = seen.iter().filter(|o| o.change.is_some_and(|c| c.from == from)).collect();
        assert_eq!(changes.len(), 1000, "{from:?}");
        assert!(changes.iter().all(|o| o.change.is_some_and(|c| c.to == to) && o.at - begin <= before));
    }
    assert!(checker.states().into_values().all(|state| state == Dead));
}
