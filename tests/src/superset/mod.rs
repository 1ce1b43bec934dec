//! The stand: real Apache Superset replicas behind the balancer, with PostgreSQL and Redis, in a lab that stays between commands.
//!
//! [`up`] makes it or makes good what is missing of it, [`down`] ends it, [`status`] tells what there is. [`prove`] carries out a
//! [`Scenario`] on it.

pub mod agent;
pub mod content;
pub mod daemon;
pub mod databases;
mod down;
pub mod front;
pub mod http;
mod name;
pub mod place;
mod prove;
pub mod replica;
pub mod scenario;
pub mod session;
pub mod stand;
pub mod state;
mod status;
pub mod tiers;
mod up;
pub mod venv;
pub mod views;
pub mod webdriver;

pub use daemon::Daemon;
pub use down::down;
pub use name::Scenario;
pub use place::Place;
pub use prove::prove;
pub use session::{Session, User};
pub use stand::Stand;
pub use status::status;
pub use up::up;

/// Replicas that the stand has by default, as config/superset.toml does.
pub const REPLICAS: u8 = 3;
/// Replicas that the lab has room for.
pub const MOST_REPLICAS: u8 = 5;
