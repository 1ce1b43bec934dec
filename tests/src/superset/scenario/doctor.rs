//! `lb-agent doctor` finds nothing wrong with a sound stand, and each fault of a replica, a database or the balancer's host.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde::Deserialize;

use crate::lab::{LB, programs};
use crate::proof::{Report, progress};
use crate::superset::agent::SERVICE;
use crate::superset::databases::REDIS;
use crate::superset::replica::replica_name;
use crate::superset::{Scenario, Stand};

/// The replica that is at fault.
const ODD: u8 = 3;
const LIMIT: std::time::Duration = std::time::Duration::from_secs(40);

/// A line of what it says.
#[derive(Debug, Deserialize)]
struct Line {
    level: String,
    subject: String,
    text: String,
}

/// What it said, and with which exit status.
struct Said {
    lines: Vec<Line>,
    status: Option<i32>,
}

impl Said {
    /// Whether it calls this a failure, and ends with the status for failures.
    fn finds(&self, subject: &str, part: &str) -> bool {
        let fails = |line: &Line| line.level == "fail" && line.subject == subject && line.text.contains(part);
        self.status == Some(1) && self.lines.iter().any(fails)
    }
}

/// The scenario.
///
/// # Errors
/// When something does not stop or start.
pub fn prove(stand: &mut Stand) -> Result<Report> {
    let mut report = Report::new(Scenario::Doctor, &["lines", "warnings", "failures"]);
    let outcome = sound(stand, &mut report)
        .and_then(|()| of_replicas(stand, &mut report))
        .and_then(|()| of_databases(stand, &mut report))
        .and_then(|()| of_the_host(stand, &mut report));
    // Whatever came of it, the next scenario finds the replica as it was.
    restart(stand, &[])?;
    outcome.map(|()| report)
}

fn sound(stand: &Stand, report: &mut Report) -> Result<()> {
    let said = ask(stand, &stand.config())?;
    let shared =
        said.lines.iter().filter(|line| line.text.contains("shares sessions and SECRET_KEY")).count();
    let (sound, others) = (said.status == Some(0), usize::from(stand.replicas()) - 1);
    row(report, "sound", &said);
    report.aim(sound, "nothing fails on a sound stand");
    report.aim(
        shared == others,
        format!("{shared} of {others} replicas share sessions and SECRET_KEY with the first"),
    );
    Ok(())
}

fn of_replicas(stand: &mut Stand, report: &mut Report) -> Result<()> {
    let (key, sessions) =
        (("STAND_SECRET_KEY", "a key that no other replica has"), ("STAND_SESSION_DB", "9"));
    let odd = format!("{SERVICE}/{}", replica_name(ODD));
    for (what, environment, part) in [
        ("another SECRET_KEY", &[key][..], "has another SECRET_KEY"),
        ("split sessions", &[sessions], "does not share sessions"),
        ("both", &[key, sessions], "shares neither"),
    ] {
        restart(stand, environment)?;
        found(report, what, &ask(stand, &stand.config())?, &odd, part);
    }
    stand.daemon(&replica_name(ODD))?.end(Signal::SIGKILL, LIMIT)?;
    found(report, "a dead replica", &ask(stand, &stand.config())?, &odd, "connection refused");
    Ok(())
}

fn of_databases(stand: &mut Stand, report: &mut Report) -> Result<()> {
    stand.daemon(REDIS)?.end(Signal::SIGINT, LIMIT)?;
    let said = ask(stand, &stand.config());
    stand.ensure_redis()?;
    let first = format!("{SERVICE}/{}", replica_name(1));
    found(report, "Redis down", &said?, &first, "does not reach the store of its sessions");
    Ok(())
}

fn of_the_host(stand: &Stand, report: &mut Report) -> Result<()> {
    let config = std::fs::read_to_string(stand.config()).context("read the configuration")?;
    let replica = stand.replica(1).ip();
    let first = format!("{SERVICE}/{}", replica_name(1));

    ip(stand, &format!("route add unreachable {replica}/32"))?;
    let said = ask(stand, &stand.config());
    ip(stand, &format!("route del unreachable {replica}/32"))?;
    found(report, "no route", &said?, &first, "unreachable");

    let overlap = |line: &str| match line.split_once(" = ") {
        Some(("ports", _)) => "ports = \"1024-40000\"\n".to_owned(),
        _ => format!("{line}\n"),
    };
    let ports = ask_with(stand, &config.lines().map(overlap).collect::<String>())?;
    found(report, "overlapping ports", &ports, "configuration", "nat.ports");

    ip(stand, "link add bridge0 type bridge")?;
    let bridge = config.replacen("\"eth1\"", "\"eth1\", \"bridge0\"", 1);
    let said = ask_with(stand, &bridge);
    ip(stand, "link del bridge0")?;
    found(report, "generic only", &said?, "interface bridge0", "has no native XDP");
    Ok(())
}

/// Ends the odd replica, if it runs, and starts it with these variables.
fn restart(stand: &mut Stand, environment: &[(&str, &str)]) -> Result<()> {
    let name = replica_name(ODD);
    progress(&format!("doctor: {name} is started with {environment:?}"));
    if stand.runs(&name) {
        stand.daemon(&name)?.end(Signal::SIGTERM, LIMIT)?;
    }
    stand.start_replica_with(ODD, environment)
}

fn ip(stand: &Stand, words: &str) -> Result<()> {
    let words: Vec<&str> = std::iter::once("ip").chain(words.split_whitespace()).collect();
    stand.lab().exec(LB, &words).map(drop)
}

fn ask_with(stand: &Stand, config: &str) -> Result<Said> {
    let file = tempfile::NamedTempFile::new().context("make a file")?;
    std::fs::write(file.path(), config).context("write a configuration")?;
    ask(stand, file.path())
}

/// Runs it on the balancer's host, beside the agent.
fn ask(stand: &Stand, config: &Path) -> Result<Said> {
    let mut command = Command::new(programs::agent()?);
    command.args(["doctor", "--json", "--service", SERVICE, "--config"]).arg(config);
    let output = stand.lab().output(LB, &mut command)?;
    let lines = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("lb-agent doctor: {}", String::from_utf8_lossy(&output.stderr)))?;
    Ok(Said { lines, status: output.status.code() })
}

fn found(report: &mut Report, what: &str, said: &Said, subject: &str, part: &str) {
    row(report, what, said);
    report.aim(said.finds(subject, part), format!("{what}: found of {subject}"));
}

fn row(report: &mut Report, what: &str, said: &Said) {
    let count = |level: &str| said.lines.iter().filter(|line| line.level == level).count();
    #[expect(clippy::cast_precision_loss, reason = "some tens of lines")]
    let figures = [said.lines.len(), count("warn"), count("fail")].map(|n| Some(n as f64));
    report.row(what, figures);
}
