//! The benchmarks run, and what they write can be read.
#![expect(clippy::unwrap_used, reason = "a panic here is how a test fails")]

use std::process::Command;

use serde_json::Value;

fn run(bench: &str) -> Value {
    run_with(bench, &[])
}

fn run_with(bench: &str, options: &[&str]) -> Value {
    let dir = std::env::temp_dir().join(format!("lb-bench-{bench}-{}", std::process::id()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_lb-bench"));
    let out = command.args([bench, "--quick", "--out"]).arg(&dir).args(options).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let json = std::fs::read(dir.join(format!("{bench}.json"))).unwrap();
    let svg = std::fs::read_to_string(dir.join(format!("{bench}.svg"))).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    assert!(svg.contains("</svg>"));
    serde_json::from_slice(&json).unwrap()
}

/// Whether this machine can run benchmarks; says why not.
fn can_run(test: &str) -> bool {
    let object = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/bench-wrap.o");
    let why = match (lb_tests::privilege::root(), lb_agent::object::bytes()) {
        (Err(why), _) => why,
        (Ok(()), Err(why)) => why.to_string(),
        (Ok(()), Ok(_)) if !std::path::Path::new(object).is_file() => format!("{object} was not built"),
        (Ok(()), Ok(_)) => return true,
    };
    lb_tests::privilege::skipped(test, &why);
    false
}

fn rows(report: &Value) -> &[Value] {
    let rows = report["rows"].as_array().unwrap();
    for row in rows {
        assert!(
            row["scenario"].is_string() && row["program"].is_string() && row["unit"].is_string(),
            "{row}"
        );
        let (median, min) = (row["median"].as_f64().unwrap(), row["min"].as_f64().unwrap());
        assert!(min > 0.0 && min <= median, "{row}");
    }
    rows
}

#[test]
fn packet_measures_every_program_in_every_scenario() {
    if !can_run("packet_measures_every_program_in_every_scenario") {
        return;
    }
    let report = run("packet");
    let rows = rows(&report);
    for family in ["v4", "v6"] {
        for scenario in [
            "SYN, new flow",
            "SYN, table full of embryonic",
            "ACK of a client, 1 flow",
            "data of a client, 1 k flows",
            "reply, 1 flow",
            "reply, 1 k flows",
            "no SYN, unknown to a service",
            "for no service",
            "data of a client, 1 k flows, 100 services",
            "data of a client, 1 k flows, 100 backends",
        ] {
            let scenario = format!("{family} {scenario}");
            let of = |program| rows.iter().find(|r| r["scenario"] == *scenario && r["program"] == program);
            assert!(of("wrapper").unwrap()["net"].is_null(), "{scenario}");
            for program in ["evenkeel", "reference"] {
                assert!(of(program).unwrap()["net"].is_f64(), "{scenario} {program}");
            }
        }
    }
    let ratios = report["ratios"].as_array().unwrap();
    assert!(ratios.iter().any(|r| r["against"] == "reference" && r["met"].is_boolean()));
}

#[test]
fn control_measures_rings_scans_and_memory() {
    if !can_run("control_measures_rings_scans_and_memory") {
        return;
    }
    let report = run("control");
    let rows = rows(&report);
    for start in [
        "build a ring",
        "swap a ring",
        "health decision",
        "count states",
        "read every",
        "maps of",
        "resident",
    ] {
        let found = rows.iter().any(|r| r["scenario"].as_str().is_some_and(|s| s.starts_with(start)));
        assert!(found, "{start}");
    }
}

/// Only two programs: the smallest that there are, with everything around them.
#[test]
fn lab_measures_requests_latency_and_packet_rate() {
    if !can_run("lab_measures_requests_latency_and_packet_rate") {
        return;
    }
    for tool in ["wrk", "nginx"] {
        if !["/usr/bin", "/usr/sbin"].iter().any(|dir| std::path::Path::new(dir).join(tool).is_file()) {
            let why = format!("{tool} is not installed");
            return lb_tests::privilege::skipped("lab_measures_requests_latency_and_packet_rate", &why);
        }
    }
    // CPU time is measured by the kernel's own threads, which another PID namespace does not show.
    if std::fs::read_to_string("/proc/2/comm").ok().is_none_or(|name| name.trim() != "kthreadd") {
        let why = "kernel threads cannot be seen from this PID namespace";
        return lb_tests::privilege::skipped("lab_measures_requests_latency_and_packet_rate", why);
    }
    let report = run_with("lab", &["--programs", "plain,forwarder"]);
    let rows = rows(&report);
    for program in ["plain forwarding", "smallest XDP"] {
        let of = rows.iter().filter(|r| r["program"] == program);
        assert_eq!(of.count(), 16, "{program}");
    }
}
