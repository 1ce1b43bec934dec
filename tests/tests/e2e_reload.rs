//! End to end: the configuration is read again under load, by command and by signal.
#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

#[path = "e2e_reload/random.rs"]
mod random;
#[path = "e2e_reload/watch.rs"]
mod watch;

use std::process::Output;
use std::time::{Duration, Instant};

use lb_agent::status::reload::{ReloadReport, ReloadResult};
use lb_tests::e2e::{BackgroundLoad, Client, Held, LIMIT, Stand, service};
use lb_tests::lab::{LB, Settings, Topology, backend_host, wait_until};
use lb_tests::load::{Load, Pattern, Request};
use lb_tests::packet::world::Family;
use lb_tests::require_agent;
use nix::sys::signal::Signal;

const SERVICE: &str = "drain_idle = \"300ms\"\n";

fn settings(absent: &[u8]) -> Settings {
    Settings { service: SERVICE, absent: absent.to_vec(), ..Settings::default() }
}

fn text(stand: &Stand, absent: &[u8]) -> String {
    settings(absent).text(stand.topology())
}

fn stand(backends: u8, absent: &[u8]) -> Stand {
    Stand::with(Topology::two_arm(backends), &settings(absent)).unwrap()
}

/// New connections, one for each request, until it is stopped.
fn load<'a>(client: &'a Client, stand: &Stand, family: Family) -> BackgroundLoad<'a> {
    client.start(&Load {
        target: stand.topology().vip(family),
        request: Request::Get("/".to_owned()),
        pattern: Pattern::NewPerRequest { rate: 150 },
        requests: u64::MAX,
        duration: 20 * LIMIT,
        timeout: LIMIT,
    })
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn reload(stand: &Stand) -> (Option<i32>, String, String) {
    said(&stand.ask(&["reload"]).unwrap())
}

/// Drains a backend of both services, until it may be removed.
fn drain(stand: &Stand, n: u8) {
    for family in Family::BOTH {
        let name = format!("{}/{}", service(family), backend_host(n));
        let (status, _, err) = said(&stand.ask(&["drain", &name, "--wait"]).unwrap());
        assert_eq!(status, Some(0), "{err}");
    }
}

fn reloads(stand: &Stand, result: ReloadResult) -> f64 {
    stand.metrics().unwrap().sum("lb_config_reloads_total", &[("result", result.name())]).unwrap()
}

/// What the maps should hold is what they do hold: they were read back after the write.
fn is_in_sync(stand: &Stand) {
    let state = || -> serde_json::Value {
        serde_json::from_str(&stand.agent.get(&stand.lab, "/state").unwrap()).unwrap()
    };
    wait_until("the kernel has it", LIMIT, || {
        let state = state();
        state["in_sync"] == true && state["status"]["dataplane"]["pending"] == false
    })
    .unwrap();
    let status = stand.status().unwrap();
    assert_eq!((status.dataplane.drift, &status.dataplane.last_error), (0, &None));
}

fn backends(stand: &Stand) -> Vec<String> {
    let status = stand.status().unwrap();
    let names =
        status.services.iter().flat_map(|s| s.backends.iter().map(|b| format!("{}/{}", s.name, b.name)));
    names.collect()
}

/// Out by command, in by signal; nobody who is connected to the others notices, and whoever asks anew is served.
#[test]
fn backends_are_removed_and_added_under_load() {
    const LEAVES: u8 = 4;
    require_agent!("backends_are_removed_and_added_under_load");
    let stand = stand(4, &[]);
    let client = stand.client().unwrap();
    let loads = Family::BOTH.map(|family| load(&client, &stand, family));
    let mut stays = Family::BOTH.map(|family| stand.held(family, 1).unwrap());
    let mut leaves = Family::BOTH.map(|family| stand.held(family, LEAVES).unwrap());
    let started = Instant::now();
    for _ in 0..2 {
        drain(&stand, LEAVES);
        stand.agent.write_config(&text(&stand, &[LEAVES])).unwrap();
        let (status, out, err) = reload(&stand);
        assert_eq!(status, Some(0), "{out}{err}");
        assert!(out.contains(": reloaded, 2 changes:\n"), "{out}");
        for family in Family::BOTH {
            let name = format!("{}/{}", service(family), backend_host(LEAVES));
            assert!(out.contains(&format!("  backend {name}: removed (")), "{out}");
            assert!(!backends(&stand).contains(&name));
        }
        is_in_sync(&stand);

        stand.agent.write_config(&text(&stand, &[])).unwrap();
        let before = reloads(&stand, ReloadResult::Success);
        stand.agent.signal(Signal::SIGHUP).unwrap();
        wait_until("it is reloaded", LIMIT, || reloads(&stand, ReloadResult::Success) > before).unwrap();
        for family in Family::BOTH {
            stand.wait_for(family, LEAVES, "is back", |b| b.state == "healthy" && b.in_ring).unwrap();
            stand.wait_for(family, LEAVES, "gets flows", |b| b.new_flows > Some(10)).unwrap();
        }
        is_in_sync(&stand);
    }
    // Those who had a connection to it, and asked for nothing, were told; the others were not.
    for (stays, leaves) in stays.iter_mut().zip(&mut leaves) {
        assert_eq!(stays.ask().unwrap(), backend_host(1));
        assert!(leaves.ask().is_err());
    }
    for load in &loads {
        let report = load.report();
        assert!(report.failed.is_empty() && report.ok > 100, "{:?}: {report:?}", started.elapsed());
    }
    stand.check().unwrap();
}

/// Whatever is wrong with the file is said with file, line and key, and changes nothing.
#[test]
fn a_broken_file_and_one_that_needs_a_restart_change_nothing() {
    require_agent!("a_broken_file_and_one_that_needs_a_restart_change_nothing");
    let mut stand = stand(2, &[]);
    let good = text(&stand, &[]);
    let file = stand.agent.config().display().to_string();
    let mut kept = stand.held(Family::V4, 1).unwrap();
    let before = stand.status().unwrap();
    let five = "[agent]\ncolour = \"blue\"\ninterfaces = [\"eth0\"]\n[nat]\naddresses = [\"10.0.0.300\"]\nports = \"9-1\"\n\
        [[service]]\nname = \"a\"\nvip = \"nowhere\"\n[[service.backend]]\naddress = \"10.0.0.1:0\"\n";
    let invalid =
        ["agent.colour", "nat.addresses[0]", "nat.ports", "service[0].vip", "service[0].backend[0].address"];
    let restart = good
        .replacen("xdp_mode = \"native\"", "xdp_mode = \"generic\"\nadmin = \"127.0.0.1:9999\"", 1)
        .replacen("interfaces = [\"eth0\", \"eth1\"]", "interfaces = [\"eth0\"]", 1)
        .replacen("[nat]\n", "[nat]\nports = \"2048-32767\"\n", 1);
    let needed = ["agent.interfaces", "agent.xdp_mode", "agent.admin", "nat.ports"];
    let rows = [
        (five.to_owned(), ReloadResult::Invalid, 2, &invalid[..]),
        ("not TOML".to_owned(), ReloadResult::Invalid, 2, &["syntax"]),
        (restart, ReloadResult::RestartNeeded, 3, &needed),
    ];
    for (i, (wrong, result, code, keys)) in (1u8..).zip(&rows) {
        stand.agent.write_config(wrong).unwrap();
        let (status, out, err) = reload(&stand);
        assert_eq!((status, out.as_str()), (Some(*code), ""), "{err}");
        assert_eq!(err.lines().count(), keys.len(), "{err}");
        for (line, key) in err.lines().zip(*keys) {
            assert!(line.starts_with(&format!("{file}:")) && line.contains(&format!(": {key}: ")), "{err}");
            assert!(stand.agent.log().contains(&format!("reload: {line}")), "{}", stand.agent.log());
        }
        let refused = stand.status().unwrap().config_refused.unwrap();
        assert_eq!((refused.result, refused.errors.join("\n")), (*result, err.trim_end().to_owned()));
        assert!(stand.command(&["status"]).unwrap().contains("RELOAD REFUSED"));
        let metrics = stand.metrics().unwrap();
        assert_eq!(metrics.sum("lb_config_last_reload_successful", &[]).unwrap(), 0.0);

        // The signal comes to the same, and as JSON it is the same too.
        let counted = reloads(&stand, *result);
        stand.agent.signal(Signal::SIGHUP).unwrap();
        wait_until("it is refused again", LIMIT, || reloads(&stand, *result) > counted).unwrap();
        let (status, out, err) = said(&stand.ask(&["reload", "--json"]).unwrap());
        let report: ReloadReport = serde_json::from_str(&out).unwrap();
        assert_eq!(
            (status, report.result, report.errors.join("\n")),
            (Some(*code), *result, err.trim_end().to_owned())
        );

        let now = stand.status().unwrap();
        assert_eq!((now.config_loaded, now.services.len()), (before.config_loaded, 2), "{i}");
        let ids = |s: &lb_agent::status::Status| -> Vec<_> {
            s.services
                .iter()
                .flat_map(|s| &s.backends)
                .map(|b| (b.name.clone(), b.id, b.generation, b.since))
                .collect()
        };
        assert_eq!(ids(&now), ids(&before));
        assert_eq!(kept.ask().unwrap(), backend_host(1));
    }
    // A file that is not there is an error of one line.
    std::fs::remove_file(stand.agent.config()).unwrap();
    let (status, _, err) = reload(&stand);
    assert_eq!((status, err.lines().count()), (Some(2), 1), "{err}");
    assert!(err.starts_with(&format!("{file}: cannot be read: ")), "{err}");

    stand.agent.write_config(&good).unwrap();
    let (status, out, err) = reload(&stand);
    assert_eq!((status, err.as_str()), (Some(0), ""));
    assert_eq!(out, format!("{file}: reloaded, nothing in it is new\n"));
    assert_eq!(stand.status().unwrap().config_refused, None);
    let metrics = stand.metrics().unwrap();
    assert_eq!(metrics.sum("lb_config_last_reload_successful", &[]).unwrap(), 1.0);
    assert_eq!(kept.ask().unwrap(), backend_host(1));
    stand.flawless(Family::V4).unwrap();
    stand.flawless(Family::V6).unwrap();
    stand.check().unwrap();
    stand.agent.terminate().unwrap();
    let (status, _, err) = reload(&stand);
    assert_eq!((status, err.lines().count()), (Some(1), 1), "{err}");
}

/// Clients of a service that is removed are told, those of the other notice nothing, and a drain is kept under another VIP.
#[test]
fn services_go_come_and_get_another_vip() {
    const DRAINED: u8 = 2;
    require_agent!("services_go_come_and_get_another_vip");
    let stand = stand(3, &[]);
    let whole = text(&stand, &[]);
    let client = stand.client().unwrap();
    let other = load(&client, &stand, Family::V4);
    let (mut kept, mut lost) = (stand.held(Family::V4, 1).unwrap(), stand.held(Family::V6, 1).unwrap());
    lost.send_for("/hang").unwrap();
    stand.wait_for(Family::V6, 1, "waits", |b| b.waiting == Some(1)).unwrap();

    let (first, _) = whole.split_at(whole.rfind("\n[[service]]").unwrap());
    stand.agent.write_config(first).unwrap();
    let (status, out, err) = reload(&stand);
    assert_eq!((status, err.as_str()), (Some(0), ""));
    assert!(out.contains("  service superset-v6: removed, with its backends\n"), "{out}");
    // It waits in silence, and is told all the same.
    let told = Instant::now();
    assert!(lost.receive().is_err());
    assert!(told.elapsed() < Duration::from_secs(3), "{:?}", told.elapsed());
    assert!(Held::open(&stand.lab, stand.topology().vip(Family::V6)).is_err());
    is_in_sync(&stand);

    stand.agent.write_config(&whole).unwrap();
    assert_eq!(reload(&stand).0, Some(0));
    for n in 1..=3 {
        stand.wait_for(Family::V6, n, "is there again", |b| b.state == "healthy" && b.in_ring).unwrap();
    }
    stand.flawless(Family::V6).unwrap();

    drain(&stand, DRAINED);
    let vip = stand.topology().vip(Family::V6);
    let (old, moved) = (format!("\"{vip}\""), format!("\"[{}]:8080\"", vip.ip()));
    stand.agent.write_config(&whole.replacen(&old, &moved, 1)).unwrap();
    let (status, out, _) = reload(&stand);
    assert_eq!(status, Some(0));
    assert!(out.ends_with("reloaded, 1 change:\n  service superset-v6: changed vip\n"), "{out}");
    stand.wait_for(Family::V6, DRAINED, "stays away", |b| b.state == "drained" && !b.in_ring).unwrap();
    stand.wait_for(Family::V6, 1, "is still healthy", |b| b.state == "healthy" && b.in_ring).unwrap();
    let at = |port| Held::open(&stand.lab, std::net::SocketAddr::new(vip.ip(), port));
    for _ in 0..20 {
        assert_ne!(at(8080).unwrap().server(), backend_host(DRAINED));
    }
    assert!(at(vip.port()).is_err());
    is_in_sync(&stand);
    assert_eq!(kept.ask().unwrap(), backend_host(1));
    let report = other.report();
    assert!(report.failed.is_empty() && report.ok > 100, "{report:?}");
    stand.check().unwrap();
}

/// Who may change something over TCP, and how log lines look, follow the file.
#[test]
fn access_and_log_follow_the_file() {
    const TOKEN: &str = "4a1f0c2e9b7d5a38";
    require_agent!("access_and_log_follow_the_file");
    let stand = stand(2, &[]);
    let plain = text(&stand, &[]);
    let token = tempfile::NamedTempFile::new().unwrap();
    let with = |lines: &str| plain.replacen("[agent]\n", &format!("[agent]\n{lines}\n"), 1);
    let post = || {
        let bearer = format!("Authorization: Bearer {TOKEN}");
        let url = "http://127.0.0.1:9470/v1/reload";
        let command =
            ["curl", "-sS", "--max-time", "20", "-X", "POST", "-H", &bearer, "-w", "%{http_code}", url];
        let said = stand.lab.exec(LB, &command).unwrap();
        said[said.len() - 3..].to_owned()
    };
    assert_eq!(post(), "403");
    // A token that cannot be is an error of the configuration, as at the start.
    let file = with(&format!("admin_token_file = {:?}", token.path()));
    stand.agent.write_config(&file).unwrap();
    let (status, _, err) = reload(&stand);
    assert_eq!((status, err.lines().count()), (Some(2), 1), "{err}");
    assert!(err.contains("agent.admin_token_file: ") && err.contains("is empty"), "{err}");
    assert_eq!(post(), "403");
    std::fs::write(token.path(), TOKEN).unwrap();
    assert_eq!(reload(&stand).0, Some(0));
    assert_eq!(post(), "200");
    stand.agent.write_config(&with("log_format = \"json\"")).unwrap();
    assert_eq!(post(), "200", "it was let in before the file said no");
    assert_eq!(post(), "403");
    assert_eq!(reload(&stand).0, Some(0));
    let log = stand.agent.log();
    let last: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!(last["message"], "configuration reloaded: nothing in it is new", "{log}");
    stand.agent.write_config(&plain).unwrap();
    assert_eq!(reload(&stand).0, Some(0));
    assert_eq!(reload(&stand).0, Some(0));
    let log = stand.agent.log();
    assert!(
        log.lines().last().unwrap().ends_with(" INFO configuration reloaded: nothing in it is new"),
        "{log}"
    );
}
