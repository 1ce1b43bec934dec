//! The unit in `deploy/systemd` is one that systemd accepts.

use std::path::Path;
use std::process::Command;

const UNIT: &str = include_str!("../../deploy/systemd/evenkeel.service");
const INSTALLED: &str = "/usr/local/bin/lb-agent";

#[test]
#[expect(clippy::print_stderr, reason = "a test that cannot run must be seen not to have run")]
fn systemd_accepts_the_unit() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("SKIPPED: systemd-analyze is not installed (Debian: apt-get install systemd)");
        return;
    }
    // The unit names the binary where it is installed; here it is where cargo built it.
    let binary = env!("CARGO_BIN_EXE_lb-agent");
    assert!(Path::new(binary).exists());
    assert!(UNIT.contains(INSTALLED));
    let dir = tempfile::tempdir().unwrap();
    let unit = dir.path().join("evenkeel.service");
    let verify = |text: String| {
        std::fs::write(&unit, text).unwrap();
        // The manual page of another unit, or the directories of the machine's own units, are not what is tested.
        Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output().unwrap()
    };
    let out = verify(UNIT.replace(INSTALLED, binary));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    assert!(!said.contains("evenkeel.service"), "accepted with complaints: {said}");

    let broken = verify(UNIT.replace(INSTALLED, binary).replace("Type=simple", "Type=smple"));
    let said = String::from_utf8_lossy(&broken.stderr);
    assert!(said.contains("evenkeel.service"), "a mistake in the unit must be seen: {said}");
}

/// Every subcommand and option that the unit uses exists.
#[test]
fn the_unit_starts_the_agent_as_it_wants_to_be_started() {
    let line = UNIT.lines().find_map(|l| l.strip_prefix("ExecStart=")).unwrap();
    let args: Vec<&str> = line.split(' ').skip(1).collect();
    let out = Command::new(env!("CARGO_BIN_EXE_lb-agent")).args(&args).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{said}");
    assert!(said.starts_with("/etc/evenkeel/lb.toml: "), "{said}");

    let line = UNIT.lines().find_map(|l| l.strip_prefix("ExecReload=")).unwrap();
    let args: Vec<&str> = line.split(' ').skip(1).chain(["--help"]).collect();
    let out = Command::new(env!("CARGO_BIN_EXE_lb-agent")).args(&args).output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
}
