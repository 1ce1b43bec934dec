//! `cargo xtask bench`: the benchmarks.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::build::{self, ObjectKind};
use crate::needs::Purpose;
use crate::run::{is_root, root};
use crate::setup;

/// Measure: nanoseconds per packet, a whole lab against other balancers, the control path
///
/// Sets up and builds with optimization first. Prints a table and writes JSON and an SVG chart to target/bench.
/// Needs root.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to measure
    what: What,
    /// Options of the benchmark itself; "cargo xtask bench WHAT -- --help" lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<OsString>,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// Nanoseconds per packet, by running the program on packets in memory
    Packet,
    /// Request rates, latency, throughput and CPU time through network namespaces
    Lab,
    /// Ring builds, health to map latency, flow table scans, memory
    Control,
}

/// The command; replaces this process by the benchmark's own program.
///
/// # Errors
/// When this user is not root, or something does not compile.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if !is_root() {
        bail!("benchmarks need root, for XDP and network namespaces: run them as root");
    }
    setup::ensure(Purpose::Bench)?;
    build::objects(ObjectKind::Plain)?;
    let [agent, bench] = build::programs([build::AGENT, ("lb-bench", "lb-bench")], true)?;
    let what = match args.what {
        What::Packet => "packet",
        What::Lab => "lab",
        What::Control => "control",
    };
    let mut cmd = Command::new(&bench);
    cmd.arg(what).args(&args.options).env("EVENKEEL_AGENT", agent).current_dir(root());
    Err(cmd.exec()).with_context(|| format!("cannot start {}", bench.display()))
}
