//! The agent's loop.
//!
//! [`world`] is what is known, [`writer`] gets the plan that follows from it into the kernel, [`core`] turns events into
//! both and publishes a status, and [`driver`] waits for the events. All of it runs on a fake data path. [`reload`] reads the
//! configuration again and [`run`] puts the parts together.

mod changes;
pub mod core;
pub mod drains;
pub mod driver;
mod egress;
pub mod newcomers;
pub mod node;
pub mod program;
pub mod reload;
mod report;
pub mod run;
pub mod signals;
pub mod sweep;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod watch;
pub mod world;
pub mod writer;

pub use report::Origin;
