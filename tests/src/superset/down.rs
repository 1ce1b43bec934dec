//! Ending the stand.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::agent::AGENT;
use super::databases::POSTGRES;
use super::place::Place;
use super::state::State;
use crate::lab;
use crate::proof::progress;

/// For a program to end by itself. A query that still runs is lost.
const LIMIT: Duration = Duration::from_secs(5);

/// Ends every program of the stand and removes its lab; with `purge` also what PostgreSQL and Redis kept. The installation stays.
///
/// # Errors
/// What is left over.
pub fn down(place: &Place, purge: bool) -> Result<()> {
    end(place)?;
    if purge {
        let data = place.data();
        std::fs::remove_dir_all(&data).with_context(|| format!("remove {}", data.display()))?;
        progress(&format!("removed {}", data.display()));
    }
    Ok(())
}

pub(super) fn end(place: &Place) -> Result<()> {
    let Some(state) = State::load(place)? else { return Ok(()) };
    // The balancer first, the databases last.
    let rank = |name: &str| match name {
        AGENT => 0,
        POSTGRES => 2,
        _ => 1,
    };
    for wanted in 0..=2 {
        let these = state.daemons.iter().filter(|(name, _)| rank(name) == wanted);
        std::thread::scope(|scope| {
            let ends: Vec<_> = these
                .map(|(name, daemon)| {
                    // PostgreSQL waits for its clients on SIGTERM.
                    let signal = if name == POSTGRES { Signal::SIGINT } else { Signal::SIGTERM };
                    (name, scope.spawn(move || daemon.end(signal, LIMIT)))
                })
                .collect();
            ends.into_iter().try_for_each(|(name, thread)| {
                let ended = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                ended.with_context(|| format!("end {name}"))
            })
        })?;
    }
    for name in state.namespaces.values() {
        // With what a scenario that was interrupted may have left in it.
        lab::remove_namespace(name);
        let path = Path::new("/run/netns").join(name);
        ensure!(!path.exists(), "{} is still there: \"cargo xtask clean-lab\" removes it", path.display());
    }
    progress(&format!(
        "ended {} programs, removed {} namespaces",
        state.daemons.len(),
        state.namespaces.len()
    ));
    State::remove(place)
}
