//! End to end: a configuration with errors changes nothing on the machine.
#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::collections::BTreeMap;
use std::process::Command;

use lb_tests::e2e::{LIMIT, xdp_modes};
use lb_tests::lab::{Agent, LB, Lab, Settings, Topology, programs};
use lb_tests::packet::world::Family;
use lb_tests::require_agent;

/// A lab's configuration with five errors of five kinds. Where each is, as a line of the file and a key.
fn five_errors(topology: &Topology) -> (String, Vec<(usize, &'static str)>) {
    let text = Settings::default().text(topology);
    let vip = topology.vip(Family::V6);
    let backend = topology.backend(1, Family::V4);
    let changes = [
        ("xdp_mode = \"native\"".to_owned(), "xdp_mode = \"fast\"".to_owned(), "agent.xdp_mode"),
        ("[nat]".to_owned(), "[nat]\nports = \"5000-4000\"".to_owned(), "nat.ports"),
        ("expect_body".to_owned(), "expect_bdy".to_owned(), "service[0].health.expect_bdy"),
        (backend.to_string(), "127.0.0.1:8088".to_owned(), "service[0].backend[0].address"),
        (vip.to_string(), format!("[{}]", vip.ip()), "service[1].vip"),
    ];
    let wrong = changes.iter().fold(text, |text, (right, wrong, _)| text.replacen(right, wrong, 1));
    let line = |wrong_line: &str| wrong.lines().position(|line| line.contains(wrong_line)).unwrap() + 1;
    let found = changes.iter().map(|(_, to, key)| (line(to.lines().last().unwrap()), *key)).collect();
    (wrong, found)
}

/// What the agent could have changed on a host.
fn state_of(lab: &Lab, host: &str) -> Vec<String> {
    ["addr", "link", "rule", "-6 rule", "route show table all", "-6 route show table all"]
        .map(|what| lab.exec(host, &format!("ip {what}").split(' ').collect::<Vec<_>>()).unwrap())
        .to_vec()
}

/// Exit status 2, and every error on a line of its own with file, line and key, by `check` as by `run`. Nothing is attached,
/// pinned, addressed or routed.
#[test]
fn a_wrong_configuration_changes_nothing() {
    require_agent!("a_wrong_configuration_changes_nothing");
    // On a BPF file system of its own, whatever is pinned elsewhere on the machine.
    const WITH_BPFFS: &str = "mount -t bpf bpf /sys/fs/bpf || exit 99; find /sys/fs/bpf >\"$0.before\"; \"$@\"; \
        code=$?; find /sys/fs/bpf >\"$0.after\"; exit $code";
    let lab = Lab::new(Topology::two_arm(1)).unwrap();
    let (wrong, errors) = five_errors(lab.topology());
    let files = tempfile::tempdir().unwrap();
    let config = files.path().join("lb.toml");
    std::fs::write(&config, wrong).unwrap();
    let before = state_of(&lab, LB);
    for what in ["check", "run"] {
        let pins = files.path().join(what);
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", WITH_BPFFS]).arg(&pins).arg(programs::agent().unwrap());
        let output = lab.output(LB, command.args([what, "--config"]).arg(&config)).unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout), (Some(2), vec![]), "{what}: {said}");
        assert_eq!(said.lines().count(), errors.len(), "{what}: {said}");
        for (line, (number, key)) in said.lines().zip(&errors) {
            assert!(line.starts_with(&format!("{}:{number}: {key}: ", config.display())), "{what}: {said}");
        }
        let pinned = ["before", "after"].map(|when| std::fs::read(pins.with_extension(when)).unwrap());
        assert_eq!(pinned[0], pinned[1]);
        assert_eq!(xdp_modes(&lab, LB).unwrap(), BTreeMap::new());
        assert_eq!(state_of(&lab, LB), before);
    }
}

/// What fits no node, or not this one, is refused as well.
#[test]
fn a_configuration_for_another_node_changes_nothing() {
    require_agent!("a_configuration_for_another_node_changes_nothing");
    let lab = Lab::new(Topology::two_arm(1)).unwrap();
    let text = Settings::default().text(lab.topology()).replace("eth1", "eth7");
    lab.sysctl(LB, &[("ipv4/ip_local_port_range", "30000 60999")]).unwrap();
    let mut agent = Agent::spawn(&lab, &text).unwrap();
    assert_eq!(agent.process().wait(LIMIT).unwrap().code(), Some(2));
    let log = agent.log();
    assert!(log.contains("eth7") && log.contains("ip_local_port_range"), "{log}");
    assert_eq!(xdp_modes(&lab, LB).unwrap(), BTreeMap::new());
}
