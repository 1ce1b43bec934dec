//! The balancer in front: `lb-agent` with config/superset.toml, and what it says.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_agent::admin::DEFAULT_ADDRESS;
use lb_agent::status::{BackendStatus, Status};
use nix::sys::signal::Signal;

use super::REPLICAS;
use super::replica::replica_name;
use super::stand::Stand;
use super::tiers::{HTTPS, WEBSOCKET};
use crate::lab::{LB, programs, wait_until, with_socket};
use crate::machine;
use crate::metrics::Samples;

/// The agent's name on the stand.
pub const AGENT: &str = "lb-agent";
/// The service in config/superset.toml.
pub const SERVICE: &str = "superset";
/// The service whose backends end TLS.
pub const HTTPS_SERVICE: &str = "superset-https";
/// A service of the same replicas whose checks have a session cookie, and so ask for Redis as well.
pub const DEEP_SERVICE: &str = "superset-deep";
/// The service of WebSockets.
pub const WEBSOCKET_SERVICE: &str = "websocket";

const LIMIT: Duration = Duration::from_secs(60);

impl Stand {
    /// Starts the agent unless it runs, and waits until every backend is in use.
    ///
    /// # Errors
    /// When it does not start, or a backend is not healthy.
    pub fn ensure_agent(&mut self) -> Result<()> {
        let before = std::fs::read_to_string(self.config()).unwrap_or_default();
        self.write_config()?;
        if std::fs::read_to_string(self.config()).context("read the configuration")? != before {
            // Of another source tree, perhaps.
            self.end_agent()?;
        }
        if !self.runs(AGENT) {
            let mut agent = Command::new(programs::agent()?);
            agent.args(["run", "--config"]).arg(self.config());
            self.start(AGENT, LB, &mut agent)?;
            self.wait_for(AGENT, LIMIT, |stand| stand.agent_says("/readyz").is_ok())?;
        }
        self.wait_for_backends()
    }

    fn end_agent(&self) -> Result<()> {
        if !self.runs(AGENT) {
            return Ok(());
        }
        self.daemon(AGENT)?.end(Signal::SIGTERM, LIMIT)
    }

    /// Ends drains, and waits until every replica gets its share of new connections.
    ///
    /// # Errors
    /// When one does not in time.
    pub fn wait_for_backends(&self) -> Result<()> {
        for n in 1..=self.replicas() {
            if self.backend(n)?.drain.is_some() {
                self.undrain(n)?;
            }
            self.wait_for_backend(n, "is in use", |b| {
                b.health == "healthy" && b.in_ring && b.slow_start.is_none()
            })?;
        }
        Ok(())
    }

    /// The agent's configuration file on the stand.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.place.run().join("lb.toml")
    }

    /// The agent's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.place.run().join("admin.sock")
    }

    /// Writes the configuration for as many replicas as the stand has.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn write_config(&self) -> Result<()> {
        let example = machine::root().join("config/superset.toml");
        let mut text =
            std::fs::read_to_string(&example).with_context(|| format!("read {}", example.display()))?;
        for n in REPLICAS + 1..=self.replicas() {
            text.push_str(&backend(&replica_name(n), self.replica(n)));
        }
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "\n# Of the stand: what ends TLS before each replica, a WebSocket server beside it, and checks that ask for Redis.\n\n\
             [[service]]\nname = \"{HTTPS_SERVICE}\"\nvip = \"{}\"\n[service.health]\ntype = \"tcp\"\n",
            self.https_vip()
        );
        for n in 1..=REPLICAS {
            text.push_str(&backend(&format!("{HTTPS}-{n}"), self.https(n)));
        }
        let _ = write!(
            text,
            "\n[[service]]\nname = \"{WEBSOCKET_SERVICE}\"\nvip = \"{}\"\nrequests = false\n[service.health]\ninterval = \"1s\"\n",
            self.websocket_vip()
        );
        for n in 1..=REPLICAS {
            text.push_str(&backend(&format!("{WEBSOCKET}-{n}"), self.websocket(n)));
        }
        let _ = write!(
            text,
            "\n[[service]]\nname = \"{DEEP_SERVICE}\"\nvip = \"{}\"\n[service.health]\ninterval = \"1s\"\n\
             headers = {{ Cookie = \"session=x\" }}\n",
            SocketAddr::new(self.vip().ip(), 81)
        );
        for n in 1..=REPLICAS {
            text.push_str(&backend(&replica_name(n), self.replica(n)));
        }
        let path = self.config();
        std::fs::write(&path, with_socket(&text, &self.socket()))
            .with_context(|| format!("write {}", path.display()))
    }

    /// The body of the admin server's answer to `GET path`.
    ///
    /// # Errors
    /// When it does not answer with status 200.
    pub fn agent_says(&self, path: &str) -> Result<String> {
        let admin = DEFAULT_ADDRESS.parse().context("the default address of the admin server")?;
        self.lab.get(LB, admin, path)
    }

    /// What the agent says of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn agent_status(&self) -> Result<Status> {
        serde_json::from_str(&self.agent_says("/status")?).context("the agent's status")
    }

    /// The agent's metrics.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metrics(&self) -> Result<Samples> {
        Samples::parse(&self.agent_says("/metrics")?)
    }

    /// What the agent says of a replica, numbered from 1.
    ///
    /// # Errors
    /// When it does not answer, or does not know the replica.
    pub fn backend(&self, n: u8) -> Result<BackendStatus> {
        let status = self.agent_status()?;
        let service =
            status.services.into_iter().find(|s| s.name == SERVICE).context("no service superset")?;
        let name = replica_name(n);
        let found = service.backends.into_iter().find(|b| b.name == name);
        found.with_context(|| format!("the agent knows no {name}"))
    }

    /// Waits until the agent says this of a replica. Returns how long that took.
    ///
    /// # Errors
    /// When it does not in time; what it says is in the error.
    pub fn wait_for_backend(
        &self,
        n: u8,
        what: &str,
        holds: impl Fn(&BackendStatus) -> bool,
    ) -> Result<Duration> {
        let mut last = None;
        wait_until(&format!("{} {what}", replica_name(n)), LIMIT, || {
            last = self.backend(n).ok();
            last.as_ref().is_some_and(&holds)
        })
        .with_context(|| format!("{last:?}"))
    }

    /// Drains a replica and waits until it may be stopped, as an operator does before that.
    ///
    /// # Errors
    /// When the agent refuses, or gave up at the drain's deadline.
    pub fn drain(&self, n: u8) -> Result<()> {
        self.lb_agent(&["drain", &format!("{SERVICE}/{}", replica_name(n)), "--wait"]).map(drop)
    }

    /// Begins to drain a replica.
    ///
    /// # Errors
    /// When the agent refuses.
    pub fn start_drain(&self, n: u8) -> Result<()> {
        self.lb_agent(&["drain", &format!("{SERVICE}/{}", replica_name(n))]).map(drop)
    }

    /// Takes a drain back.
    ///
    /// # Errors
    /// When the agent refuses.
    pub fn undrain(&self, n: u8) -> Result<()> {
        self.lb_agent(&["undrain", &format!("{SERVICE}/{}", replica_name(n))]).map(drop)
    }

    /// Runs a command of the agent's program at its socket; gives its standard output.
    ///
    /// # Errors
    /// When its exit status is not 0, with the last line that it said.
    pub fn lb_agent(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(programs::agent()?);
        command.args(words).arg("--socket").arg(self.socket());
        let output = self.lab.output(LB, &mut command)?;
        let said = String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned();
        ensure!(output.status.success(), "lb-agent {}: {}: {said}", words.join(" "), output.status);
        String::from_utf8(output.stdout).context("an answer that is no text")
    }
}

fn backend(name: &str, address: SocketAddr) -> String {
    format!("\n[[service.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::world::Family::V4;

    #[test]
    fn the_example_is_one_that_the_agent_takes_and_that_fits_the_lab() {
        let text = std::fs::read_to_string(machine::root().join("config/superset.toml")).unwrap();
        let config = lb_agent::config::parse("superset.toml", &text).unwrap_or_else(|e| panic!("{e}"));
        let network = Stand::network();
        let service = &config.services[0];
        assert_eq!(service.name.to_string(), SERVICE);
        assert_eq!(service.backends.len(), usize::from(REPLICAS));
        assert!(text.contains(&format!("vip = \"{}\"", network.vip(V4))));
        for n in 1..=REPLICAS {
            assert!(text.contains(&backend(&replica_name(n), network.backend(n, V4))), "{n}");
        }
    }
}
