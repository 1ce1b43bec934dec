//! End to end: nobody's attempt to connect fails when a backend is lost, between the loss and the checks that notice it.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "that is how a test fails, and says what it saw"
)]

use std::time::{Duration, Instant};

use lb_tests::e2e::Stand;
use lb_tests::lab::{Topology, backend_host};
use lb_tests::packet::world::Family;
use lb_tests::proof::attempts::{Attempts, Plan, Until};
use lb_tests::require_agent;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// New connections a second, for so long, of which the backend is there for the first part.
const RATE: u32 = 200;
const TOTAL: Duration = Duration::from_secs(6);
const BEFORE: Duration = Duration::from_secs(1);
const COUNT: u32 = 1200;
/// For connecting and the answer: longer than anything takes that goes well.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longer than one SYN that is lost: a second, and what a busy machine adds.
const SLOW: Duration = Duration::from_secs(3);
const VICTIM: u8 = 2;

/// Connects at a steady rate, loses a backend meanwhile, and gives how long each took to connect, the longest last, and how many had
/// no answer.
fn under_load(stand: &Stand, what: &str, lose: impl FnOnce()) -> (Vec<Duration>, usize) {
    let client = stand.client().unwrap();
    let target = stand.topology().vip(Family::V4);
    let (path, until) = ("/".to_owned(), Until::Count(COUNT));
    let start = Instant::now();
    let load = Attempts::start(
        &client,
        Plan { target, path, headers: String::new(), rate: RATE, until, patience: PATIENCE },
    );
    std::thread::sleep(BEFORE.saturating_sub(start.elapsed()));
    lose();
    let attempts = load.finish(&client).unwrap();
    let failed: Vec<_> = attempts.iter().filter_map(|a| a.connected.err()).collect();
    let unanswered = attempts.iter().filter(|a| a.connected.is_ok() && a.answered.is_err()).count();
    let mut times: Vec<_> = attempts.iter().filter_map(|a| a.connected.ok()).collect();
    times.sort_unstable();
    let late = times.iter().filter(|t| **t > Duration::from_millis(500)).count();
    eprintln!(
        "{what}: {} attempts, {} failed, {unanswered} unanswered, {late} above 0.5 s, longest {:?}",
        attempts.len(),
        failed.len(),
        times.last()
    );
    assert!(failed.is_empty(), "{what}: {} attempts failed: {failed:?}", failed.len());
    (times, unanswered)
}

/// The process of the server that is lost.
fn victim(stand: &mut Stand) -> Pid {
    Pid::from_raw(i32::try_from(stand.servers.process(VICTIM).unwrap().pid()).unwrap())
}

/// What was sent to a backend before it was lost may be lost with it, and no more than that.
const IN_FLIGHT: usize = 20;

#[test]
fn no_attempt_fails_when_a_server_is_killed() {
    require_agent!("no_attempt_fails_when_a_server_is_killed");
    let mut stand = Stand::new(Topology::two_arm).unwrap();
    let pid = victim(&mut stand);
    let (times, unanswered) = under_load(&stand, "SIGKILL", || kill(pid, Signal::SIGKILL).unwrap());
    assert!(unanswered <= IN_FLIGHT, "{unanswered} requests in flight");
    assert!(times.iter().all(|t| *t < SLOW), "{:?}", times.last());
    let retried = stand.metrics().unwrap().sum("lb_packets_total", &[("reason", "syn-retried")]).unwrap();
    assert!(retried > 0.0, "the killed server refused nobody");
    stand.check().unwrap();
}

#[test]
fn no_attempt_fails_when_a_backend_is_unplugged() {
    require_agent!("no_attempt_fails_when_a_backend_is_unplugged");
    let stand = Stand::new(Topology::two_arm).unwrap();
    let (times, unanswered) = under_load(&stand, "link down", || {
        stand.lab.exec(&backend_host(VICTIM), &["ip", "link", "set", "eth0", "down"]).unwrap();
    });
    assert!(unanswered <= IN_FLIGHT, "{unanswered} requests in flight");
    let slow = times.iter().filter(|t| **t >= SLOW).count();
    assert!(slow <= 5, "{slow} attempts took longer than {SLOW:?}");
    assert!(times.iter().any(|t| *t > Duration::from_millis(900)), "nobody was sent to the lost backend");
    stand.check().unwrap();
}

/// A stopped server's kernel goes on to accept connections: those wait until the server goes on, too.
#[test]
fn no_attempt_fails_when_a_server_is_stopped() {
    require_agent!("no_attempt_fails_when_a_server_is_stopped");
    let mut stand = Stand::new(Topology::two_arm).unwrap();
    let pid = victim(&mut stand);
    let goes_on = std::thread::spawn(move || {
        std::thread::sleep(TOTAL);
        kill(pid, Signal::SIGCONT)
    });
    let (times, unanswered) = under_load(&stand, "SIGSTOP", || kill(pid, Signal::SIGSTOP).unwrap());
    goes_on.join().unwrap().unwrap();
    assert_eq!(unanswered, 0, "what waited for the stopped server was answered when it went on");
    assert!(times.iter().all(|t| *t < SLOW), "{:?}", times.last());
    stand.check().unwrap();
}
