//! Plays the scenarios of a stage, the programs taking turns.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use lb_agent::dataplane::Tables;
use lb_tests::packet::verify;

use super::frames::{self, STRANGERS, Shape};
use super::stage::{Fill, Row, Stage};
use super::state::{State, is_sent};
use super::subject::Subject;
use super::wrapper::Mode;
use crate::report::{self, Report, least, median, progress};

/// `enum xdp_action` of the kernel.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
/// Runs from which the length of a slice is estimated.
const TRIAL: u32 = 2000;
/// Runs whose verdicts are looked at.
const SAMPLE: u32 = 200;

/// At most this part of an empty table is filled in a slice.
const FILL_PART: u32 = 5;
/// And at most this many flows.
const FILL_MOST: u32 = 200_000;

/// A program that takes part in a stage.
struct Player<'a> {
    subject: &'a mut Subject,
    tables: Tables,
    state: State,
}

/// One program in one scenario.
struct Series {
    /// Runs in a slice.
    runs: u32,
    nanoseconds: Vec<f64>,
}

/// Measures every scenario of a stage. The first subject is the wrapper alone.
pub(super) fn stage(
    stage: &Stage,
    subjects: &mut [Subject],
    rounds: usize,
    slice: Duration,
    report: &mut Report,
) -> Result<()> {
    let mut players = Vec::new();
    let mut without: Vec<Subject> = stage.parts.iter().map(|part| Subject::without(*part)).collect();
    for subject in subjects.iter_mut().chain(&mut without) {
        progress(&format!("{}: set {}", stage.describe(), subject.name));
        let tables = stage.tables(subject.left_out)?;
        let state = State::set(stage, &tables, subject).with_context(|| subject.name.clone())?;
        players.push(Player { subject, tables, state });
    }
    for row in &stage.rows {
        progress(&row.name);
        let series = play(stage, row, &mut players, rounds, slice).with_context(|| row.name.clone())?;
        add_rows(row, &players, &series, report);
    }
    Ok(())
}

/// Plays all rounds of a scenario. A program that cannot take part has no times.
fn play(
    stage: &Stage,
    row: &Row,
    players: &mut [Player<'_>],
    rounds: usize,
    slice: Duration,
) -> Result<Vec<Series>> {
    let mut series: Vec<Series> =
        players.iter().map(|_| Series { runs: 0, nanoseconds: Vec::new() }).collect();
    for round in 0..rounds {
        for (player, series) in players.iter_mut().zip(&mut series) {
            if stage.fill == Fill::Nothing && round > 0 {
                player.state = State::set(stage, &player.tables, player.subject)?;
            }
            let Some(frame) = frame(stage, row.shape, &player.state) else { continue };
            let name = player.subject.name.clone();
            if round == 0 {
                prepare(stage, row, player, &frame, slice, series).context(name.clone())?;
            }
            let time = player.time(stage, row.shape, &frame, series.runs).context(name)?;
            series.nanoseconds.push(time);
        }
    }
    Ok(series)
}

/// Sees that the program does what it should, and how many runs make a slice.
fn prepare(
    stage: &Stage,
    row: &Row,
    player: &mut Player<'_>,
    frame: &[u8],
    slice: Duration,
    series: &mut Series,
) -> Result<()> {
    if player.subject.is_ours() {
        check(stage, row.shape, player, frame)?;
    }
    if stage.fill == Fill::Nothing {
        series.runs = (stage.slots() / FILL_PART).min(FILL_MOST);
        return Ok(());
    }
    player.time(stage, row.shape, frame, TRIAL)?;
    let each = player.time(stage, row.shape, frame, TRIAL)?.max(1.0);
    series.runs = report::whole(slice.as_secs_f64() * 1e9 / each).max(TRIAL);
    Ok(())
}

impl Player<'_> {
    /// Nanoseconds of CPU time of a run, over that many.
    fn time(&mut self, stage: &Stage, shape: Shape, frame: &[u8], runs: u32) -> Result<f64> {
        if stage.fill != Fill::Nothing && shape != Shape::Syn {
            // What the others have pushed out of the caches comes back first.
            self.run(stage, shape, frame, (1 << stage.flow_bits().min(20)).min(runs))?;
        }
        Ok(self.run(stage, shape, frame, runs)?.as_secs_f64() * 1e9 / f64::from(runs.max(1)))
    }

    /// Runs the program that often over frames of the shape. A SYN is of another flow each time.
    fn run(&mut self, stage: &Stage, shape: Shape, frame: &[u8], runs: u32) -> Result<Duration> {
        let start = if shape == Shape::Syn { self.subject.spend(runs) } else { 0 };
        self.state.wrapper.set_script(frame, mode(stage, shape), start)?;
        Ok(self.state.wrapper.measure(stage.family, frame, runs)?.0)
    }
}

/// Looks at the verdicts of some runs, and at one frame as it leaves.
fn check(stage: &Stage, shape: Shape, player: &mut Player<'_>, frame: &[u8]) -> Result<()> {
    let right = |verdict| match shape {
        Shape::Stray => verdict == XDP_DROP,
        Shape::NoService => verdict == XDP_PASS,
        Shape::Syn | Shape::Ack | Shape::Data | Shape::Reply => is_sent(verdict),
    };
    let out = player.state.wrapper.once(frame)?;
    ensure!(right(out.verdict), "verdict {}", out.verdict);
    verify(&out.frame).map_err(|e| anyhow!("what leaves is wrong: {e}"))?;
    for run in 0..SAMPLE {
        let start = if shape == Shape::Syn { player.subject.spend(1) } else { u64::from(run) * STRIDE };
        player.state.wrapper.set_script(frame, mode(stage, shape), start)?;
        let (_, verdict) = player.state.wrapper.measure(stage.family, frame, 1)?;
        ensure!(right(verdict), "run {run}: verdict {verdict}");
    }
    Ok(())
}

/// From one run that is looked at to the next.
const STRIDE: u64 = 4099;

pub(super) const fn mode(stage: &Stage, shape: Shape) -> Mode {
    let (bits, services) = (stage.flow_bits(), stage.services);
    match shape {
        Shape::Syn | Shape::Ack | Shape::Data => Mode::Client { bits, first: 0, services },
        Shape::Stray => Mode::Client { bits, first: STRANGERS, services },
        Shape::Reply => Mode::Reply,
        Shape::NoService => Mode::Fixed,
    }
}

/// The frame of flow 0, if the program can be given one.
fn frame(stage: &Stage, shape: Shape, state: &State) -> Option<Vec<u8>> {
    if shape != Shape::Reply {
        return Some(frames::from_client(shape, stage.family));
    }
    let (reply, forwarded) = state.first_reply.as_ref()?;
    Some(frames::from_backend(stage.family, reply, forwarded))
}

fn add_rows(row: &Row, players: &[Player<'_>], series: &[Series], report: &mut Report) {
    let wrapper = series.first().map_or(&[][..], |s| &s.nanoseconds);
    for (index, (player, series)) in players.iter().zip(series).enumerate() {
        let times = &series.nanoseconds;
        if times.is_empty() {
            continue;
        }
        let net: Vec<f64> = times.iter().zip(wrapper).map(|(gross, wrapper)| gross - wrapper).collect();
        report.rows.push(report::Row {
            scenario: row.name.clone(),
            program: player.subject.name.clone(),
            median: median(times),
            min: least(times),
            unit: "ns",
            net: (index > 0).then(|| median(&net)),
        });
    }
}
