//! Flows of a server that hangs: they stay, and are answered when it goes on.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::Report;
use super::arena::Arena;
use crate::e2e::Held;
use crate::lab::backend_host;

/// How long the server hangs.
const HANGS: Duration = Duration::from_secs(60);
/// Connections to it, half of which ask before it hangs.
const CONNECTIONS: usize = 20;
/// A query that is under way when the server is stopped.
const QUERY: &str = "/sleep?ms=10000";

/// What became of the connections.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    connections: usize,
    answered: usize,
    stopped: Duration,
}

/// Opens connections to one server, lets `lose` stop it, and lets it go on after a minute.
///
/// # Errors
/// When the connections cannot be made, or the server not be woken.
pub fn watch<T>(
    arena: &mut Arena,
    victim: u8,
    lose: impl FnOnce(&mut Arena) -> Result<T>,
) -> Result<(T, Outcome)> {
    let (vip, name) = (arena.vip(), backend_host(victim));
    // All stay open until there are enough: a balancer that looks at connections gives the next one to who has fewest.
    let (mut held, mut others) = (Vec::new(), Vec::new());
    for _ in 0..CONNECTIONS * 30 {
        let connection = Held::open(arena.lab(), vip)?;
        if connection.server() == name {
            held.push(connection);
        } else {
            others.push(connection);
        }
        if held.len() == CONNECTIONS {
            break;
        }
    }
    ensure!(held.len() == CONNECTIONS, "only {} connections to {name}", held.len());
    drop(others);
    let (queries, idle) = held.split_at_mut(CONNECTIONS / 2);
    for connection in queries {
        connection.send_for(QUERY).context("send a query")?;
    }
    let begun = Instant::now();
    let outcome = lose(arena)?;
    // These ask when nobody is there to read.
    for connection in idle {
        connection.send().context("send a request to a server that hangs")?;
    }
    thread::sleep(HANGS.saturating_sub(begun.elapsed()));
    let stopped = begun.elapsed();
    arena.servers().process(victim)?.signal(Signal::SIGCONT)?;
    let answered = held.iter_mut().filter_map(|c| c.receive().ok()).filter(|server| *server == name).count();
    Ok((outcome, Outcome { connections: CONNECTIONS, answered, stopped }))
}

impl Outcome {
    /// Adds it to a report.
    pub fn tell(&self, report: &mut Report) {
        let Self { connections, answered, stopped } = self;
        report.aim(
            answered == connections,
            format!(
                "{answered} of {connections} connections of the stopped server were answered when it went on after {:.0} s",
                stopped.as_secs_f64()
            ),
        );
    }
}
