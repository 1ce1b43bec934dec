//! What the loop asks of the data path besides its tables.
#![forbid(unsafe_code)]

use crate::dataplane::{Dataplane, DataplaneError};
use crate::model::PortFacts;

/// A data path that can be attached to interfaces and swept for dead flows.
pub trait Program: Dataplane {
    /// Attaches the program to an interface, or moves it there when the interface of that name was replaced. Returns
    /// the mode: `native` or `generic`.
    ///
    /// # Errors
    /// When the kernel refuses it.
    fn attach(&mut self, port: &PortFacts) -> Result<&'static str, DataplaneError>;

    /// Detaches the program everywhere. Errors are logged: there is nobody left to act on them.
    fn detach(&mut self);

    /// Closes flows that are idle for too long or whose backend is gone. Returns how many. May do a part of the
    /// table at a time.
    ///
    /// # Errors
    /// When the kernel refuses it.
    fn sweep(&mut self) -> Result<u64, DataplaneError>;
}
