//! The node's network as the data path needs it: interfaces, next hops, announcements.
//!
//! Read by netlink. What the kernel says becomes plain values ([`links`], [`resolve::Facts`]); deciding on
//! them is pure ([`resolve`], [`warm`], [`frames`], [`reset`]); [`hops`], [`announce`] and [`raw`] do the I/O.

pub mod announce;
pub mod conflict;
mod decode;
pub mod ethtool;
pub mod frames;
pub mod hops;
pub mod links;
pub(crate) mod netdev;
pub(crate) mod netlink;
pub mod raw;
pub mod reset;
pub mod resolve;
pub mod sysctl;
pub mod warm;

use std::io;

/// Talking to the kernel failed as a whole; what is wrong with one interface or one backend is a
/// [`links::PortError`] or a [`resolve::HopError`].
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A socket or a file of `/proc/sys`.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A netlink request was refused, or its answer makes no sense.
    #[error("netlink: {what}: {why}")]
    Request {
        /// What was asked for.
        what: &'static str,
        /// The answer.
        why: String,
    },
    /// The kernel did not answer in time, or the socket was closed.
    #[error("netlink: {what}: no answer")]
    Lost {
        /// What was asked for.
        what: &'static str,
    },
}
