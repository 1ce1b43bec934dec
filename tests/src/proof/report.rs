//! What a proof found: a table, aims that hold or not, and the same as JSON.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::machine::Machine;

/// One line of the table: figures in the order of the columns.
#[derive(Clone, Debug)]
struct Row {
    name: String,
    figures: Vec<Option<f64>>,
}

/// What must hold.
#[derive(Clone, Debug, Serialize)]
pub struct Aim {
    /// In words, with the figures that were seen.
    pub what: String,
    /// Whether it holds.
    pub met: bool,
}

/// A proof's outcome.
#[derive(Clone, Debug)]
pub struct Report {
    name: &'static str,
    machine: Machine,
    /// How long it took, set-up included.
    pub took: Duration,
    columns: Vec<&'static str>,
    rows: Vec<Row>,
    /// What must hold.
    pub aims: Vec<Aim>,
    /// Sentences below the table.
    pub notes: Vec<String>,
}

impl Report {
    /// An empty one by this name with these columns; units are in their names.
    #[must_use]
    pub fn new(name: impl Into<&'static str>, columns: &[&'static str]) -> Self {
        Self {
            name: name.into(),
            machine: Machine::here(),
            took: Duration::ZERO,
            columns: columns.to_vec(),
            rows: Vec::new(),
            aims: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds a line; a figure that is `None` is left empty.
    pub fn row(&mut self, name: &str, figures: impl IntoIterator<Item = Option<f64>>) {
        self.rows.push(Row { name: name.to_owned(), figures: figures.into_iter().collect() });
    }

    /// Adds what must hold.
    pub fn aim(&mut self, met: bool, what: impl Into<String>) {
        self.aims.push(Aim { what: what.into(), met });
    }

    /// Adds a sentence below the table.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Why the proof failed, in one line; `None` when every aim holds. A proof without aims proves nothing.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        let missed: Vec<&str> =
            self.aims.iter().filter(|aim| !aim.met).map(|aim| aim.what.as_str()).collect();
        if self.aims.is_empty() {
            return Some(format!("{}: nothing was checked", self.name));
        }
        (!missed.is_empty()).then(|| format!("{}: not so: {}", self.name, missed.join("; ")))
    }

    /// All of it in one line: what holds and what does not.
    #[must_use]
    pub fn line(&self) -> String {
        let aims = self
            .aims
            .iter()
            .map(|aim| if aim.met { aim.what.clone() } else { format!("NOT SO: {}", aim.what) });
        let verdict = if self.failure().is_none() { "holds" } else { "FAILED" };
        let seconds = self.took.as_secs_f64();
        format!("{:<12} {verdict:<7} {seconds:>4.0} s  {}", self.name, aims.collect::<Vec<_>>().join("; "))
    }

    /// The table with its head, aims and notes.
    #[must_use]
    pub fn text(&self) -> String {
        let m = &self.machine;
        let mut out = format!(
            "proof {}: {}, kernel {}, {} ({} CPUs), commit {}, {:.0} s\n",
            self.name,
            m.date,
            m.kernel,
            m.cpu,
            m.cpus,
            m.commit,
            self.took.as_secs_f64()
        );
        let first = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or_default();
        let _ = write!(out, "{:first$}", "");
        for column in &self.columns {
            let _ = write!(out, "  {column:>WIDTH$}");
        }
        out.push('\n');
        for row in &self.rows {
            let mut line = format!("{:first$}", row.name);
            for (figure, column) in row.figures.iter().zip(&self.columns) {
                let width = WIDTH.max(column.chars().count());
                let _ = write!(line, "  {:>width$}", figure.map_or_else(String::new, number));
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        for note in &self.notes {
            let _ = writeln!(out, "{note}");
        }
        for aim in &self.aims {
            let _ = writeln!(out, "{} {}", if aim.met { "holds: " } else { "MISSED:" }, aim.what);
        }
        out
    }

    /// Writes it as JSON to `NAME.json` in a directory; returns the path.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn save(&self, dir: &Path) -> Result<PathBuf> {
        std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let path = dir.join(format!("{}.json", self.name));
        let text = serde_json::to_string_pretty(&self.json()).context("a report as JSON")?;
        std::fs::write(&path, text + "\n").with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    fn json(&self) -> Value {
        let row = |row: &Row| {
            let figures = self.columns.iter().zip(&row.figures);
            let mut map: Map<String, Value> =
                figures.map(|(column, figure)| ((*column).to_owned(), json!(figure))).collect();
            map.insert("name".to_owned(), json!(row.name));
            Value::Object(map)
        };
        json!({
            "proof": self.name,
            "machine": self.machine,
            "seconds": self.took.as_secs_f64(),
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "aims": self.aims,
            "notes": self.notes,
            "holds": self.failure().is_none(),
        })
    }
}

/// Columns are at least as wide.
const WIDTH: usize = 9;

/// Whole numbers as they are, others with what matters of them.
fn number(value: f64) -> String {
    if value.fract() == 0.0 {
        format!("{value:.0}")
    } else if value.abs() >= 100.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::Name;

    #[test]
    fn a_proof_fails_by_one_aim_or_by_none_at_all() {
        let mut report = Report::new(Name::Kill, &["failed", "p99 ms"]);
        report.row("evenkeel", [Some(0.0), Some(1.234)]);
        report.row("haproxy", [Some(12.0), None]);
        assert_eq!(report.failure().unwrap(), "kill: nothing was checked");
        report.aim(true, "none failed");
        assert_eq!(report.failure(), None);
        assert_eq!(report.json()["holds"], true);
        report.aim(false, "1.23 ms at most 1");
        assert_eq!(report.failure().unwrap(), "kill: not so: 1.23 ms at most 1");
        let text = report.text();
        assert!(text.contains("evenkeel          0       1.23\n"), "{text}");
        assert!(text.contains("haproxy          12\n"), "{text}");
        assert!(text.contains("MISSED: 1.23 ms at most 1\n"), "{text}");
        let json = report.json();
        assert_eq!((&json["rows"][1]["failed"], &json["rows"][1]["p99 ms"]), (&json!(12.0), &Value::Null));
        assert_eq!(json["holds"], false);
    }
}
