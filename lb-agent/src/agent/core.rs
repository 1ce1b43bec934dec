//! The agent without a clock of its own, a socket or a kernel: events in, writes and a published status out.
#![forbid(unsafe_code)]

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::admin::Published;
use crate::config::Config;
use crate::dataplane::{Counters, DataplaneError};
use crate::health::fsm::CheckResult;
use crate::health::{CheckObservation, Checker, PassiveHealth};
use crate::metrics::{Metrics, Operation};
use crate::model::PortFacts;
use crate::net::hops::Hops;
use crate::status::reload::RefusedReload;

use super::egress;
use super::program::Program;
use super::report::{Attached, Origin, Report};
use super::sweep::Sender;
use super::world::World;
use super::writer::{WriteError, Writer};
use lost::Lost;
use signals::Signals;

pub mod drains;
mod lost;
pub mod reload;
pub mod signals;

/// Why the agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The first plan cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The program cannot be attached.
    #[error("interface {interface}: cannot attach the program: {source}")]
    Attach {
        /// Which interface.
        interface: String,
        /// What the kernel said.
        source: DataplaneError,
    },
}

/// What the agent works with, besides the data path's program.
pub struct Tools {
    /// Counts what the agent does.
    pub metrics: Arc<Metrics>,
    /// What the data path counts.
    pub counters: Arc<dyn Counters>,
    /// Checks the backends.
    pub checker: Checker,
    /// Sends frames of the agent's own.
    pub send: Sender,
}

/// The agent's state and what it does about events. After a batch of events, [`Core::flush`] publishes the outcome.
pub struct Core<P> {
    world: World,
    writer: Writer<P>,
    metrics: Arc<Metrics>,
    counters: Arc<dyn Counters>,
    /// The one in use.
    config: Arc<Config>,
    /// A reload is on its way into the kernel.
    to_verify: bool,
    /// The last reload, when it was refused.
    refused: Option<RefusedReload>,
    origin: Origin,
    attached: Attached,
    egress: egress::Watch,
    /// Between [`Core::start`] and [`Core::stop`].
    running: bool,
    last_error: Option<String>,
    drains_due: Option<Instant>,
    /// Sends the RSTs that [`Core::sweep`] calls for.
    send: Sender,
    lost: Lost,
    checker: Checker,
    passive: PassiveHealth,
    signals: Signals,
    changed: bool,
    publish: watch::Sender<Published>,
}

impl<P: Program> Core<P> {
    /// Takes over the data path. Nothing is written yet. `world` is what `config` says, and the network.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn new(
        (config, world): (Arc<Config>, World),
        program: P,
        tools: Tools,
        origin: Origin,
        publish: watch::Sender<Published>,
    ) -> Result<Self, WriteError> {
        let Tools { metrics, counters, checker, send } = tools;
        let writer = Writer::new(program, metrics.clone())?;
        let (attached, last_error) = (Attached::new(), None);
        let signals = Signals::new(&world, Instant::now());
        for service in world.services() {
            metrics.begin_signals(&service.name);
        }
        Ok(Self {
            world,
            writer,
            metrics,
            counters,
            config,
            to_verify: false,
            refused: None,
            origin,
            attached,
            egress: egress::Watch::default(),
            running: false,
            last_error,
            drains_due: None,
            send,
            lost: Lost::default(),
            passive: checker.passive(),
            checker,
            signals,
            changed: true,
            publish,
        })
    }

    /// Writes the first plan and attaches the program: from then on packets are balanced.
    ///
    /// # Errors
    /// When the kernel refuses either. Nothing stays attached then.
    pub fn start(&mut self) -> Result<(), StartError> {
        self.writer.decided(Instant::now());
        self.writer.write(&self.world)?;
        self.lost.look(self.writer.actual());
        for port in self.world.node().ports.clone() {
            if let Err(source) = self.attach(&port) {
                self.stop();
                return Err(StartError::Attach { interface: port.name, source });
            }
        }
        self.running = true;
        self.flush();
        Ok(())
    }

    /// Ends the checks and detaches the program.
    pub fn stop(&mut self) {
        self.running = false;
        self.checker.stop();
        self.writer.dataplane_mut().detach();
        self.attached.clear();
        self.changed = true;
        self.flush();
    }

    /// What is known of the world.
    #[must_use]
    pub const fn world(&self) -> &World {
        &self.world
    }

    /// When [`Core::write`] is to be called; `None` while there is nothing to write.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.writer.due()
    }

    /// A check has ended.
    pub fn observe(&mut self, observation: &CheckObservation) {
        if let Some(labels) = self.world.names(&observation.key) {
            let result = observation.result.name();
            self.metrics.check(labels, result, &CheckResult::NAMES, observation.duration);
        }
        self.changed |= self.world.observe(observation);
        if observation.change.is_some() {
            self.writer.decided(observation.at);
        }
    }

    /// The network is different.
    pub fn network(&mut self, hops: &Hops) {
        let decided = Instant::now();
        if self.world.set_hops(hops) {
            self.writer.decided(decided);
        }
        self.follow_ports();
        self.changed = true;
    }

    /// Writes what was decided. A failure is tried again by itself. After a reload the maps are read back.
    pub fn write(&mut self) {
        match self.writer.write(&self.world) {
            Ok(()) => {
                self.lost.look(self.writer.actual());
                if std::mem::take(&mut self.to_verify) {
                    self.writer.resync();
                }
            }
            Err(e) => debug!("write failed: {e}"),
        }
        self.changed = true;
    }

    /// Looks whether the maps still hold what was written, and the program is where it should be.
    pub fn resync(&mut self) {
        self.writer.resync();
        self.follow_ports();
        self.changed = true;
    }

    /// Looks for what is only said when it lasts. To be called about once a second.
    pub fn beat(&mut self) {
        self.egress.look(&self.world, &self.attached);
    }

    /// Publishes the outcome of the events since the last time.
    pub fn flush(&mut self) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let report = Report {
            world: &self.world,
            writer: &self.writer,
            attached: &self.attached,
            origin: &self.origin,
            refused: self.refused.as_ref(),
            running: self.running,
            errors: self.metrics.errors(),
            last_error: self.last_error.as_deref(),
        };
        // Those who were given a status keep it: it is replaced, not changed.
        self.publish.send_replace(report.published());
    }

    /// An interface that was replaced by another one of the same name, or whose attaching failed, has no program.
    fn follow_ports(&mut self) {
        if !self.running {
            return;
        }
        for port in self.world.node().ports.clone() {
            let attached = self.attached.get(&port.name).map(|(index, _)| *index);
            if !self.world.is_present(&port.name) {
                if self.attached.remove(&port.name).is_some() {
                    warn!(interface = port.name, "interface is gone: nothing is balanced there");
                }
            } else if attached != Some(port.ifindex)
                && let Err(e) = self.attach(&port)
            {
                self.attached.remove(&port.name);
                self.failed(Operation::Apply, format!("interface {}: cannot attach: {e}", port.name));
            }
        }
    }

    fn attach(&mut self, port: &PortFacts) -> Result<(), DataplaneError> {
        let attachment = self.writer.dataplane_mut().attach(port)?;
        let (interface, mode) = (&port.name, attachment.mode);
        match &attachment.refused {
            None => {
                info!(interface, ifindex = port.ifindex, mode, "program attached");
            }
            Some(why) => {
                warn!(interface, mode, "program attached, but slower than it could be: not native: {why}");
            }
        }
        self.attached.insert(port.name.clone(), (port.ifindex, attachment));
        Ok(())
    }

    fn failed(&mut self, operation: Operation, text: String) {
        self.metrics.error(operation);
        if self.last_error.as_ref() != Some(&text) {
            warn!("{text}");
        }
        self.last_error = Some(text);
        self.changed = true;
    }
}
