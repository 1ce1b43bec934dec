//! 200 WebSocket connections that are idle for five minutes, through a drain of one backend and a reload.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::lab::CLIENT;
use crate::proof::{Report, progress};
use crate::superset::agent::WEBSOCKET_SERVICE;
use crate::superset::place::source;
use crate::superset::tiers::WEBSOCKET;
use crate::superset::{Scenario, Stand};

const CONNECTIONS: usize = 200;
const IDLE: Duration = Duration::from_secs(300);
/// The backend that is drained meanwhile.
const DRAINED: u8 = 1;

/// The scenario.
///
/// # Errors
/// When the connections cannot be made.
pub fn prove(stand: &Stand) -> Result<Report> {
    let url = format!("ws://{}/", stand.websocket_vip());
    let mut command = Command::new(stand.python());
    command.arg(source("sockets.py")).args([&url, &CONNECTIONS.to_string()]);
    let mut client = stand.lab().spawn(CLIENT, command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    let mut stdin = client.stdin().context("no input")?;
    let mut said = BufReader::new(client.stdout().context("no output")?).lines();
    let mut next = || -> Result<BTreeMap<String, usize>> {
        let line = said.next().context("the client has ended: see its message above")??;
        serde_json::from_str(&line).context("what the client says")
    };
    let opened = next()?;
    let begun = Instant::now();
    progress(&format!("websocket: {CONNECTIONS} connections, idle for {} s", IDLE.as_secs()));
    let backend = format!("{WEBSOCKET_SERVICE}/{WEBSOCKET}-{DRAINED}");
    stand.lb_agent(&["drain", &backend])?;
    stand.lb_agent(&["reload"])?;
    std::thread::sleep(IDLE.saturating_sub(begun.elapsed()));
    stdin.write_all(b"now\n").context("tell the client")?;
    let echoed = next()?;
    stand.lb_agent(&["undrain", &backend])?;

    let mut report = Report::new(Scenario::Websocket, &["connections", "echoed"]);
    #[expect(clippy::cast_precision_loss, reason = "two hundred at most")]
    for (server, count) in &opened {
        let back = echoed.get(server).copied().unwrap_or_default();
        report.row(server, [Some(*count as f64), Some(back as f64)]);
    }
    let [all, back] = [&opened, &echoed].map(|servers| servers.values().sum::<usize>());
    report.aim(all == CONNECTIONS, format!("{all} of {CONNECTIONS} connections were made"));
    let (idle, drained) = (IDLE.as_secs(), format!("{WEBSOCKET}-{DRAINED}"));
    report.aim(
        back == all,
        format!("{back} of them echoed after {idle} s of silence, through a reload and with {drained} being drained"),
    );
    report.aim(opened == echoed, "each on the server that it was on");
    Ok(report)
}
