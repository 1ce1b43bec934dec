//! What the agent does when it gets a signal.
#![forbid(unsafe_code)]

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::admin::command::Reload;

/// SIGTERM and SIGINT stop the agent, SIGHUP lets it read its configuration again.
pub struct Signals {
    /// For [`stop`].
    pub stop: Stop,
    /// For [`hangups`].
    pub hangup: Signal,
}

/// The signals that stop the agent.
pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens from now on, within a tokio runtime. What these signals do otherwise is off.
    ///
    /// # Errors
    /// When the kernel refuses a handler.
    pub fn listen() -> io::Result<Self> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { stop: Stop { terminate, interrupt }, hangup: signal(SignalKind::hangup())? })
    }
}

/// Returns the name of the signal that stops the agent.
pub async fn stop(mut signals: Stop) -> &'static str {
    tokio::select! {
        _ = signals.terminate.recv() => "SIGTERM",
        _ = signals.interrupt.recv() => "SIGINT",
    }
}

/// Asks for a reload at each SIGHUP, for as long as there is somebody to ask.
pub async fn hangups(mut signal: Signal, reloads: mpsc::Sender<Reload>) {
    while signal.recv().await.is_some() {
        if reloads.send(Reload::unattended("SIGHUP")).await.is_err() {
            return;
        }
    }
}
