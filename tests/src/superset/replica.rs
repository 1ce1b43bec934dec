//! The replicas: gunicorn with Superset in it, each on a host of its own; and Superset's own commands.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::place::source;
use super::stand::Stand;
use crate::lab::{SERVICES, backend_host};
use crate::proof::progress;

/// Until a replica answers, on a machine with other things to do.
const STARTING: Duration = Duration::from_secs(300);
/// gunicorn's `graceful_timeout` is 30 s: queries under way may end until then.
const STOPPING: Duration = Duration::from_secs(40);
/// gunicorn's workers, and threads of each.
pub const WORKERS: u32 = 2;
/// See [`WORKERS`].
pub const THREADS: u32 = 8;

/// What a replica is called on the stand and by the balancer, numbered from 1.
#[must_use]
pub fn replica_name(n: u8) -> String {
    format!("superset-{n}")
}

impl Stand {
    /// Starts every replica that does not run, up to this one, and waits until all answer.
    ///
    /// # Errors
    /// When one does not start.
    pub fn ensure_replicas(&mut self, count: u8) -> Result<()> {
        let missing: Vec<u8> = (1..=count).filter(|n| !self.runs(&replica_name(*n))).collect();
        for n in &missing {
            self.spawn_replica(*n)?;
        }
        missing.into_iter().try_for_each(|n| self.wait_for_replica(n))
    }

    /// Starts a replica and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn start_replica(&mut self, n: u8) -> Result<()> {
        self.start_replica_with(n, &[])
    }

    /// The same with more variables for its configuration, tests/superset/superset_config.py.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn start_replica_with(&mut self, n: u8, environment: &[(&str, &str)]) -> Result<()> {
        self.spawn_replica_with(n, environment)?;
        self.wait_for_replica(n)
    }

    /// Starts a replica, which does not answer yet.
    ///
    /// # Errors
    /// When there is no such program.
    pub fn spawn_replica(&mut self, n: u8) -> Result<()> {
        self.spawn_replica_with(n, &[])
    }

    fn spawn_replica_with(&mut self, n: u8, environment: &[(&str, &str)]) -> Result<()> {
        let name = replica_name(n);
        let mut gunicorn = self.superset("gunicorn", &name);
        gunicorn.envs(environment.iter().copied());
        gunicorn.args(["--bind", &self.replica(n).to_string(), "--worker-class", "gthread"]);
        gunicorn.args(["--workers", &WORKERS.to_string(), "--threads", &THREADS.to_string()]);
        // Longer than the longest query; what a worker writes for its master is not for a disk.
        gunicorn.args(["--timeout", "300", "--worker-tmp-dir", "/dev/shm", "--no-control-socket"]);
        gunicorn.arg("superset.app:create_app()");
        self.start(&name, &backend_host(n), &mut gunicorn)
    }

    /// Waits until a replica that was started answers.
    ///
    /// # Errors
    /// When it ends, or does not in time.
    pub fn wait_for_replica(&self, n: u8) -> Result<()> {
        self.wait_for(&replica_name(n), STARTING, |stand| stand.replica_answers(n))
    }

    /// Whether a replica answers its health check, asked by itself.
    #[must_use]
    pub fn replica_answers(&self, n: u8) -> bool {
        let address = self.replica(n);
        self.lab.get(&backend_host(n), address, "/health").is_ok_and(|body| body == "OK")
    }

    /// Ends a replica as an orchestrator does: SIGTERM, and SIGKILL when it takes too long.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop_replica(&self, n: u8) -> Result<()> {
        self.daemon(&replica_name(n))?.end(Signal::SIGTERM, STOPPING)
    }

    /// Brings the metadata to Superset's version, and makes its user; once for each installation.
    ///
    /// # Errors
    /// When a command fails.
    pub fn ensure_metadata(&self) -> Result<()> {
        let done = self.place.data().join(format!("ready-{}", self.venv.name()));
        if done.exists() {
            return Ok(());
        }
        let admin = ["fab", "create-admin", "--username", "admin", "--password", "admin", "--firstname", "A"];
        let admin = [admin.as_slice(), &["--lastname", "B", "--email", "admin@example.com"]].concat();
        for words in [["db", "upgrade"].as_slice(), &admin, &["init"]] {
            let begun = Instant::now();
            let what = words.iter().take(2).copied().collect::<Vec<_>>().join(" ");
            self.run_superset(&what, words)?;
            progress(&format!("superset {what}: {:.1} s", begun.elapsed().as_secs_f64()));
        }
        std::fs::write(&done, "").with_context(|| format!("write {}", done.display()))
    }

    fn run_superset(&self, what: &str, words: &[&str]) -> Result<()> {
        let log = self.log("superset-cli");
        let file = std::fs::File::create(&log).with_context(|| format!("write {}", log.display()))?;
        let copy = file.try_clone().context("duplicate a log's handle")?;
        let mut command = self.superset("superset", "none");
        command.args(words).current_dir(self.place.cache()).stdin(Stdio::null()).stdout(file).stderr(copy);
        let status = self.lab.spawn(SERVICES, &mut command)?.wait(Duration::from_secs(300))?;
        ensure!(status.success(), "superset {what}: {status}: see {}", log.display());
        Ok(())
    }

    /// A program of the virtual environment, with Superset's configuration.
    fn superset(&self, program: &str, replica: &str) -> Command {
        let mut command = Command::new(self.venv.program(program));
        command
            .env("SUPERSET_CONFIG_PATH", source("superset_config.py"))
            .env("SUPERSET_HOME", self.place.cache().join("home"))
            .env("STAND_SERVICES", self.services().to_string())
            .env("STAND_REPLICA", replica)
            .env("FLASK_APP", "superset.app:create_app()")
            .env_remove("PYTHONPATH");
        command
    }
}
