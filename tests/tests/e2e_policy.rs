//! End to end: who gets new connections, by zone, priority, floor and slow start.
#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::collections::BTreeMap;

use lb_agent::status::ServiceStatus;
use lb_tests::e2e::{LIMIT, Stand, service};
use lb_tests::lab::{Settings, Topology, backend_host, wait_until};
use lb_tests::packet::world::Family;
use lb_tests::require_agent;
use nix::sys::signal::Signal;

fn stand(settings: Settings) -> Stand {
    Stand::with(Topology::two_arm(3), &Settings { scheduler: "least-waiting", ..settings }).unwrap()
}

/// How many of 150 new connections this server answers.
fn answered(servers: &BTreeMap<String, u64>, n: u8) -> u64 {
    servers.get(&backend_host(n)).copied().unwrap_or(0)
}

/// Waits until the agent says this of both services.
fn wait_for(stand: &Stand, what: &str, holds: impl Fn(&ServiceStatus) -> bool) {
    let mut last = None;
    let all = || {
        last = stand.status().ok();
        last.as_ref().is_some_and(|status| status.services.iter().all(&holds))
    };
    let found = wait_until(what, LIMIT, all);
    assert!(found.is_ok(), "{found:?}: {last:?}");
}

fn signal(stand: &mut Stand, n: u8, signal: Signal) {
    stand.servers.process(n).unwrap().signal(signal).unwrap();
}

fn metric(stand: &Stand, family: Family, name: &str) -> f64 {
    stand.metrics().unwrap().sum(name, &[("service", service(family))]).unwrap()
}

#[test]
fn new_connections_stay_in_the_zone() {
    require_agent!("new_connections_stay_in_the_zone");
    const NEAR: u8 = 2;
    let mut stand = stand(Settings {
        agent: "zone = \"here\"\n".into(),
        // A machine that runs tests stalls: some connections wait at the same time.
        service: "zone_spill = 20.0\n",
        backend: |n| if n == NEAR { "zone = \"here\"\n" } else { "zone = \"there\"\n" },
        ..Settings::default()
    });
    for family in Family::BOTH {
        let servers = stand.flawless(family).unwrap();
        assert!(answered(&servers, NEAR) > 135, "{servers:?}");
        assert_eq!(metric(&stand, family, "lb_backend_near"), 1.0);
    }
    assert!(stand.command(&["status"]).unwrap().contains("near"));
    stand.servers.kill(NEAR);
    for family in Family::BOTH {
        stand.wait_for(family, NEAR, "is dead", |b| b.state == "dead" && !b.in_ring && !b.near).unwrap();
        let servers = stand.flawless(family).unwrap();
        assert!(answered(&servers, 1) > 30 && answered(&servers, 3) > 30, "{servers:?}");
    }
    stand.servers.start_one(&stand.lab, NEAR, &[]).unwrap();
    for family in Family::BOTH {
        stand.wait_for(family, NEAR, "is back", |b| b.near).unwrap();
        let servers = stand.flawless(family).unwrap();
        assert!(answered(&servers, NEAR) > 135, "{servers:?}");
    }
    stand.check().unwrap();
}

#[test]
fn a_backend_that_stands_by_serves_when_the_others_are_gone() {
    require_agent!("a_backend_that_stands_by_serves_when_the_others_are_gone");
    const SPARE: u8 = 3;
    let backend = |n| if n == SPARE { "priority = 1\n" } else { "" };
    let mut stand = stand(Settings { backend, ..Settings::default() });
    assert!(stand.command(&["status"]).unwrap().contains("standby"));
    for family in Family::BOTH {
        assert_eq!(answered(&stand.flawless(family).unwrap(), SPARE), 0);
        assert_eq!(metric(&stand, family, "lb_service_priority"), 0.0);
    }
    (1..=2).for_each(|n| stand.servers.kill(n));
    wait_for(&stand, "the spare one serves", |s| s.priority == Some(1));
    for family in Family::BOTH {
        assert_eq!(answered(&stand.flawless(family).unwrap(), SPARE), 150);
        assert_eq!(metric(&stand, family, "lb_service_priority"), 1.0);
        assert_eq!(metric(&stand, family, "lb_service_fail_open"), 0.0);
    }
    stand.servers.start_one(&stand.lab, 1, &[]).unwrap();
    wait_for(&stand, "the first one is back", |s| s.priority == Some(0));
    for family in Family::BOTH {
        assert_eq!(answered(&stand.flawless(family).unwrap(), 1), 150);
    }
    stand.check().unwrap();
}

#[test]
fn below_the_floor_suspect_backends_are_used_again() {
    require_agent!("below_the_floor_suspect_backends_are_used_again");
    let mut stand = stand(Settings { service: "min_healthy = \"50%\"\n", ..Settings::default() });
    let in_ring = |s: &ServiceStatus| s.backends.iter().filter(|b| b.in_ring).count();
    signal(&mut stand, 1, Signal::SIGSTOP);
    wait_for(&stand, "one is suspect", |s| s.backends[0].state == "suspect" && in_ring(s) == 2);
    signal(&mut stand, 2, Signal::SIGSTOP);
    wait_for(&stand, "two are suspect", |s| s.standing == "below-floor" && in_ring(s) == 3);
    for family in Family::BOTH {
        assert_eq!(metric(&stand, family, "lb_service_below_floor"), 1.0);
        assert_eq!(metric(&stand, family, "lb_service_fail_open"), 0.0);
    }
    assert!(stand.agent.log().contains("below min_healthy"));
    (1..=2).for_each(|n| signal(&mut stand, n, Signal::SIGCONT));
    wait_for(&stand, "all are back", |s| s.standing == "healthy" && in_ring(s) == 3);
    for family in Family::BOTH {
        assert_eq!(metric(&stand, family, "lb_service_below_floor"), 0.0);
        assert_eq!(stand.flawless(family).unwrap().len(), 3);
    }
    stand.check().unwrap();
}

#[test]
fn a_backend_that_returns_starts_slowly() {
    require_agent!("a_backend_that_returns_starts_slowly");
    const RETURNS: u8 = 2;
    let mut stand = stand(Settings { service: "slow_start = \"20s\"\n", ..Settings::default() });
    let ratio = |stand: &Stand, family| metric(stand, family, "lb_backend_slow_start_ratio");
    for family in Family::BOTH {
        assert_eq!(ratio(&stand, family), 3.0, "nobody is a newcomer when the agent starts");
    }
    stand.servers.kill(RETURNS);
    wait_for(&stand, "it is dead", |s| s.backends[1].state == "dead");
    stand.servers.start_one(&stand.lab, RETURNS, &[]).unwrap();
    wait_for(&stand, "it begins", |s| s.backends[1].slow_start.is_some());
    for family in Family::BOTH {
        let servers = stand.flawless(family).unwrap();
        // With its whole weight it would have 50; with three tenths it has 20.
        assert!(answered(&servers, RETURNS) < 35, "{servers:?}");
    }
    for family in Family::BOTH {
        assert!(ratio(&stand, family) < 3.0);
    }
    wait_for(&stand, "it has its whole share", |s| s.backends[1].slow_start.is_none());
    for family in Family::BOTH {
        assert_eq!(ratio(&stand, family), 3.0);
        let servers = stand.flawless(family).unwrap();
        assert!(answered(&servers, RETURNS) > 35, "{servers:?}");
    }
    stand.check().unwrap();
}
