//! `bench control`: what the agent does, on real maps.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::report::{self, Report, Row, least, median};

mod memory;
mod rings;
mod scan;

/// Name of the agent in rows.
const AGENT: &str = "agent";

/// Ring builds, health to map latency, flow table scans, memory
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Small tables and few rounds: shows that it works, not how fast
    #[arg(long)]
    quick: bool,
    /// Rounds [default: 15; 3 with --quick]
    #[arg(long)]
    rounds: Option<usize>,
    /// Directory for control.json and control.svg
    #[arg(long, default_value_os_t = report::default_dir())]
    out: PathBuf,
    /// Print the memory of a process with a table of so many blocks, and of its maps
    #[arg(long, hide = true)]
    measure_memory: Option<u32>,
}

/// The command.
///
/// # Errors
/// When maps cannot be made or written.
pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(blocks) = args.measure_memory {
        return memory::child(blocks);
    }
    let rounds = args.rounds.unwrap_or(if args.quick { 3 } else { 15 }).max(1);
    let mut report = Report::new("control", rounds);
    let sizes: &[u32] = if args.quick { &[3, 100] } else { &[3, 10, 100, 1000] };
    rings::measure(sizes, rounds, &mut report)?;
    scan::measure(if args.quick { 2 } else { 32 }, rounds, &mut report)?;
    for blocks in if args.quick { &[2][..] } else { &[2, 32] } {
        memory::measure(*blocks, &mut report)?;
    }
    report.finish(&args.out)
}

/// Adds a row of times in milliseconds.
fn add_times(report: &mut Report, scenario: String, times: &[Duration]) {
    let values: Vec<f64> = times.iter().map(|t| t.as_secs_f64() * 1e3).collect();
    add(report, scenario, "ms", &values);
}

fn add(report: &mut Report, scenario: String, unit: &'static str, values: &[f64]) {
    report.rows.push(Row {
        scenario,
        program: AGENT.into(),
        median: median(values),
        min: least(values),
        unit,
        net: None,
    });
}

/// How long something takes, with what it gives.
fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(Duration, T)> {
    let start = Instant::now();
    let result = work()?;
    Ok((start.elapsed(), result))
}
