//! End to end: a backend is drained under load, on the command line and over TCP.
#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::io::Read;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lb_agent::status::drain::DrainProgress;
use lb_tests::e2e::{Held, LIMIT, Stand, service};
use lb_tests::lab::{Agent, LB, Process, Settings, Topology, backend_host, programs, wait_until};
use lb_tests::load::{Load, Pattern, Request};
use lb_tests::packet::world::Family;
use lb_tests::require_agent;

/// `drain_idle` of the tests' services.
const IDLE: Duration = Duration::from_millis(1500);
/// Between what happens and what `--wait` does about it: the agent's look, the command's, and a slow machine.
const LATE: Duration = Duration::from_secs(5);

fn stand(agent: String) -> Stand {
    let service = "drain_idle = \"1500ms\"\n";
    Stand::with(Topology::two_arm(3), &Settings { agent, service, ..Settings::default() }).unwrap()
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

/// A connection that is kept to this backend.
fn held(stand: &Stand, family: Family, n: u8) -> Held {
    let open = || Held::open(&stand.lab, stand.topology().vip(family)).unwrap();
    let found = std::iter::repeat_with(open).take(200).find(|held| held.server() == backend_host(n));
    found.unwrap()
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
    let stand = stand(String::new());
    let client = stand.client().unwrap();
    for family in Family::BOTH {
        let load = client.start(&new_connections(&stand, family));
        let (mut slow, mut idle) = (held(&stand, family, DRAINED), held(&stand, family, DRAINED));
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
    let stand = stand(String::new());
    let family = Family::V4;
    let mut slow = held(&stand, family, DRAINED);
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

/// A client that goes on talking over its old connection holds up the drain, though it hardly ever waits.
#[test]
fn a_drain_is_not_complete_while_data_passes() {
    const DRAINED: u8 = 3;
    require_agent!("a_drain_is_not_complete_while_data_passes");
    let stand = stand(String::new());
    for family in Family::BOTH {
        let mut busy = held(&stand, family, DRAINED);
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
    let stand = stand(String::new());
    let mut slow = held(&stand, Family::V6, 3);
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
    let stand = stand(String::new());
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

/// Runs curl on the balancer; gives the status of the answer and its body.
fn curl(stand: &Stand, method: &str, path: &str, headers: &[&str]) -> (u16, String) {
    let url = format!("http://127.0.0.1:9470{path}");
    let mut command = vec!["curl", "-sS", "--max-time", "20", "-X", method, "-w", "%{http_code}", &url];
    headers.iter().for_each(|header| command.extend(["-H", header]));
    let text = stand.lab.exec(LB, &command).unwrap();
    let (body, status) = text.split_at(text.len() - 3);
    (status.parse().unwrap(), body.to_owned())
}

/// A pod's preStop hook: over TCP, with a token, without the command.
#[test]
fn a_token_lets_a_pod_drain_itself() {
    const TOKEN: &str = "4a1f0c2e9b7d5a38";
    require_agent!("a_token_lets_a_pod_drain_itself");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), TOKEN).unwrap();
    let stand = stand(format!("admin_token_file = {:?}\n", file.path()));
    let path = format!("/v1/drain/{}", name(Family::V4, 1));
    let post = format!("{path}?deadline=600s");
    for wrong in
        [&[][..], &["Authorization: Bearer 4a1f0c2e9b7d5a39"], &["Authorization: Basic 4a1f0c2e9b7d5a38"]]
    {
        let (status, body) = curl(&stand, "POST", &post, wrong);
        assert_eq!(status, 401, "{body}");
    }
    stand.wait_for(Family::V4, 1, "stays", |b| b.state == "healthy" && b.in_ring).unwrap();
    let bearer = format!("Authorization: Bearer {TOKEN}");
    let (status, body) = curl(&stand, "POST", &post, &[&bearer]);
    assert!(status == 200 && body.contains("\"state\": \"draining\""), "{body}");
    wait_until("it is drained", LIMIT, || {
        let (status, body) = curl(&stand, "GET", &path, &[&bearer]);
        assert_eq!(status, 200, "{body}");
        body.contains("\"state\": \"drained\"")
    })
    .unwrap();
    let (status, body) = curl(&stand, "DELETE", &path, &[&bearer]);
    assert!(status == 200 && body.contains("\"state\": \"healthy\""), "{body}");
}

#[test]
fn without_a_token_file_nothing_is_changed_over_tcp() {
    require_agent!("without_a_token_file_nothing_is_changed_over_tcp");
    let stand = stand(String::new());
    for method in ["POST", "DELETE", "GET"] {
        let path = format!("/v1/drain/{}", name(Family::V4, 1));
        let (status, body) = curl(&stand, method, &path, &["Authorization: Bearer 4a1f0c2e9b7d5a38"]);
        assert_eq!(status, 403, "{body}");
    }
    stand.wait_for(Family::V4, 1, "stays", |b| b.state == "healthy" && b.in_ring).unwrap();
}

/// The socket is for its owner alone, and that of a killed agent is no obstacle.
#[test]
fn the_socket_is_the_agents_own() {
    require_agent!("the_socket_is_the_agents_own");
    let files = tempfile::tempdir().unwrap();
    let (socket, token) = (files.path().join("admin.sock"), files.path().join("token"));
    let mut stand = stand(format!("socket = {socket:?}\n"));
    let config = std::fs::read_to_string(stand.agent.config()).unwrap();
    let found = std::fs::symlink_metadata(&socket).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o7777, 0o600);

    // Another agent that would use it does not start.
    let second = config.replacen("[agent]\n", "[agent]\nadmin = \"127.0.0.1:9471\"\n", 1);
    let mut second = Agent::spawn(&stand.lab, &second).unwrap();
    assert_eq!(second.process().wait(LIMIT).unwrap().code(), Some(1), "{}", second.log());
    assert!(second.log().contains("another agent listens there"), "{}", second.log());

    stand.agent.process().kill();
    assert!(socket.exists(), "nobody has removed it");
    stand.agent = Agent::start(&stand.lab, &config).unwrap();
    assert!(stand.agent.terminate().unwrap().success());
    assert!(!socket.exists(), "it goes with the agent");

    // A path that cannot be, and a token that others can read, are one line each.
    std::fs::write(&token, "4a1f0c2e9b7d5a38").unwrap();
    std::fs::set_permissions(&token, PermissionsExt::from_mode(0o644)).unwrap();
    let own = format!("socket = {socket:?}\n");
    for (line, status, why) in [
        (
            "socket = \"/nonexistent/a/admin.sock\"\n".to_owned(),
            1,
            "agent.socket: cannot listen on /nonexistent/a/admin.sock: ",
        ),
        (format!("{own}admin_token_file = {token:?}\n"), 2, "is open to others (mode 0644)"),
    ] {
        let mut agent = Agent::spawn(&stand.lab, &config.replacen(&own, &line, 1)).unwrap();
        assert_eq!(agent.process().wait(LIMIT).unwrap().code(), Some(status), "{}", agent.log());
        let log = agent.log();
        let last = log.lines().last().unwrap();
        assert!(last.contains(why), "{log}");
    }
}
