//! The binary as people and scripts meet it: exit status, standard output, standard error. Without privileges.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Output};

fn lb_agent(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lb-agent")).args(args).env_remove("RUST_LOG").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut f = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    f.write_all(text.as_bytes()).unwrap();
    f
}

/// Fits every machine, except that its interface exists on none.
const GOOD: &str = r#"
[agent]
interfaces = ["lb-none0"]
[nat]
addresses = ["192.0.2.1"]
ports = "1024-1087"
[[service]]
name = "superset"
vip = "192.0.2.100:80"
[[service.backend]]
name = "superset-1"
address = "192.0.2.11:8088"
"#;

/// Five errors of five kinds.
const BAD: &str = r#"
[agent]
interfaces = []
colour = "blue"
[nat]
addresses = ["192.0.2.1"]
ports = "5000-4000"
[[service]]
name = "superset"
vip = "192.0.2.100"
[[service.backend]]
name = "superset-1"
address = "[2001:db8::1]:8088"
weight = 0
"#;

#[test]
fn check_lists_every_error_on_a_line_of_its_own_and_exits_2() {
    let f = file(BAD);
    let path = f.path().to_str().unwrap();
    let out = lb_agent(&["check", "--config", path]);
    let err = text(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{err}");
    assert_eq!(text(&out.stdout), "");
    for key in
        ["agent.interfaces", "agent.colour", "nat.ports", "service[0].vip", "service[0].backend[0].weight"]
    {
        assert!(err.lines().any(|l| l.starts_with(path) && l.contains(key)), "{key}\n{err}");
    }
    assert!(err.lines().all(|l| l.starts_with(path)), "{err}");
}

#[test]
fn run_refuses_a_bad_configuration_with_the_same_words() {
    let f = file(BAD);
    let path = f.path().to_str().unwrap();
    let (check, run) = (lb_agent(&["check", "--config", path]), lb_agent(&["run", "--config", path]));
    assert_eq!(run.status.code(), Some(2));
    assert_eq!(text(&run.stderr), text(&check.stderr));
}

#[test]
fn what_does_not_fit_the_machine_is_a_warning_to_check_and_an_error_to_run() {
    let f = file(GOOD);
    let path = f.path().to_str().unwrap();
    let out = lb_agent(&["check", "--config", path]);
    let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
    assert_eq!(out.status.code(), Some(0), "{stderr}");
    assert_eq!(
        stdout,
        format!("{path}: ok: 1 interface, 1 service, 1 backend, 1 SNAT address with 64 flow slots\n")
    );
    assert!(stderr.lines().any(|l| l.starts_with("warning: ") && l.contains("lb-none0")), "{stderr}");
    for args in [&["check", "--node", "--config", path][..], &["run", "--config", path]] {
        let out = lb_agent(args);
        let stderr = text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{stderr}");
        assert!(stderr.lines().any(|l| l.starts_with(path) && l.contains("lb-none0")), "{stderr}");
    }
}

#[test]
fn a_file_that_is_not_there_is_one_line_and_2() {
    let out = lb_agent(&["check", "--config", "/nonexistent/lb.toml"]);
    let stderr = text(&out.stderr);
    assert_eq!((out.status.code(), stderr.lines().count()), (Some(2), 1), "{stderr}");
    assert!(stderr.contains("/nonexistent/lb.toml"), "{stderr}");
}

#[test]
fn status_without_an_agent_is_one_clear_line_and_1() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let out = lb_agent(&["status", "--admin", &address]);
    let stderr = text(&out.stderr);
    assert_eq!((out.status.code(), stderr.lines().count()), (Some(1), 1), "{stderr}");
    assert!(stderr.starts_with(&format!("lb-agent: cannot reach lb-agent at {address}: ")), "{stderr}");
    assert_eq!(text(&out.stdout), "");
}

#[test]
fn a_command_without_an_agent_is_one_clear_line_and_1() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("admin.sock");
    let socket = socket.to_str().unwrap();
    for words in [
        &["drain", "superset/superset-1", "--wait"][..],
        &["undrain", "superset/superset-1", "--json"],
        &["reload"],
    ] {
        let out = lb_agent(&[words, &["--socket", socket]].concat());
        let stderr = text(&out.stderr);
        assert_eq!((out.status.code(), stderr.lines().count()), (Some(1), 1), "{stderr}");
        assert!(stderr.starts_with(&format!("lb-agent: cannot reach lb-agent at {socket}: ")), "{stderr}");
        assert!(stderr.contains("agent.socket"), "{stderr}");
        assert_eq!(text(&out.stdout), "");
    }
}

#[test]
fn drain_says_what_is_wrong_with_its_words() {
    for (words, why) in [
        (&["drain"][..], "SERVICE/BACKEND"),
        (&["drain", "superset"], "want SERVICE/BACKEND, as superset/superset-1"),
        (
            &["drain", "superset/a", "--deadline", "soon"],
            "\"soon\" is no deadline; give a duration of 1s to 24h",
        ),
        (&["drain", "superset/a", "--deadline", "2d"], "\"2d\" is no deadline"),
        (&["undrain", "superset/a", "--wait"], "--wait"),
    ] {
        let out = lb_agent(words);
        let stderr = text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(why), "{stderr}");
    }
    assert!(
        text(&lb_agent(&["drain", "--help"]).stdout).contains("  4  with --wait: the deadline came first")
    );
}

#[test]
fn usage_errors_are_2_and_help_is_0() {
    assert_eq!(lb_agent(&["balance"]).status.code(), Some(2));
    assert_eq!(lb_agent(&["run"]).status.code(), Some(2));
    let help = lb_agent(&["run", "--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("SIGTERM"));
    assert_eq!(text(&lb_agent(&["--version"]).stdout), concat!("lb-agent ", env!("CARGO_PKG_VERSION"), "\n"));
}
