//! The agent on a lab's balancer: its configuration, its process, and what it says.

use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_agent::admin::DEFAULT_ADDRESS;
use lb_agent::status::Status;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{LB, Lab, Process, Topology, backend_host, programs, wait_until};
use crate::metrics::Samples;
use crate::packet::world::Family;

/// A configuration for a lab: a service for each family, called `superset-v4` and `superset-v6`, whose backends
/// are called after their hosts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `agent.xdp_mode`.
    pub xdp_mode: &'static str,
    /// `agent.announce = "arp"`.
    pub announce: bool,
    /// Lines of `[agent]`.
    pub agent: String,
    /// `service.scheduler`.
    pub scheduler: &'static str,
    /// Further lines of `[[service]]`.
    pub service: &'static str,
    /// Lines of `[service.health]`.
    pub health: &'static str,
    /// Further lines of each `[[service.backend]]`, by its number.
    pub backend: fn(u8) -> &'static str,
    /// Backends, by their numbers, that are not in the configuration.
    pub absent: Vec<u8>,
}

impl Default for Settings {
    /// Native, and checks that are as quick as a test wants them.
    fn default() -> Self {
        Self {
            xdp_mode: "native",
            announce: false,
            agent: String::new(),
            scheduler: "maglev",
            service: "",
            health: "interval = \"200ms\"\ntimeout = \"500ms\"\nrise = 2\nfall = 2\ngrace = \"0s\"\n\
                     expect_body = \"OK\"\n",
            backend: |_| "",
            absent: Vec::new(),
        }
    }
}

impl Settings {
    /// The text of the configuration file.
    #[must_use]
    pub fn text(&self, topology: &Topology) -> String {
        let Self { xdp_mode, announce, agent, scheduler, service, health, backend, absent } = self;
        let announce = if *announce { "arp" } else { "off" };
        let interfaces = topology.interfaces();
        let snat = Family::BOTH.map(|family| topology.snat(family).to_string());
        let mut text = format!(
            "[agent]\ninterfaces = {interfaces:?}\nxdp_mode = \"{xdp_mode}\"\nannounce = \"{announce}\"\n{agent}\n\
             [nat]\naddresses = {snat:?}\n"
        );
        for (family, name) in Family::BOTH.into_iter().zip(["v4", "v6"]) {
            let vip = topology.vip(family);
            // Writing to a string does not fail.
            let _ = write!(
                text,
                "\n[[service]]\nname = \"superset-{name}\"\nvip = \"{vip}\"\nscheduler = \"{scheduler}\"\n{service}\
                 [service.health]\n{health}"
            );
            for n in (1..=topology.backends).filter(|n| !absent.contains(n)) {
                let (name, address, more) = (backend_host(n), topology.backend(n, family), backend(n));
                let _ =
                    write!(text, "[[service.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n{more}");
            }
        }
        text
    }
}

/// How long the agent may take to become ready, and to end: much longer than it takes.
const LIMIT: Duration = Duration::from_secs(30);

/// A running agent; killed when dropped.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    files: TempDir,
}

impl Agent {
    /// Starts it with this configuration and waits until it is ready.
    ///
    /// # Errors
    /// When it ends or is not ready in time; what it logged is in the error.
    pub fn start(lab: &Lab, config: &str) -> Result<Self> {
        let mut agent = Self::spawn(lab, config)?;
        let mut ended = None;
        let ready = wait_until("the agent is ready", LIMIT, || {
            ended = agent.process.wait(Duration::ZERO).ok();
            ended.is_some() || agent.get(lab, "/readyz").is_ok()
        });
        let status = ended.map_or_else(|| "it runs".to_owned(), |status| status.to_string());
        ensure!(ready.is_ok() && ended.is_none(), "the agent is not ready ({status}):\n{}", agent.log());
        Ok(agent)
    }

    /// Starts it with this configuration, whatever it makes of it.
    ///
    /// # Errors
    /// When there is no such program.
    pub fn spawn(lab: &Lab, config: &str) -> Result<Self> {
        let files = tempfile::Builder::new().prefix("evenkeel-lab-").tempdir().context("make a directory")?;
        let (path, log) = (config_path(files.path()), log_path(files.path()));
        std::fs::write(&path, with_socket(config, &socket_path(files.path())))
            .with_context(|| format!("write {}", path.display()))?;
        let log = File::create(&log).with_context(|| format!("write {}", log.display()))?;
        let mut command = Command::new(programs::agent()?);
        command.args(["run", "--config"]).arg(&path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Ok(Self { process: lab.spawn(LB, &mut command)?, files })
    }

    /// The body of the admin server's answer to `GET path`.
    ///
    /// # Errors
    /// When it does not answer with status 200.
    pub fn get(&self, lab: &Lab, path: &str) -> Result<String> {
        let admin = DEFAULT_ADDRESS.parse().context("the default address of the admin server")?;
        lab.get(LB, admin, path)
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self, lab: &Lab) -> Result<Status> {
        serde_json::from_str(&self.get(lab, "/status")?).context("/status")
    }

    /// Its metrics at this moment.
    ///
    /// # Errors
    /// When it does not answer, or with something else.
    pub fn metrics(&self, lab: &Lab) -> Result<Samples> {
        Samples::parse(&self.get(lab, "/metrics")?)
    }

    /// Everything that it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(log_path(self.files.path())).unwrap_or_else(|e| format!("no log: {e}"))
    }

    /// Path of its configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        config_path(self.files.path())
    }

    /// Puts another configuration in the place of its file, all at once, as editors and tools do.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_config(&self, config: &str) -> Result<()> {
        let (path, new) = (self.config(), self.files.path().join("lb.toml.new"));
        std::fs::write(&new, self.with_socket(config)).context("write a configuration")?;
        std::fs::rename(&new, &path).with_context(|| format!("replace {}", path.display()))
    }

    /// The configuration with the agent's socket in it, unless it says which.
    #[must_use]
    pub fn with_socket(&self, config: &str) -> String {
        with_socket(config, &self.socket())
    }

    /// Path of its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        socket_path(self.files.path())
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// The process.
    pub const fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Asks it to end and waits.
    ///
    /// # Errors
    /// When it does not end; it is killed then.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.process.terminate(LIMIT)
    }

    /// Lets it run on after this value and this process are gone; returns the directory of its files, to be
    /// removed by somebody else.
    #[must_use]
    pub fn keep(self) -> PathBuf {
        let _pid = self.process.keep();
        self.files.keep()
    }
}

fn config_path(dir: &Path) -> PathBuf {
    dir.join("lb.toml")
}

fn socket_path(dir: &Path) -> PathBuf {
    dir.join("admin.sock")
}

/// Labs have a network of their own, but share the machine's files: each agent needs another socket.
pub(crate) fn with_socket(config: &str, socket: &Path) -> String {
    if config.contains("\nsocket = ") {
        return config.to_owned();
    }
    config.replacen("[agent]\n", &format!("[agent]\nsocket = {socket:?}\n"), 1)
}

fn log_path(dir: &Path) -> PathBuf {
    dir.join("agent.log")
}
