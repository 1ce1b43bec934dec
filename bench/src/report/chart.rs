//! The report as a chart: a bar for each row, grouped by scenario, one scale for each unit.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Report, Row, table};

const BAR: i32 = 13;
const GAP: i32 = 9;
const LABEL: i32 = 330;
const BARS: i32 = 560;
const FIGURE: i32 = 110;
const HEAD: i32 = 58;

/// Colours that are told apart by most eyes (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
    RGBColor(204, 121, 167),
    RGBColor(120, 120, 120),
];

/// Writes the chart as SVG.
pub(super) fn write(report: &Report, path: &Path) -> Result<()> {
    let programs = programs(report);
    let groups: Vec<&[Row]> = report.rows.chunk_by(|a, b| a.scenario == b.scenario).collect();
    let height = HEAD + groups.iter().map(|g| len(g) * BAR + GAP).sum::<i32>();
    let size = (LABEL + BARS + FIGURE, height);
    let area = SVGBackend::new(path, (size.0.unsigned_abs(), size.1.unsigned_abs())).into_drawing_area();
    let failed = |e: DrawingAreaErrorKind<std::io::Error>| anyhow!("{e}");
    area.fill(&WHITE).map_err(failed)?;
    let text = |text: String, at: (i32, i32), h: HPos, size: i32| {
        let style = TextStyle::from(("sans-serif", size)).pos(Pos::new(h, VPos::Center));
        area.draw(&Text::new(text, at, style)).map_err(failed)
    };
    let m = &report.machine;
    text(
        format!("bench {}: {}, {}, commit {}", report.bench, m.cpu, m.kernel, m.commit),
        (10, 16),
        HPos::Left,
        15,
    )?;
    for (x, (index, program)) in (10..).step_by(150).zip(programs.iter().enumerate()) {
        area.draw(&Rectangle::new([(x, 34), (x + 10, 44)], colour(index).filled())).map_err(failed)?;
        text((*program).to_owned(), (x + 15, 39), HPos::Left, 13)?;
    }
    let mut y = HEAD;
    for group in groups {
        let middle = y + len(group) * BAR / 2;
        let scenario = group.first().map_or_else(String::new, |r| r.scenario.clone());
        text(scenario, (LABEL - 8, middle), HPos::Right, 13)?;
        for row in group {
            let index = programs.iter().position(|p| *p == row.program).unwrap_or(0);
            let end = LABEL + length(row, report);
            area.draw(&Rectangle::new([(LABEL, y + 1), (end, y + BAR - 1)], colour(index).filled()))
                .map_err(failed)?;
            let figure = format!("{} {}", table::number(row.figure()), row.unit);
            text(figure, (end + 5, y + BAR / 2), HPos::Left, 11)?;
            y += BAR;
        }
        y += GAP;
    }
    area.present().map_err(failed)
}

fn programs(report: &Report) -> Vec<&str> {
    let mut out: Vec<&str> = Vec::new();
    for row in &report.rows {
        if !out.contains(&row.program.as_str()) {
            out.push(&row.program);
        }
    }
    out
}

fn colour(index: usize) -> RGBColor {
    COLOURS.get(index % COLOURS.len()).copied().unwrap_or(BLACK)
}

fn len(group: &[Row]) -> i32 {
    i32::try_from(group.len()).unwrap_or(0)
}

/// Of a bar: the longest of each unit has the full length.
#[expect(clippy::cast_possible_truncation, reason = "at most the width of the chart")]
fn length(row: &Row, report: &Report) -> i32 {
    let same_unit = report.rows.iter().filter(|r| r.unit == row.unit);
    let longest = same_unit.map(Row::figure).fold(0.0, f64::max);
    if longest > 0.0 { (row.figure().max(0.0) / longest * f64::from(BARS)) as i32 } else { 0 }
}
