//! Debian's 6.1 kernel accepts the programs within their budget, and VLAN devices lead to next hops there.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a panic here is how a test fails")]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lb_tests::privilege::{data_path, skipped};
use lb_tests::vm::{Image, Kit};

/// Test programs that run in the machine, with what they are told.
const RUNS: [(&str, &[&str]); 3] = [
    ("budget", &[]),
    // Older kernels are particular about which ring may stand in the map of rings.
    ("real_maps", &["--exact", "what_was_written_is_read_back"]),
    // The running kernel may lack VLAN devices; Debian's has them.
    // It does not say which devices take redirected frames, and that must do no harm.
    ("net_hops", &["--exact", "privileged_vlan_sub_interfaces", "privileged_peer_of_a_veth_turns_gro_on"]),
];

#[test]
fn programs_load_on_6_1() {
    let kit = match data_path().map_err(anyhow::Error::msg).and_then(|()| Kit::find()) {
        Ok(kit) => kit,
        Err(why) => return skipped("programs_load_on_6_1", &format!("{why:#}")),
    };
    let mut image = Image::new(&kit).unwrap();
    image.program(Path::new("/usr/sbin/ip"), "ip").unwrap();
    for (name, arguments) in RUNS {
        image.program(&newest(name), name).unwrap();
        image.line(&format!("echo BEGIN {name}"));
        image.line(&format!("/bin/{name} {} 2>&1", arguments.join(" ")));
    }
    let (_keep, packed) = image.pack().unwrap();
    let console = kit.boot(&packed).unwrap();
    for (name, arguments) in RUNS {
        let output = console.split(&format!("BEGIN {name}\n")).nth(1).unwrap_or_default();
        let output = output.split("BEGIN ").next().unwrap_or_default();
        let passed = format!("test result: ok. {} passed; 0 failed;", count(name, arguments));
        assert!(output.contains(&passed), "{name} on 6.1, wanted \"{passed}\":\n{console}");
        assert!(!output.contains("SKIPPED"), "{name} on 6.1:\n{output}");
    }
}

/// How many tests a program has on this kernel.
fn count(name: &str, arguments: &[&str]) -> usize {
    let list = Command::new(newest(name)).args(arguments).arg("--list").output().unwrap();
    String::from_utf8_lossy(&list.stdout).lines().filter(|line| line.ends_with(": test")).count()
}

/// The test program that was built last: they stand beside this one, with a hash in their names.
fn newest(name: &str) -> PathBuf {
    let here = env::current_exe().unwrap();
    let programs = fs::read_dir(here.parent().expect("a directory")).unwrap().flatten();
    programs
        .filter(|entry| {
            let file = entry.file_name().to_string_lossy().into_owned();
            file.strip_prefix(&format!("{name}-"))
                .is_some_and(|hash| hash.chars().all(|c| c.is_ascii_hexdigit()))
        })
        .max_by_key(|entry| entry.metadata().and_then(|m| m.modified()).ok())
        .expect("test programs stand beside each other: run \"cargo xtask test\"")
        .path()
}
