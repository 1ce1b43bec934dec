//! The data path on Debian's 6.1 kernel, the oldest that is supported: it accepts the programs within their budget,
//! the agent writes and reads its maps, and packets fare there as they do here.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a panic here is how a test fails")]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lb_tests::privilege::{data_path, skipped};
use lb_tests::vm::{Image, Kit};

/// A test program that runs in the machine, and what it is told: which tests, if not all.
type Run = (&'static str, &'static [&'static str]);

/// What runs at the same time on the machine's two CPUs. Most of it is spent in the verifier, once for each program.
const LANES: [&[Run]; 2] = [&[BUDGET, RULES, NAT, NEXT_HOPS], &[FLOWS, MAPS]];

const BUDGET: Run = ("budget", &[]);
const NAT: Run = ("datapath_nat", &[]);
const RULES: Run = ("datapath_reasons", &[]);

/// Without those that are about time (an emulated clock stands still and leaps) or run a million packets.
const FLOWS: Run = (
    "flow_table",
    &[
        "states::",
        "schedulers::",
        "claims::a_new_connection_takes_the_slot_of_the_old_one",
        "claims::a_table_of_established_flows_is_full",
        "claims::families_have_tables_of_their_own",
        "claims::unused_slots_come_first",
        "expire::flows_of_a_removed_backend_are_told_apart_and_closed",
        "expire::flows_of_a_dead_backend_are_closed_and_given_back",
        "expire::odd_requests_close_nothing",
        "--skip",
        "the_time_to_the_first_byte_is_counted",
    ],
);

/// Older kernels are particular about which ring may stand in the map of rings, and how one is read.
const MAPS: Run = (
    "real_maps",
    &[
        "counters_are_added_up_and_new_owners_start_at_zero",
        "native_where_the_driver_can_and_generic_with_a_reason_where_it_cannot",
        "the_kernel_refuses_what_the_fake_refuses",
        "what_was_written_is_read_back",
    ],
);

/// The running kernel may lack VLAN devices; Debian's has them. It does not say which devices take redirected frames,
/// and that must do no harm.
const NEXT_HOPS: Run =
    ("net_hops", &["--exact", "privileged_vlan_sub_interfaces", "privileged_peer_of_a_veth_turns_gro_on"]);

/// Programs that the tests start.
const TOOLS: [&str; 2] = ["ip", "ethtool"];

#[test]
fn the_data_path_holds_on_6_1() {
    let kit = match data_path().map_err(anyhow::Error::msg).and_then(|()| Kit::find()) {
        Ok(kit) => kit,
        Err(why) => return skipped("the_data_path_holds_on_6_1", &format!("{why:#}")),
    };
    let mut image = Image::new(&kit).unwrap();
    for tool in TOOLS {
        image.program(&Path::new("/usr/sbin").join(tool), tool).unwrap();
    }
    for (name, _) in LANES.into_iter().flatten() {
        image.program(&newest(name), name).unwrap();
    }
    let lane = |runs: &&[Run]| runs.iter().map(command).collect::<String>();
    image.line(&LANES.iter().map(|runs| format!("( {}) & ", lane(runs))).collect::<String>());
    image.line("wait");
    let (_keep, packed) = image.pack().unwrap();
    let console = kit.boot(&packed).unwrap();
    for (name, arguments) in LANES.into_iter().flatten() {
        let said = output_of(name, &console);
        let passed = format!("test result: ok. {} passed; 0 failed;", count(name, arguments));
        assert!(said.contains(&passed), "{name} on 6.1, wanted \"{passed}\":\n{console}");
        assert!(!said.contains("SKIPPED"), "{name} on 6.1:\n{said}");
    }
}

/// Every line that it writes begins with its name, to tell it from the other lane's.
fn command((name, arguments): &Run) -> String {
    let arguments = arguments.join(" ");
    format!("/bin/{name} --test-threads=1 {arguments} 2>&1 | /bin/busybox sed 's/^/{name}: /'; ")
}

fn output_of(name: &str, console: &str) -> String {
    let lines = console.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// How many tests a program has on this kernel.
fn count(name: &str, arguments: &[&str]) -> usize {
    let list = Command::new(newest(name)).args(arguments).arg("--list").output().unwrap();
    let count = String::from_utf8_lossy(&list.stdout).lines().filter(|line| line.ends_with(": test")).count();
    assert!(count > 0, "{name} has no test {arguments:?}");
    count
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
