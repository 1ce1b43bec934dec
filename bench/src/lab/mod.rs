//! `bench lab`: balancers in a network of namespaces, measured with real clients and servers.
//!
//! Every balancer gets fresh namespaces each round, and rounds are interleaved, so that what disturbs the machine
//! disturbs all alike. Two CPUs are used. Clients run on CPU 0 and servers on CPU 1; the kernel processes a packet
//! where it was sent, so that requests cost the client's CPU and responses the server's, and proxies run where the
//! scheduler puts them. For CPU time and packet rate the balancer has CPU 1 for itself and all else shares CPU 0.

mod aims;
mod balancer;
mod cpu;
mod exchange;
mod forwarder;
mod rate;
mod row;
mod stand;
mod task_clock;
mod wrk;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use balancer::Balancer;
use clap::ValueEnum;
use exchange::Direction;
use rate::Traffic;
use row::Row;
use stand::{Service, Stand};
use task_clock::TaskClock;

use crate::report::{self, Report};

/// Requests, latency, throughput, packet rate and CPU time through Evenkeel and six others
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Short measurements: shows that it works, not how fast
    #[arg(long)]
    quick: bool,
    /// Interleaved rounds, about 100 seconds each [default: 5; 1 with --quick]
    #[arg(long)]
    rounds: Option<u32>,
    /// Only these programs
    #[arg(long, value_delimiter = ',')]
    programs: Vec<Balancer>,
    /// Directory for lab.json and lab.svg
    #[arg(long, default_value_os_t = report::default_dir())]
    out: PathBuf,
}

/// How long parts of a round take.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// Each wrk, in seconds.
    load: u32,
    /// Each series of exchanges, and each transfer.
    series: Duration,
    /// Each kind of frames.
    frames: Duration,
}

const FULL: Times = Times { load: 2, series: Duration::from_millis(800), frames: Duration::from_millis(600) };
const QUICK: Times =
    Times { load: 1, series: Duration::from_millis(200), frames: Duration::from_millis(200) };

/// The command.
///
/// # Errors
/// When a program cannot be started or measured, or a result cannot be written.
pub(crate) fn run(args: &Args) -> Result<()> {
    let rounds = args.rounds.unwrap_or(if args.quick { 1 } else { 5 }).max(1);
    let times = if args.quick { QUICK } else { FULL };
    let programs: &[Balancer] =
        if args.programs.is_empty() { Balancer::value_variants() } else { &args.programs };
    let mut figures = Figures::new();
    let start = Instant::now();
    for round in 1..=rounds {
        for balancer in programs {
            let (seconds, name) = (start.elapsed().as_secs(), balancer.label());
            report::progress(&format!("[{seconds:>4} s] round {round} of {rounds}: {name}"));
            let mut add = |row, value| figures.entry((row, *balancer)).or_default().push(value);
            measure(*balancer, times, &mut add).with_context(|| format!("measure {name}"))?;
        }
    }
    let mut report = Report::new("lab", usize::try_from(rounds).context("number of rounds")?);
    report.rows = rows(&figures, programs);
    aims::judge(&mut report);
    report.finish(&args.out)
}

/// What was measured: a figure for each round.
type Figures = BTreeMap<(Row, Balancer), Vec<f64>>;

fn rows(figures: &Figures, programs: &[Balancer]) -> Vec<report::Row> {
    let row = |row: Row, balancer: Balancer| {
        let values = figures.get(&(row, balancer))?;
        Some(report::Row {
            scenario: row.label().into(),
            program: balancer.label().into(),
            median: report::median(values),
            min: report::least(values),
            unit: row.unit(),
            net: None,
        })
    };
    Row::ALL.iter().flat_map(|r| programs.iter().filter_map(|p| row(*r, *p))).collect()
}

/// Everything about one balancer, once.
fn measure(balancer: Balancer, times: Times, add: &mut dyn FnMut(Row, f64)) -> Result<()> {
    let stand = Stand::new(balancer)?;
    requests(&stand, times, add)?;
    exchanges(&stand, times.series, add)?;
    cpu_time(&stand, times.load, add)?;
    drop(stand);
    if balancer.forwards_packets() {
        packets(&Stand::new(balancer)?, times.frames, add)?;
    }
    Ok(())
}

fn requests(stand: &Stand, times: Times, add: &mut dyn FnMut(Row, f64)) -> Result<()> {
    let target = stand.target(Service::Web);
    add(Row::KeepAlive, wrk::run(&stand.lab, target, times.load, false)?.rate);
    add(Row::NewConnections, wrk::run(&stand.lab, target, times.load, true)?.rate);
    Ok(())
}

fn exchanges(stand: &Stand, series: Duration, add: &mut dyn FnMut(Row, f64)) -> Result<()> {
    let target = stand.target(Service::Answers);
    let mut took = stand.client(|| exchange::connect_request_response(target, series))?;
    add(Row::ExchangeP50, exchange::quantile(&mut took, 0.5)?);
    add(Row::ExchangeP99, exchange::quantile(&mut took, 0.99)?);
    let target = stand.target(Service::Streams);
    let mut took = stand.client(|| exchange::ping_pong(target, series))?;
    add(Row::PingP50, exchange::quantile(&mut took, 0.5)?);
    add(Row::PingP99, exchange::quantile(&mut took, 0.99)?);
    for (row, direction) in [(Row::BulkDown, Direction::Down), (Row::BulkUp, Direction::Up)] {
        add(row, stand.client(|| exchange::bulk(target, &stand.server, direction, series))?);
    }
    Ok(())
}

fn cpu_time(stand: &Stand, seconds: u32, add: &mut dyn FnMut(Row, f64)) -> Result<()> {
    let threads = stand.set_apart()?.balancer;
    let clocks = threads.into_iter().map(TaskClock::start).collect::<Result<Vec<_>>>()?;
    let outcome = wrk::run(&stand.lab, stand.target(Service::Web), seconds, true)?;
    let spent = clocks.iter().map(TaskClock::read).sum::<Result<Duration>>()?;
    let milliseconds = spent.as_secs_f64() * 1e3;
    add(Row::ApartConnections, outcome.rate);
    add(Row::CpuPerConnection, milliseconds / (outcome.requests / 1e3));
    Ok(())
}

fn packets(stand: &Stand, duration: Duration, add: &mut dyn FnMut(Row, f64)) -> Result<()> {
    let kinds = [
        (Traffic::Flows(1_000), Row::RateFew, Row::TimeFew),
        (Traffic::Flows(200_000), Row::RateMany, Row::TimeMany),
        (Traffic::Syns, Row::RateSyns, Row::TimeSyns),
    ];
    let rates = rate::measure(stand, &kinds.map(|(kind, _, _)| kind), duration)?;
    for ((_, rate_row, time_row), rate) in kinds.into_iter().zip(rates) {
        add(rate_row, rate.mpps);
        add(time_row, rate.nanoseconds);
    }
    Ok(())
}
