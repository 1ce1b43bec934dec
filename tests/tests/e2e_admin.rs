//! End to end: who may change something, over TCP and over the unix socket.
#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::os::unix::fs::{FileTypeExt, PermissionsExt};

use lb_tests::e2e::{LIMIT, Stand, service};
use lb_tests::lab::{Agent, LB, Settings, Topology, backend_host, wait_until};
use lb_tests::packet::world::Family;
use lb_tests::require_agent;

/// A balancer with these lines in `[agent]`.
fn stand(agent: String) -> Stand {
    let service = "drain_idle = \"500ms\"\n";
    Stand::with(Topology::two_arm(3), &Settings { agent, service, ..Settings::default() }).unwrap()
}

/// The path of a backend's drain.
fn drain(family: Family, n: u8) -> String {
    format!("/v1/drain/{}/{}", service(family), backend_host(n))
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
    let path = drain(Family::V4, 1);
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
        let path = drain(Family::V4, 1);
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
