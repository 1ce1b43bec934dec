//! Load from a host of a lab.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::lab::Lab;
use crate::limits::allow_many_files;
use crate::load::{Load, Recorder, Report, run, run_with};

/// Sends load from one host.
#[derive(Debug)]
pub struct Client {
    /// Its worker is in the host's namespace, so everything must be spawned: what is blocked on runs elsewhere.
    runtime: Runtime,
}

impl Client {
    /// A client on this host.
    ///
    /// # Errors
    /// When there is no such host, or no thread.
    pub fn new(lab: &Lab, host: &str) -> Result<Self> {
        allow_many_files();
        let runtime =
            lab.in_ns(host, || Builder::new_multi_thread().worker_threads(1).enable_all().build())??;
        Ok(Self { runtime })
    }

    /// Runs a load to its end.
    ///
    /// # Errors
    /// When it panics.
    pub fn run(&self, load: &Load) -> Result<Report> {
        let load = load.clone();
        let task = self.runtime.spawn(async move { run(&load).await });
        self.runtime.block_on(task).context("a load")
    }

    /// Starts a load that goes on until it is stopped or its bounds are reached.
    #[must_use]
    pub fn start(&self, load: &Load) -> BackgroundLoad<'_> {
        let recorder = Arc::<Recorder>::default();
        let (load, shared) = (load.clone(), Arc::clone(&recorder));
        let task = self.runtime.spawn(async move { run_with(&load, &shared).await });
        BackgroundLoad { client: self, recorder, task }
    }
}

impl Client {
    /// Starts something else on the host. What it opens is in the host's network.
    pub fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.runtime.spawn(task)
    }

    /// Waits for what [`Client::spawn`] started.
    ///
    /// # Errors
    /// When it panicked or was stopped.
    pub fn wait<T>(&self, task: JoinHandle<T>) -> Result<T> {
        self.runtime.block_on(task).context("a task on a host of the lab")
    }
}

/// A load that runs meanwhile; stopped when dropped.
#[derive(Debug)]
pub struct BackgroundLoad<'a> {
    client: &'a Client,
    recorder: Arc<Recorder>,
    task: JoinHandle<()>,
}

impl BackgroundLoad<'_> {
    /// What happened so far.
    #[must_use]
    pub fn report(&self) -> Report {
        self.recorder.report()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it panicked.
    pub fn finish(mut self) -> Result<Report> {
        self.client.runtime.block_on(&mut self.task).context("a load")?;
        Ok(self.report())
    }
}

impl Drop for BackgroundLoad<'_> {
    fn drop(&mut self) {
        self.task.abort();
    }
}
