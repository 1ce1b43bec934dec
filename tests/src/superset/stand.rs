//! The stand itself: its lab, and the programs in it by name.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::MOST_REPLICAS;
use super::daemon::Daemon;
use super::place::Place;
use super::state::State;
use super::venv::Venv;
use crate::e2e::Client;
use crate::lab::{CLIENT, Lab, Topology};
use crate::packet::world::Family;
use crate::proof::progress;

/// The lab and what runs in it. It stays when this value is dropped.
#[derive(Debug)]
pub struct Stand {
    pub(super) lab: Lab,
    pub(super) place: Place,
    pub(super) venv: Venv,
    pub(super) state: State,
}

impl Stand {
    /// The network of every stand; replicas beyond those at work are empty hosts.
    #[must_use]
    pub const fn network() -> Topology {
        Topology::two_arm(MOST_REPLICAS).with_services()
    }

    /// The network.
    #[must_use]
    pub const fn lab(&self) -> &Lab {
        &self.lab
    }

    /// How many replicas the balancer knows.
    #[must_use]
    pub const fn replicas(&self) -> u8 {
        self.state.replicas
    }

    /// Says how many replicas the balancer is to know; [`Stand::write_config`] tells it so.
    ///
    /// # Errors
    /// When that cannot be written down.
    pub fn set_replicas(&mut self, replicas: u8) -> Result<()> {
        self.state.replicas = replicas;
        self.state.save(&self.place)
    }

    /// What users connect to.
    #[must_use]
    pub fn vip(&self) -> SocketAddr {
        self.lab.topology().vip(Family::V4)
    }

    /// Where a replica listens, numbered from 1.
    #[must_use]
    pub fn replica(&self, n: u8) -> SocketAddr {
        self.lab.topology().backend(n, Family::V4)
    }

    /// A client on the client's host.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn client(&self) -> Result<Client> {
        Client::new(&self.lab, CLIENT)
    }

    /// A program of the stand.
    ///
    /// # Errors
    /// When it was not started.
    pub fn daemon(&self, name: &str) -> Result<Daemon> {
        self.state.daemons.get(name).copied().with_context(|| format!("{name} was not started"))
    }

    /// Whether a program of the stand runs.
    #[must_use]
    pub fn runs(&self, name: &str) -> bool {
        self.state.daemons.get(name).is_some_and(Daemon::is_running)
    }

    /// The log of a program.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.place.logs().join(format!("{name}.log"))
    }

    /// Starts a program, under a name, on a host.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start(&mut self, name: &str, host: &str, command: &mut Command) -> Result<()> {
        // What it leaves of its own is below the cache.
        if command.get_current_dir().is_none() {
            command.current_dir(self.place.cache());
        }
        let daemon = Daemon::start(&self.lab, host, &self.log(name), command)?;
        self.state.daemons.insert(name.to_owned(), daemon);
        self.state.save(&self.place)
    }

    /// Waits until a program that was started is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready in time; the error has the last line of its log.
    pub(super) fn wait_for(&self, name: &str, limit: Duration, ready: impl Fn(&Self) -> bool) -> Result<()> {
        let begun = Instant::now();
        while !ready(self) {
            let log = self.log(name);
            let said = || format!("see {}, which ends: {}", log.display(), last_line(&log));
            if !self.runs(name) {
                bail!("{name} ended at its start: {}", said());
            }
            ensure!(begun.elapsed() < limit, "{name} is not ready after {limit:?}: {}", said());
            std::thread::sleep(Duration::from_millis(50));
        }
        progress(&format!("{name} is ready after {:.1} s", begun.elapsed().as_secs_f64()));
        Ok(())
    }
}

fn last_line(path: &std::path::Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().last().unwrap_or("(nothing)").to_owned()
}
