//! What end-to-end tests share: a lab with its servers and the agent, clients, and what must hold after all of them.

mod client;
mod echo;
mod held;
mod kernel;
mod stand;

use std::time::Duration;

pub use client::{BackgroundLoad, Client};
pub use echo::ping;
pub use held::Held;
pub use kernel::{KernelObjects, xdp_modes};
pub use stand::{Stand, service};

/// For what takes a moment: much longer than it takes, because machines that run tests are slow and shared.
pub const LIMIT: Duration = Duration::from_secs(30);
