//! The backends' servers: one process on each backend's host, for both families.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{Lab, Process, backend_host, programs};
use crate::packet::world::Family;

/// Running servers by the number of their backend, from 1. A server calls itself after its host, `backend-1`.
#[derive(Debug, Default)]
pub struct Servers {
    processes: BTreeMap<u8, Process>,
}

impl Servers {
    /// Starts a server on every backend's host; they listen when this returns.
    ///
    /// # Errors
    /// When one does not start.
    pub fn start(lab: &Lab) -> Result<Self> {
        let mut servers = Self::default();
        for n in 1..=lab.topology().backends {
            servers.start_one(lab, n, &[])?;
        }
        Ok(servers)
    }

    /// Starts the server of one backend, with `options` of the program `lab-server`; it listens when this returns.
    ///
    /// # Errors
    /// When it does not start, as when one runs there already.
    pub fn start_one(&mut self, lab: &Lab, n: u8, options: &[&str]) -> Result<()> {
        let name = backend_host(n);
        let mut command = Command::new(programs::beside("lab-server")?);
        command.args(["--name", &name]).args(options).stdout(Stdio::piped());
        for family in Family::BOTH {
            command.args(["--listen", &lab.topology().backend(n, family).to_string()]);
        }
        let mut process = lab.spawn(&lab.topology().host_of(n), &mut command)?;
        let mut line = String::new();
        BufReader::new(process.stdout().context("no output")?).read_line(&mut line)?;
        if line.is_empty() {
            bail!("the server of {name} has ended: see its message above");
        }
        self.processes.insert(n, process);
        Ok(())
    }

    /// The process of a backend's server.
    ///
    /// # Errors
    /// When it has none.
    pub fn process(&mut self, n: u8) -> Result<&mut Process> {
        self.processes.get_mut(&n).with_context(|| format!("no server on {}", backend_host(n)))
    }

    /// Ends a backend's server as a crash would. Does nothing when there is none.
    pub fn kill(&mut self, n: u8) {
        drop(self.processes.remove(&n));
    }

    /// Lets them run on after this value and this process are gone; returns their process ids.
    #[must_use]
    pub fn keep(self) -> Vec<u32> {
        self.processes.into_values().map(Process::keep).collect()
    }
}
