//! Another configuration.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{info, warn};

use super::Core;
use crate::agent::program::Program;
use crate::config::{Config, differences, restart_needed};
use crate::metrics::DrainResult;
use crate::status::reload::{RefusedReload, ReloadReport, ReloadResult};

/// A configuration file was read.
#[derive(Debug)]
pub struct NewConfig {
    /// What is in it, or all that is wrong with it, one line each.
    pub read: Result<Arc<Config>, Vec<String>>,
    /// What is unlikely to do what is wanted.
    pub warnings: Vec<String>,
    /// When it was read.
    pub at: SystemTime,
    /// Told what came of it.
    pub reply: oneshot::Sender<ReloadReport>,
}

/// Why a configuration is not taken.
struct Refused(ReloadResult, Vec<String>);

impl<P: Program> Core<P> {
    /// Goes by this configuration from now on, or refuses it as a whole; publishes the outcome and says so.
    pub fn reload(&mut self, new: NewConfig) {
        let NewConfig { read, warnings, at, reply } = new;
        let outcome = match read {
            Ok(config) => self.take(config),
            Err(errors) => Err(Refused(ReloadResult::Invalid, errors)),
        };
        let (result, changes, errors) = match outcome {
            Ok(changes) => (ReloadResult::Success, changes, Vec::new()),
            Err(Refused(result, errors)) => (result, Vec::new(), errors),
        };
        self.metrics.reloaded(result);
        log(result, &changes, &errors);
        if result == ReloadResult::Success {
            self.origin.config_loaded = at;
            self.refused = None;
        } else {
            self.refused = Some(RefusedReload { at, result, errors: errors.clone() });
        }
        self.changed = true;
        self.flush();
        let (config, pending) = (self.origin.config.display().to_string(), self.writer.is_pending());
        // Whoever asked may have gone.
        let _ = reply.send(ReloadReport { config, result, changes, errors, warnings, pending });
    }

    /// All or nothing. Says what is different.
    fn take(&mut self, config: Arc<Config>) -> Result<Vec<String>, Refused> {
        let restart = restart_needed(&self.config, &config);
        if !restart.is_empty() {
            let errors = restart.iter().map(ToString::to_string).collect();
            return Err(Refused(ReloadResult::RestartNeeded, errors));
        }
        // Nothing can fail after this; and no check ends between this and what follows.
        self.checker
            .set_targets(&config.services)
            .map_err(|e| Refused(ReloadResult::Invalid, vec![format!("{}: {e}", config.source.file)]))?;
        let now = Instant::now();
        let changes = differences(&self.config, &config);
        for _ in 0..self.world.reload(&config, &self.checker.snapshot(), now) {
            self.metrics.drained(DrainResult::Removed);
        }
        self.signals.reload(&self.world, now);
        for service in self.world.services() {
            self.metrics.begin_signals(&service.name);
        }
        self.config = config;
        self.to_verify = true;
        self.decided(now);
        Ok(changes)
    }
}

fn log(result: ReloadResult, changes: &[String], errors: &[String]) {
    match result {
        ReloadResult::Success if changes.is_empty() => info!("configuration reloaded: nothing in it is new"),
        ReloadResult::Success => info!(changes = changes.len(), "configuration reloaded"),
        ReloadResult::Invalid => {
            warn!(errors = errors.len(), "configuration not reloaded, the old one stays: it has errors");
        }
        ReloadResult::RestartNeeded => {
            warn!(errors = errors.len(), "configuration not reloaded, the old one stays: it needs a restart");
        }
    }
    changes.iter().for_each(|line| info!("reload: {line}"));
    errors.iter().for_each(|line| warn!("reload: {line}"));
}
