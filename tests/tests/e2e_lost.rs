//! End to end: clients that wait in silence for a backend that has died.
#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::io::{self, ErrorKind};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, SystemTime};

use lb_tests::e2e::{Held, LIMIT, Stand, service};
use lb_tests::lab::{Settings, Topology, backend_host, wait_until};
use lb_tests::packet::world::Family;
use lb_tests::require_agent;
use nix::sys::signal::Signal;

/// The host whose link is cut.
const DEAD: u8 = 1;
/// The one whose server hangs: suspect.
const HUNG: u8 = 2;
/// The one that is drained.
const DRAINED: u8 = 3;
/// Another, so that the service does not fail open.
const BACKENDS: u8 = 4;

/// From the decision that a backend is dead to the end of a client's wait.
const PROMISE: Duration = Duration::from_secs(1);

/// Longer than the test takes.
const QUERY: &str = "/sleep?ms=60000";
/// About as long as the test takes.
const SLOW: &str = "/sleep?ms=6000";

/// A client that reads, on a thread of its own.
struct Waiter {
    server: String,
    /// Who has answered, and when.
    thread: JoinHandle<(io::Result<String>, SystemTime)>,
}

impl Waiter {
    fn new(mut held: Held) -> Self {
        let server = held.server().to_owned();
        Self { server, thread: spawn(move || (held.receive(), SystemTime::now())) }
    }

    fn is_of(&self, n: u8) -> bool {
        self.server == backend_host(n)
    }
}

fn stand(topology: Topology) -> Stand {
    let health = "interval = \"200ms\"\ntimeout = \"500ms\"\nrise = 2\nfall = 2\ngrace = \"0s\"\n\
                  dead_after = \"2s\"\nexpect_body = \"OK\"\n";
    let announce = topology == Topology::one_arm(BACKENDS);
    Stand::with(topology, &Settings { announce, health, ..Settings::default() }).unwrap()
}

/// Connections of which each of the backends has some.
fn connections(stand: &Stand, family: Family) -> Vec<Held> {
    const EACH: usize = 3;
    let mut held: Vec<Held> = Vec::new();
    loop {
        let of = |n| held.iter().filter(|h| h.server() == backend_host(n)).count();
        if (1..=BACKENDS).all(|n| of(n) >= EACH) {
            return held;
        }
        assert!(held.len() < 400, "some backends get none");
        held.push(Held::open(&stand.lab, stand.topology().vip(family)).unwrap());
    }
}

/// When the agent decided that the backend is in this state.
fn since(stand: &Stand, family: Family, n: u8, state: &str) -> SystemTime {
    stand.wait_for(family, n, state, |b| b.state == state).unwrap();
    let status = stand.status().unwrap();
    let found = status.services.iter().find(|s| s.name == service(family)).unwrap();
    found.backends.iter().find(|b| b.name == backend_host(n)).unwrap().since
}

/// A backend's link is cut while clients wait for its answers, another one hangs, and a third is drained.
fn clients_are_told(mut stand: Stand) {
    let mut all: Vec<(Family, Vec<Held>)> =
        Family::BOTH.map(|family| (family, connections(&stand, family))).into();
    let mut to_be_told = 0;
    for (family, held) in &mut all {
        let mine = held.iter_mut().filter(|held| held.server() == backend_host(DEAD));
        // One of them is idle.
        let asked = mine.skip(1).map(|held| held.send_for(QUERY).unwrap()).count();
        to_be_told += asked + 1;
        let labels = [("service", service(*family)), ("backend", &backend_host(DEAD))];
        wait_until("the requests are there", LIMIT, || {
            let waiting = stand.metrics().unwrap().sum("lb_backend_waiting_flows", &labels).unwrap();
            waiting == count(asked)
        })
        .unwrap();
        let drained = format!("{}/{}", service(*family), backend_host(DRAINED));
        stand.command(&["drain", &drained, "--socket", stand.agent.socket().to_str().unwrap()]).unwrap();
    }
    stand.servers.process(HUNG).unwrap().signal(Signal::SIGSTOP).unwrap();
    for (family, held) in &mut all {
        since(&stand, *family, HUNG, "suspect");
        for (n, path) in [(HUNG, "/"), (DRAINED, SLOW)] {
            let its = held.iter_mut().filter(|held| held.server() == backend_host(n));
            its.for_each(|held| held.send_for(path).unwrap());
        }
    }
    assert_eq!(told(&stand), 0.0);

    stand.lab.exec(&backend_host(DEAD), &["ip", "link", "set", "eth0", "down"]).unwrap();
    let mut rest = Vec::new();
    for (family, held) in all {
        let waiters: Vec<Waiter> = held.into_iter().map(Waiter::new).collect();
        let decided = since(&stand, family, DEAD, "dead");
        let (lost, others): (Vec<_>, Vec<_>) = waiters.into_iter().partition(|w| w.is_of(DEAD));
        for waiter in lost {
            let (answer, at) = waiter.thread.join().unwrap();
            assert_eq!(answer.unwrap_err().kind(), ErrorKind::ConnectionReset);
            // Nobody is told before it is decided.
            let waited = at.duration_since(decided).unwrap();
            assert!(waited < PROMISE, "{family:?}: {waited:?}");
        }
        rest.extend(others);
    }
    // It is counted when the last of them was told.
    wait_until("the resets are counted", LIMIT, || told(&stand) >= count(to_be_told)).unwrap();
    assert_eq!(told(&stand), count(to_be_told), "each once, and nobody else");
    assert!(stand.agent.log().contains("reset sent to the clients of lost connections"));

    // What the others were asked for, they answer.
    assert!(rest.iter().filter(|w| w.is_of(HUNG)).all(|waiter| !waiter.thread.is_finished()));
    stand.servers.process(HUNG).unwrap().signal(Signal::SIGCONT).unwrap();
    for waiter in rest.into_iter().filter(|w| w.is_of(HUNG) || w.is_of(DRAINED)) {
        let (answer, _) = waiter.thread.join().unwrap();
        assert_eq!(answer.unwrap(), waiter.server);
    }
    stand.check().unwrap();
}

fn told(stand: &Stand) -> f64 {
    stand.metrics().unwrap().sum("lb_resets_sent_total", &[]).unwrap()
}

fn count(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap())
}

#[test]
fn silent_clients_are_told_with_one_arm() {
    require_agent!("silent_clients_are_told_with_one_arm");
    clients_are_told(stand(Topology::one_arm(BACKENDS)));
}

#[test]
fn silent_clients_are_told_with_two_arms() {
    require_agent!("silent_clients_are_told_with_two_arms");
    clients_are_told(stand(Topology::two_arm(BACKENDS)));
}
