//! `bench packet`: what a packet costs, in nanoseconds of CPU time.
//!
//! Programs are run over packets in memory. Each run is preceded by a wrapper that restores the packet (see
//! `bench/ebpf/src/bin/bench-wrap.rs`); what the wrapper costs is measured in the same rounds and taken off. The
//! programs take turns in short slices, so that whatever else the machine does meets all of them alike.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lb_agent::dataplane::ebpf::FlowTable;
use lb_tests::packet::world::Family;

use crate::machine;
use crate::report::{self, Aim, Report};

mod frames;
mod measure;
mod part;
mod stage;
mod state;
mod subject;
mod wrapper;

use stage::Stage;
use state::State;
use subject::Subject;

/// Name of the product in rows.
const PRODUCT: &str = "evenkeel";
/// Name of the reference in rows.
const REFERENCE: &str = "reference";

/// Nanoseconds per packet, by running programs on packets in memory
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Small tables and few short rounds: shows that it works, not how fast
    #[arg(long)]
    quick: bool,
    /// Interleaved rounds [default: 11; 2 with --quick]
    #[arg(long)]
    rounds: Option<usize>,
    /// Time of a program in a round, in milliseconds [default: 30; 1 with --quick]
    #[arg(long)]
    slice: Option<u64>,
    /// Measure another XDP program with the same frames: NAME=/sys/fs/bpf/PATH
    #[arg(long, value_name = "NAME=PATH")]
    against: Vec<String>,
    /// Only scenarios whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Directory for packet.json and packet.svg
    #[arg(long, default_value_os_t = report::default_dir())]
    out: PathBuf,
}

/// The command.
///
/// # Errors
/// When a program cannot be loaded or does not do with a packet what it should.
pub(crate) fn run(args: &Args) -> Result<()> {
    let rounds = args.rounds.unwrap_or(if args.quick { 2 } else { 11 }).max(1);
    let slice = Duration::from_millis(args.slice.unwrap_or(if args.quick { 1 } else { 30 }));
    let mut subjects = vec![Subject::nothing(), Subject::product(), Subject::reference()?];
    for text in &args.against {
        let Some((name, path)) = text.split_once('=') else {
            bail!("--against {text}: write NAME=/sys/fs/bpf/PATH")
        };
        subjects.push(Subject::pinned(name, path));
    }
    let mut report = Report::new("packet", rounds);
    machine::pin()?;
    for mut stage in stage::all(args.quick) {
        stage.rows.retain(|row| args.only.as_deref().is_none_or(|text| row.name.contains(text)));
        if !stage.rows.is_empty() {
            measure::stage(&stage, &mut subjects, rounds, slice, &mut report)?;
            compare(&stage, &mut report);
        }
    }
    report.finish(&args.out)
}

/// A flow table of so many blocks with a flow in every slot, and what must live as long as its program does.
pub(crate) fn full_table(blocks: u32) -> Result<(Arc<FlowTable>, impl Sized)> {
    let stage = Stage::full(Family::V4, blocks, Vec::new());
    let state = State::set(&stage, &stage.tables(None)?, &mut Subject::product())?;
    let flows = state.loaded.flows().context("the product has a flow table")?;
    Ok((flows, state))
}

fn compare(stage: &Stage, report: &mut Report) {
    for row in &stage.rows {
        report.compare(&row.name, PRODUCT, REFERENCE, row.aim.map(Aim::AtMost));
        for part in stage.parts {
            report.compare(&row.name, &Subject::without(*part).name, PRODUCT, None);
        }
        if let Some(base) = &row.flat_to {
            report.compare_scenarios(&row.name, base, PRODUCT, Some(Aim::AtMost(stage::FLAT)));
            report.compare_scenarios(&row.name, base, REFERENCE, None);
        }
    }
}
