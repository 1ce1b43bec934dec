//! The report as text.

use std::fmt::Write;

use super::{Aim, Ratio, Report, Row};

/// Table with a head that says where it was measured.
pub(super) fn render(report: &Report) -> String {
    let m = &report.machine;
    let mut out = format!(
        "bench {}: {}, kernel {}, {} ({} CPUs), commit {}, {} rounds\n",
        report.bench, m.date, m.kernel, m.cpu, m.cpus, m.commit, report.rounds
    );
    let width = |f: fn(&Row) -> &str| report.rows.iter().map(|r| f(r).chars().count()).max().unwrap_or(0);
    let (scenario, program) = (width(|r| &r.scenario).max(8), width(|r| &r.program).max(7));
    line(
        &mut out,
        &format!(
            "{:scenario$}  {:program$}  {:>9}  {:>9}  {:>9}  unit",
            "scenario", "program", "median", "min", "net"
        ),
    );
    let mut last = "";
    for row in &report.rows {
        let name = if row.scenario == last { "" } else { &row.scenario };
        last = &row.scenario;
        let net = row.net.map_or_else(String::new, number);
        let (median, min) = (number(row.median), number(row.min));
        let remarks: Vec<String> = report.ratios.iter().filter(|r| is_of(r, row)).map(remark).collect();
        line(
            &mut out,
            &format!(
                "{name:scenario$}  {:program$}  {median:>9}  {min:>9}  {net:>9}  {:6}  {}",
                row.program,
                row.unit,
                remarks.join("; ")
            ),
        );
    }
    out
}

fn line(out: &mut String, text: &str) {
    out.push_str(text.trim_end());
    out.push('\n');
}

fn is_of(ratio: &Ratio, row: &Row) -> bool {
    ratio.scenario == row.scenario && ratio.program == row.program
}

fn remark(ratio: &Ratio) -> String {
    let mut out = format!("{:.2} of {}", ratio.ratio, ratio.against);
    let aim = match ratio.aim {
        Some(Aim::AtMost(limit)) => format!(", aim ≤ {limit:.2}"),
        Some(Aim::AtLeast(limit)) => format!(", aim ≥ {limit:.2}"),
        None => return out,
    };
    // Writing to a string cannot fail.
    let _ = write!(out, "{aim} {}", if ratio.met == Some(true) { "met" } else { "MISSED" });
    out
}

/// Three significant digits or more.
pub(super) fn number(value: f64) -> String {
    let decimals = if value.abs() >= 1000.0 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.decimals$}")
}
