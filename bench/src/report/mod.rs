//! What a benchmark found: rows and ratios, as a table, as JSON and as a chart. Shared by all benchmarks.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::machine::{Machine, root};

mod chart;
mod table;

/// One program in one scenario.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// What was done.
    pub(crate) scenario: String,
    /// What did it.
    pub(crate) program: String,
    /// Median of the rounds.
    pub(crate) median: f64,
    /// Least of the rounds: what the program costs where nothing else disturbs it.
    pub(crate) min: f64,
    /// Of `median`, `min` and `net`.
    pub(crate) unit: &'static str,
    /// Median less what the measuring itself costs, where that is known.
    pub(crate) net: Option<f64>,
}

/// What is hoped for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Aim {
    /// A ratio not above this.
    AtMost(f64),
    /// A ratio not below this.
    AtLeast(f64),
}

/// Two rows of the same kind.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Ratio {
    /// Scenario of the row that is judged.
    pub(crate) scenario: String,
    /// Its program.
    pub(crate) program: String,
    /// What it is compared with: a program, or another scenario.
    pub(crate) against: String,
    /// Its figure by the other's; net figures where there are such.
    pub(crate) ratio: f64,
    /// What was hoped for.
    pub(crate) aim: Option<Aim>,
    /// Whether it came true.
    pub(crate) met: Option<bool>,
}

/// A benchmark's outcome.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// `packet`, `lab` or `control`; the name of its files.
    pub(crate) bench: &'static str,
    /// Where.
    #[serde(flatten)]
    pub(crate) machine: Machine,
    /// Interleaved rounds; each figure is their median.
    pub(crate) rounds: usize,
    /// In the order in which they were measured.
    pub(crate) rows: Vec<Row>,
    /// Of these rows.
    pub(crate) ratios: Vec<Ratio>,
}

impl Row {
    /// The figure to compare.
    pub(crate) fn figure(&self) -> f64 {
        self.net.unwrap_or(self.median)
    }
}

impl Report {
    /// An empty one.
    pub(crate) fn new(bench: &'static str, rounds: usize) -> Self {
        Self { bench, machine: Machine::here(), rounds, rows: Vec::new(), ratios: Vec::new() }
    }

    /// The row of a program in a scenario.
    pub(crate) fn row(&self, scenario: &str, program: &str) -> Option<&Row> {
        self.rows.iter().find(|r| r.scenario == scenario && r.program == program)
    }

    /// Compares a program with another in the same scenario. Nothing when either has no row.
    pub(crate) fn compare(&mut self, scenario: &str, program: &str, base: &str, aim: Option<Aim>) {
        let figures =
            (self.row(scenario, program).map(Row::figure), self.row(scenario, base).map(Row::figure));
        if let (Some(mine), Some(base_figure)) = figures {
            self.ratio(scenario, program, base, mine / base_figure, aim);
        }
    }

    /// Compares a program with itself in another scenario. Nothing when there is no row of either.
    pub(crate) fn compare_scenarios(&mut self, scenario: &str, base: &str, program: &str, aim: Option<Aim>) {
        let figures =
            (self.row(scenario, program).map(Row::figure), self.row(base, program).map(Row::figure));
        if let (Some(mine), Some(base_figure)) = figures {
            self.ratio(scenario, program, base, mine / base_figure, aim);
        }
    }

    fn ratio(&mut self, scenario: &str, program: &str, against: &str, ratio: f64, aim: Option<Aim>) {
        let met = aim.map(|aim| match aim {
            Aim::AtMost(limit) => ratio <= limit,
            Aim::AtLeast(limit) => ratio >= limit,
        });
        let (scenario, program, against) = (scenario.into(), program.into(), against.into());
        self.ratios.push(Ratio { scenario, program, against, ratio, aim, met });
    }

    /// Prints the table, and writes JSON and chart to `dir`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(crate) fn finish(&self, dir: &Path) -> Result<()> {
        let files = self.save(dir)?;
        let mut out = std::io::stdout().lock();
        write!(out, "{}", table::render(self)).context("cannot write to stdout")?;
        files.iter().try_for_each(|f| writeln!(out, "{}", f.display()).context("cannot write to stdout"))
    }

    fn save(&self, dir: &Path) -> Result<[PathBuf; 2]> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let json = dir.join(format!("{}.json", self.bench));
        let text = serde_json::to_string_pretty(self).context("cannot write the report as JSON")?;
        fs::write(&json, text + "\n").with_context(|| format!("cannot write {}", json.display()))?;
        let svg = dir.join(format!("{}.svg", self.bench));
        chart::write(self, &svg).with_context(|| format!("cannot write {}", svg.display()))?;
        Ok([json, svg])
    }
}

/// Where reports go unless the command line says otherwise.
pub(crate) fn default_dir() -> PathBuf {
    root().join("target/bench")
}

/// Says on stderr what is being done.
pub(crate) fn progress(text: &str) {
    // Nobody to tell when stderr is closed.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Median of some figures; 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
    match (sorted.get(low), sorted.get(high)) {
        (Some(a), Some(b)) => f64::midpoint(*a, *b),
        _ => 0.0,
    }
}

/// Least of some figures; 0 of none.
pub(crate) fn least(values: &[f64]) -> f64 {
    values.iter().copied().reduce(f64::min).unwrap_or(0.0)
}

/// A figure as a whole number, within what it can hold.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
pub(crate) const fn whole(value: f64) -> u32 {
    value as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_or_between() {
        assert_eq!(
            [median(&[]), median(&[3.0]), median(&[9.0, 1.0]), median(&[5.0, 1.0, 2.0])],
            [0.0, 3.0, 5.0, 2.0]
        );
        assert_eq!(least(&[3.0, 1.0, 2.0]), 1.0);
    }

    fn report() -> Report {
        let row = |program: &str, median, net| Row {
            scenario: "hit".into(),
            program: program.into(),
            median,
            min: median,
            unit: "ns",
            net,
        };
        let mut report = Report::new("packet", 5);
        report.rows =
            vec![row("wrapper", 20.0, None), row("ref", 120.0, Some(100.0)), row("lb", 70.0, Some(50.0))];
        report
    }

    #[test]
    fn ratios_are_of_net_figures_and_judged() {
        let mut report = report();
        report.compare("hit", "lb", "ref", Some(Aim::AtMost(0.6)));
        report.compare("hit", "ref", "lb", Some(Aim::AtMost(0.6)));
        report.compare("hit", "lb", "absent", Some(Aim::AtMost(0.6)));
        let ratios: Vec<_> = report.ratios.iter().map(|r| (r.ratio, r.met)).collect();
        assert_eq!(ratios, [(0.5, Some(true)), (2.0, Some(false))]);
        let table = table::render(&report);
        assert!(table.contains("0.50 of ref, aim ≤ 0.60 met"), "{table}");
        assert!(table.contains("2.00 of lb, aim ≤ 0.60 MISSED"), "{table}");
    }

    #[test]
    fn files_hold_every_row() {
        let dir = std::env::temp_dir().join(format!("lb-bench-report-{}", std::process::id()));
        report().save(&dir).unwrap();
        let json: serde_json::Value =
            serde_json::from_slice(&fs::read(dir.join("packet.json")).unwrap()).unwrap();
        assert_eq!(json["rows"][2]["net"], 50.0);
        assert!(json["kernel"].is_string() && json["commit"].is_string());
        let svg = fs::read_to_string(dir.join("packet.svg")).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("wrapper"), "{svg}");
        fs::remove_dir_all(&dir).unwrap();
    }
}
