//! What the server asks of the agent's loop, which alone changes anything.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::status::reload::ReloadReport;

/// For the loop to take a command and to answer. It turns in milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// A change, and where to say what came of it.
#[derive(Debug)]
pub struct Command {
    /// What is to be changed.
    pub change: Change,
    /// Told after the change was published.
    pub reply: oneshot::Sender<Result<(), Refusal>>,
}

/// A change of the agent's state. Backends are named as in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Give a backend no new flows, and watch the old ones end. Begins anew when it is drained already.
    Drain {
        /// The service.
        service: String,
        /// The backend.
        backend: String,
        /// How long to watch at most; the service's `drain_deadline` when absent.
        deadline: Option<Duration>,
    },
    /// Give it new flows again. No change when it is not drained.
    Undrain {
        /// The service.
        service: String,
        /// The backend.
        backend: String,
    },
}

/// Why nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such service or backend; in words, with those that there are.
    #[error("{0}")]
    Unknown(String),
    /// The loop does not answer.
    #[error("the agent does not take commands now: it is stopping, or its loop stands still")]
    Busy,
}

/// That the configuration be read again, and where to say what came of it.
#[derive(Debug)]
pub struct Reload {
    /// What it comes from, for the log.
    pub why: &'static str,
    /// Told after the outcome was published.
    pub reply: oneshot::Sender<ReloadReport>,
}

impl Reload {
    /// One that nobody waits for.
    #[must_use]
    pub fn unattended(why: &'static str) -> Self {
        Self { why, reply: oneshot::channel().0 }
    }
}

/// Asks for a reload and waits until its outcome is published. It may not be in the kernel yet.
///
/// # Errors
/// When there is none within seconds.
pub async fn ask_reload(reloads: &mpsc::Sender<Reload>, why: &'static str) -> Result<ReloadReport, Refusal> {
    let (reply, answer) = oneshot::channel();
    let asked = async {
        reloads.send(Reload { why, reply }).await.map_err(|_| Refusal::Busy)?;
        answer.await.map_err(|_| Refusal::Busy)
    };
    timeout(PATIENCE, asked).await.unwrap_or(Err(Refusal::Busy))
}

/// Sends a change to the loop and waits until it is published. It may not be in the kernel yet.
///
/// # Errors
/// When the loop refuses it or does not answer within seconds.
pub async fn ask(commands: &mpsc::Sender<Command>, change: Change) -> Result<(), Refusal> {
    let (reply, answer) = oneshot::channel();
    let asked = async {
        commands.send(Command { change, reply }).await.map_err(|_| Refusal::Busy)?;
        answer.await.map_err(|_| Refusal::Busy)?
    };
    timeout(PATIENCE, asked).await.unwrap_or(Err(Refusal::Busy))
}
