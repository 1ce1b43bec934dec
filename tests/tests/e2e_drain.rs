//! End to end: a backend is drained under load, on the command line.
#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lb_agent::status::drain::DrainProgress;
use lb_tests::e2e::{LIMIT, Stand, service};
use lb_tests::lab::{LB, Process, Settings, Topology, backend_host, programs, wait_until};
use lb_tests::load::{Load, Pattern, Request};
use lb_tests::packet::world::Family;
use lb_tests::require_agent;

/// `drain_idle` of the tests' services.
const IDLE: Duration = Duration::from_millis(1500);
/// Between what happens and what `--wait` does about it: the agent's look, the command's, and a slow machine.
const LATE: Duration = Duration::from_secs(5);

fn stand() -> Stand {
    stand_with("drain_idle = \"1500ms\"\n")
}

/// With these lines in `[[service]]`.
fn stand_with(service: &'static str) -> Stand {
    Stand::with(Topology::two_arm(3), &Settings { service, ..Settings::default() }).unwrap()
}

/// Starts `lb-agent` with these words and the path of the socket.
fn lb_agent(stand: &Stand, words: &[&str]) -> Process {
    let mut command = Command::new(programs::agent().unwrap());
    command.args(words).arg("--socket").arg(stand.agent.socket());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    stand.lab.spawn(LB, &mut command).unwrap()
}

/// Waits for its end; gives its exit status, standard output and standard error.
fn outcome(mut process: Process) -> (Option<i32>, String, String) {
    let status = process.wait(LIMIT).unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    process.stdout().unwrap().read_to_string(&mut out).unwrap();
    process.stderr().unwrap().read_to_string(&mut err).unwrap();
    (status.code(), out, err)
}

fn name(family: Family, n: u8) -> String {
    format!("{}/{}", service(family), backend_host(n))
}

/// New connections, one for each request, until it is stopped.
fn new_connections(stand: &Stand, family: Family) -> Load {
    Load {
        target: stand.topology().vip(family),
        request: Request::Get("/".to_owned()),
        pattern: Pattern::NewPerRequest { rate: 200 },
        requests: u64::MAX,
        duration: 4 * LIMIT,
        timeout: LIMIT,
    }
}

fn new_flows(stand: &Stand, family: Family, n: u8) -> u64 {
    let status = stand.status().unwrap();
    let service = status.services.iter().find(|s| s.name == service(family)).unwrap();
    service.backends[usize::from(n) - 1].new_flows.unwrap()
}

/// From the request to drain to the way back, with a slow request in flight and new connections all the time.
#[test]
fn a_drain_ends_when_the_slow_request_has_its_answer() {
    const DRAINED: u8 = 2;
    require_agent!("a_drain_ends_when_the_slow_request_has_its_answer");
    let stand = stand();
    let client = stand.client().unwrap();
    for family in Family::BOTH {
        let load = client.start(&new_connections(&stand, family));
        let (mut slow, mut idle) =
            (stand.held(family, DRAINED).unwrap(), stand.held(family, DRAINED).unwrap());
        let asked = Instant::now();
        slow.send_for("/sleep?ms=6000").unwrap();

        let waiting = lb_agent(&stand, &["drain", &name(family, DRAINED), "--wait", "--json"]);
        let what = "drains with one that waits";
        let is_draining = |state: &str, in_ring: bool| state == "draining" && !in_ring;
        stand
            .wait_for(family, DRAINED, what, |b| is_draining(&b.state, b.in_ring) && b.waiting == Some(1))
            .unwrap();
        wait_until("the kernel has it", LIMIT, || !stand.status().unwrap().dataplane.pending).unwrap();
        assert!(asked.elapsed() < Duration::from_secs(6), "too slow for this test");
        let (before, requests) = (new_flows(&stand, family, DRAINED), load.report().ok);
        stand
            .wait_for(family, DRAINED, "waits for long", |b| {
                b.drain.as_ref().and_then(|d| d.oldest_wait_ms).is_some_and(|ms| ms > 2000)
            })
            .unwrap();

        assert_eq!(slow.receive().unwrap(), backend_host(DRAINED));
        let answered = Instant::now();
        assert!(asked.elapsed() >= Duration::from_secs(6));
        let (status, out, err) = outcome(waiting);
        let took = answered.elapsed();
        assert_eq!((status, err.as_str()), (Some(0), ""), "{out}");
        assert!((IDLE..IDLE + LATE).contains(&took), "{took:?}");
        let lines: Vec<DrainProgress> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let (first, last) = (lines.first().unwrap(), lines.last().unwrap());
        assert_eq!((first.state.as_str(), first.in_ring, first.waiting), ("draining", false, Some(1)));
        assert_eq!((last.state.as_str(), last.in_ring, last.waiting), ("drained", false, Some(0)));
        assert_eq!(last.drain.as_ref().unwrap().result.as_deref(), Some("complete"));

        // Not one of these went there, and a connection that was only kept open was left alone.
        assert!(load.report().ok > requests + 100, "{:?}", load.report());
        assert_eq!(new_flows(&stand, family, DRAINED), before);
        assert_eq!(idle.ask().unwrap(), backend_host(DRAINED));
        stand.wait_for(family, DRAINED, "stays away", |b| b.state == "drained" && !b.in_ring).unwrap();
        let (service, backend) = (service(family), backend_host(DRAINED));
        let labels = [("service", service), ("backend", backend.as_str()), ("state", "drained")];
        assert_eq!(stand.metrics().unwrap().sum("lb_backend_state", &labels).unwrap(), 1.0);

        let (status, out, err) = outcome(lb_agent(&stand, &["undrain", &name(family, DRAINED)]));
        assert_eq!((status, err.as_str()), (Some(0), ""));
        assert!(out.starts_with(&format!("{}: healthy, flows ", name(family, DRAINED))), "{out}");
        stand.wait_for(family, DRAINED, "is back", |b| b.state == "healthy" && b.in_ring).unwrap();
        wait_until("it gets flows", LIMIT, || new_flows(&stand, family, DRAINED) > before + 10).unwrap();
        let report = load.report();
        assert!(report.failed.is_empty(), "{report:?}");
    }
    assert_eq!(stand.metrics().unwrap().sum("lb_drains_total", &[("result", "complete")]).unwrap(), 2.0);
    stand.check().unwrap();
}

/// The command ends with status 4; the query goes on and gets its answer.
#[test]
fn a_deadline_ends_the_drain_and_not_the_query() {
    const DRAINED: u8 = 1;
    require_agent!("a_deadline_ends_the_drain_and_not_the_query");
    let stand = stand();
    let family = Family::V4;
    let mut slow = stand.held(family, DRAINED).unwrap();
    slow.send_for("/sleep?ms=8000").unwrap();
    let asked = Instant::now();
    let drain = ["drain", &name(family, DRAINED), "--deadline", "2s", "--wait"];
    let (status, out, err) = outcome(lb_agent(&stand, &drain));
    let took = asked.elapsed();
    assert_eq!((status, out.as_str()), (Some(4), ""), "{err}");
    assert!((Duration::from_secs(2)..Duration::from_secs(2) + LATE).contains(&took), "{took:?}");
    let name = name(family, DRAINED);
    assert!(err.starts_with(&format!("{name}: draining, flows 1, waiting 1, draining for 0s")), "{err}");
    assert!(
        err.ends_with(&format!(
            "lb-agent: {name}: the deadline came before the end of the drain, flows that wait: 1\n"
        )),
        "{err}"
    );
    stand
        .wait_for(family, DRAINED, "stays away", |b| {
            b.state == "drained" && !b.in_ring && b.waiting == Some(1)
        })
        .unwrap();
    assert_eq!(slow.receive().unwrap(), backend_host(DRAINED));
    assert!(asked.elapsed() >= Duration::from_secs(7));

    // Waited for once more, there is nothing left to wait for.
    let (status, _, err) = outcome(lb_agent(&stand, &["drain", &name, "--wait"]));
    assert_eq!(status, Some(0), "{err}");
    // What is wrong with the command line, or names nobody, is status 2.
    for words in [["drain", "superset-v4/backend-9"], ["undrain", "web/backend-1"], ["drain", "backend-1"]] {
        let (status, out, err) = outcome(lb_agent(&stand, &words));
        assert_eq!((status, out.as_str()), (Some(2), ""), "{words:?}: {err}");
        assert!(!err.is_empty());
    }
    stand.check().unwrap();
}

/// A client that goes on talking over its old connection holds up the drain, though it never waits: there are no
/// requests in such a service.
#[test]
fn a_drain_is_not_complete_while_data_passes() {
    const DRAINED: u8 = 3;
    require_agent!("a_drain_is_not_complete_while_data_passes");
    let stand = stand_with("drain_idle = \"1500ms\"\nrequests = false\n");
    for family in Family::BOTH {
        let mut busy = stand.held(family, DRAINED).unwrap();
        let (status, _, err) = outcome(lb_agent(&stand, &["drain", &name(family, DRAINED)]));
        assert_eq!(status, Some(0), "{err}");
        let start = Instant::now();
        while start.elapsed() < 4 * IDLE {
            assert_eq!(busy.ask().unwrap(), backend_host(DRAINED));
            stand.wait_for(family, DRAINED, "still drains", |b| b.state == "draining").unwrap();
        }
        let silent = Instant::now();
        stand.wait_for(family, DRAINED, "is drained", |b| b.state == "drained").unwrap();
        let took = silent.elapsed();
        assert!((IDLE / 2..IDLE + LATE).contains(&took), "{took:?}");
        assert_eq!(busy.ask().unwrap(), backend_host(DRAINED), "nobody has closed it");
    }
    stand.check().unwrap();
}

/// A backend that is wanted back ends the wait for its drain.
#[test]
fn a_drain_that_is_undone_ends_the_wait() {
    require_agent!("a_drain_that_is_undone_ends_the_wait");
    let stand = stand();
    let mut slow = stand.held(Family::V6, 3).unwrap();
    slow.send_for("/hang").unwrap();
    let waiting = lb_agent(&stand, &["drain", &name(Family::V6, 3), "--wait"]);
    stand.wait_for(Family::V6, 3, "drains", |b| b.state == "draining").unwrap();
    assert_eq!(outcome(lb_agent(&stand, &["undrain", &name(Family::V6, 3)])).0, Some(0));
    let (status, _, err) = outcome(waiting);
    assert_eq!(status, Some(1), "{err}");
    assert!(err.ends_with("somebody wanted it back: it is not drained any more\n"), "{err}");
    assert_eq!(stand.metrics().unwrap().sum("lb_drains_total", &[("result", "undone")]).unwrap(), 1.0);
}

/// All of a service: its connections rather go to those that drain than nowhere.
#[test]
fn when_all_drain_clients_are_served_all_the_same() {
    require_agent!("when_all_drain_clients_are_served_all_the_same");
    let stand = stand();
    let family = Family::V4;
    for n in 1..=3 {
        let (status, _, err) = outcome(lb_agent(&stand, &["drain", &name(family, n)]));
        assert_eq!(status, Some(0), "{err}");
    }
    let load = Load { requests: 100, ..new_connections(&stand, family) };
    let report = stand.client().unwrap().run(&load).unwrap();
    assert_eq!(report.ok, 100, "{report:?}");
    let metrics = stand.metrics().unwrap();
    assert_eq!(metrics.sum("lb_service_fail_open", &[("service", service(family))]).unwrap(), 1.0);
    let table = stand.command(&["status"]).unwrap();
    assert!(table.contains("DRAINING: no other backend can be reached"), "{table}");
    stand.check().unwrap();
}
