//! Beginning drains, watching them, and ending them.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use crate::admin::command::{Change, Command, Refusal};
use crate::drain::{Drain, Outcome, Reading};
use crate::metrics::{DrainResult, Operation};
use crate::model::{BackendKey, DrainSpec};

use super::Core;
use crate::agent::program::Program;

/// How often a drain is looked at: its end is noticed this late at most.
pub const LOOK: Duration = Duration::from_millis(250);

impl<P: Program> Core<P> {
    /// Does what somebody asked for, publishes it, and says so.
    pub fn command(&mut self, command: Command) {
        let done = match &command.change {
            Change::Drain { service, backend, deadline } => self.drain(service, backend, *deadline),
            Change::Undrain { service, backend } => self.undrain(service, backend),
        };
        self.flush();
        // Whoever asked may have gone.
        let _ = command.reply.send(done);
    }

    /// When [`Core::observe_drains`] is to be called; `None` while there is nothing to watch.
    #[must_use]
    pub fn drains_due(&self) -> Option<Instant> {
        self.drains_due
    }

    /// Looks how far the drains are.
    pub fn observe_drains(&mut self) {
        let now = Instant::now();
        // Until the kernel has the ring without them, they get new flows.
        let readings = if self.writer.is_pending() { None } else { Some(self.readings()) };
        let read = |key: &BackendKey| readings.as_ref()?.iter().find(|(k, _)| k == key).map(|(_, r)| *r);
        for (key, outcome) in self.world.drains_mut().observe(now, read) {
            self.drained(&key, outcome);
        }
        self.drains_due = self.world.drains().is_any_going_on().then(|| now + LOOK);
    }

    fn drain(&mut self, service: &str, backend: &str, deadline: Option<Duration>) -> Result<(), Refusal> {
        let (key, rules) = self.world.find(service, backend).map_err(Refusal::Unknown)?;
        let rules = DrainSpec { deadline: deadline.unwrap_or(rules.deadline), ..rules };
        let now = Instant::now();
        self.world.drain(key, rules, now);
        let deadline = humantime::format_duration(rules.deadline);
        info!(service, backend, %deadline, "draining: no new flows, the old ones go on");
        self.drains_due = Some(now);
        self.decided(now);
        Ok(())
    }

    fn undrain(&mut self, service: &str, backend: &str) -> Result<(), Refusal> {
        let (key, _) = self.world.find(service, backend).map_err(Refusal::Unknown)?;
        let now = Instant::now();
        let Some(drain) = self.world.undrain(&key, now) else { return Ok(()) };
        info!(service, backend, "not drained any more: it gets new flows while it is healthy");
        if drain.end().is_none() {
            self.metrics.drained(DrainResult::Undone);
        }
        self.decided(now);
        Ok(())
    }

    fn drained(&mut self, key: &BackendKey, outcome: Outcome) {
        self.changed = true;
        let (service, backend) = self.world.names(key).unwrap_or(("?", "?"));
        let waiting = self.world.drains().get(key).and_then(Drain::end).and_then(|end| end.waiting);
        self.metrics.drained(outcome.into());
        match outcome {
            Outcome::Complete => info!(service, backend, "drained: no flow waits, it may be stopped"),
            Outcome::Deadline => {
                warn!(
                    service,
                    backend, waiting, "deadline of the drain: flows that wait are lost if it is stopped now"
                );
            }
        }
    }

    pub(super) fn decided(&mut self, now: Instant) {
        self.writer.decided(now);
        self.changed = true;
    }

    /// What the data path says of the backends whose drain goes on. One that cannot be read is absent.
    fn readings(&mut self) -> Vec<(BackendKey, Reading)> {
        let drains = self.world.drains();
        let going_on = drains.keys().iter().filter(|key| drains.get(key).is_some_and(|d| d.end().is_none()));
        let plan = self.writer.plan();
        let id = |key: &BackendKey| plan.services.get(&key.service)?.backends.get(key).copied();
        let mut failure = None;
        let read = |(key, id)| {
            let read = self.counters.load(id).and_then(|load| Ok((load, self.counters.backend(id)?)));
            let (load, stats) = read.map_err(|e| failure = Some(e)).ok()?;
            Some((key, Reading { waiting: load.waiting, data_seen: stats.data_seen }))
        };
        let readings = going_on.filter_map(|key| Some((*key, id(key)?))).filter_map(read).collect();
        if let Some(e) = failure {
            self.failed(Operation::Counters, format!("a drain cannot be watched: {e}"));
        }
        readings
    }
}
