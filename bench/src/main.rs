//! Evenkeel's benchmarks. Run them by `cargo xtask bench packet|lab|control`, which builds what they load.
//!
//! Each prints a table and leaves `target/bench/NAME.json` and `NAME.svg`; progress goes to stderr.

use std::process::ExitCode;

use clap::Parser;

#[path = "../ebpf/src/abi.rs"]
#[expect(
    dead_code,
    unreachable_pub,
    clippy::cast_possible_truncation,
    reason = "shared with the XDP programs, which use all of it and cut bit fields on purpose"
)]
mod abi;
mod control;
mod lab;
mod machine;
mod packet;
mod report;

/// Evenkeel's benchmarks
#[derive(Parser)]
#[command(name = "lb-bench")]
enum Bench {
    Packet(packet::Args),
    Lab(lab::Args),
    Control(control::Args),
}

fn main() -> ExitCode {
    let outcome = match Bench::parse() {
        Bench::Packet(args) => packet::run(&args),
        Bench::Lab(args) => lab::run(&args),
        Bench::Control(args) => control::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            report::progress(&format!("error: {e:#}"));
            ExitCode::FAILURE
        }
    }
}
