//! What the loop asks of the data path besides its tables.
#![forbid(unsafe_code)]

use std::sync::Arc;

use lb_common::flow::Slot;

use crate::dataplane::{Dataplane, DataplaneError, Tables};
use crate::model::PortFacts;

/// How the program is attached to an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// `native` or `generic`.
    pub mode: &'static str,
    /// Why it is not native, when that was tried.
    pub refused: Option<String>,
}

/// Slots that a [`Scanner`] returns at most.
pub const AT_ONCE: usize = 1 << 16;

/// Finds the slots of flows that are over: idle for too long, or their backend is dead or gone by the tables. First those
/// whose client waits for an answer; at most [`AT_ONCE`]. Takes milliseconds per million slots, so it runs on a thread of its
/// own.
pub type Scanner = Arc<dyn Fn(&Tables) -> Vec<u32> + Send + Sync>;

/// Closes the flows in these slots, except those that are not over by now. Returns what it closed, as it was before. For
/// the scanner's thread.
pub type Closer = Arc<dyn Fn(&[u32]) -> Result<Vec<Slot>, DataplaneError> + Send + Sync>;

/// A data path that can be attached to interfaces and rid of dead flows.
pub trait Program: Dataplane {
    /// Attaches the program to an interface, or moves it there when the interface of that name was replaced.
    ///
    /// # Errors
    /// When the kernel refuses it.
    fn attach(&mut self, port: &PortFacts) -> Result<Attachment, DataplaneError>;

    /// Detaches the program everywhere. Errors are logged: there is nobody left to act on them.
    fn detach(&mut self);

    /// See [`Scanner`].
    fn scanner(&self) -> Scanner;

    /// See [`Closer`].
    fn closer(&self) -> Closer;
}
