//! End to end: nobody's attempt to connect fails when a backend is lost, between the loss and the checks that notice it.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "that is how a test fails, and says what it saw"
)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use lb_tests::e2e::Stand;
use lb_tests::lab::{CLIENT, Topology, backend_host};
use lb_tests::packet::world::Family;
use lb_tests::require_agent;
use nix::sys::signal::Signal;

/// New connections a second, for so long, of which the backend is there for the first part.
const RATE: u32 = 200;
const TOTAL: Duration = Duration::from_secs(6);
const BEFORE: Duration = Duration::from_secs(1);
/// For connecting, and then for the answer: longer than anything takes that goes well.
const PATIENCE: Duration = Duration::from_secs(15);
/// Longer than one SYN that is lost: a second, and what a busy machine adds.
const SLOW: Duration = Duration::from_secs(3);
const VICTIM: u8 = 2;

/// What came of one attempt: how long connecting took, and whether there was an answer.
type Attempt = (Result<Duration, String>, bool);

fn attempt(vip: SocketAddr) -> Attempt {
    let start = Instant::now();
    let mut stream = match TcpStream::connect_timeout(&vip, PATIENCE) {
        Ok(stream) => stream,
        Err(e) => return (Err(e.to_string()), false),
    };
    let took = start.elapsed();
    let mut answer = Vec::new();
    let asked = stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
        .and_then(|()| stream.read_to_end(&mut answer));
    (Ok(took), asked.is_ok() && answer.starts_with(b"HTTP/1.1 200"))
}

/// Connects at a steady rate, loses a backend meanwhile, and gives the attempts: (established, unanswered).
fn under_load(stand: &Stand, what: &str, lose: impl FnOnce()) -> (Vec<Duration>, usize) {
    let vip = stand.topology().vip(Family::V4);
    let (sender, receiver) = mpsc::channel();
    let pace = stand.lab.in_ns(CLIENT, || {
        std::thread::spawn(move || {
            let start = Instant::now();
            for n in 0..RATE * u32::try_from(TOTAL.as_secs()).unwrap() {
                std::thread::sleep((Duration::from_secs(1) / RATE * n).saturating_sub(start.elapsed()));
                let sender = sender.clone();
                std::thread::spawn(move || sender.send(attempt(vip)));
            }
        })
    });
    std::thread::sleep(BEFORE);
    lose();
    pace.unwrap().join().unwrap();
    let attempts: Vec<Attempt> = receiver.iter().collect();
    let failed: Vec<_> = attempts.iter().filter_map(|(connected, _)| connected.as_ref().err()).collect();
    let unanswered = attempts.iter().filter(|(connected, answered)| connected.is_ok() && !answered).count();
    let mut times: Vec<_> = attempts.iter().filter_map(|(connected, _)| connected.clone().ok()).collect();
    times.sort_unstable();
    let late = times.iter().filter(|t| **t > Duration::from_millis(500)).count();
    eprintln!(
        "{what}: {} attempts, {} failed, {unanswered} unanswered, {late} above 0.5 s, longest {:?}",
        attempts.len(),
        failed.len(),
        times.last()
    );
    assert!(failed.is_empty(), "{what}: {} attempts failed: {failed:?}", failed.len());
    assert_eq!(attempts.len(), 1200);
    (times, unanswered)
}

/// What was sent to a backend before it was lost may be lost with it, and no more than that.
const IN_FLIGHT: usize = 20;

#[test]
fn no_attempt_fails_when_a_server_is_killed() {
    require_agent!("no_attempt_fails_when_a_server_is_killed");
    let mut stand = Stand::new(Topology::two_arm).unwrap();
    let process = stand.servers.process(VICTIM).unwrap().pid();
    let kill = || {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(process).unwrap());
        nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
    };
    let (times, unanswered) = under_load(&stand, "SIGKILL", kill);
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
    let process = stand.servers.process(VICTIM).unwrap().pid();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(process).unwrap());
    let signal = |signal| nix::sys::signal::kill(pid, signal).unwrap();
    let goes_on = std::thread::spawn(move || {
        std::thread::sleep(TOTAL);
        nix::sys::signal::kill(pid, Signal::SIGCONT)
    });
    let (times, unanswered) = under_load(&stand, "SIGSTOP", || signal(Signal::SIGSTOP));
    goes_on.join().unwrap().unwrap();
    assert_eq!(unanswered, 0, "what waited for the stopped server was answered when it went on");
    assert!(times.iter().all(|t| *t < SLOW), "{:?}", times.last());
    stand.check().unwrap();
}
