//! A steady load of logged-in page views, each over a connection of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;

use super::session::{Session, User};
use super::stand::Stand;
use crate::e2e::Client;
use crate::proof::attempts::{Attempt, Attempts, Plan, Until};

/// Views a second.
pub const RATE: u32 = 20;
/// The page: 29 KB of HTML for whoever is logged in, and a redirect for others. About 20 ms of work.
pub const PAGE: &str = "/dashboard/list/";
/// After this a view is given up.
const PATIENCE: Duration = Duration::from_secs(15);

/// Views under way.
#[derive(Debug)]
pub struct Views {
    client: Client,
    attempts: Attempts,
    stopped: Arc<AtomicBool>,
}

impl Views {
    /// Starts views at an address by a user who is logged in.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn start(stand: &Stand, target: SocketAddr, user: &User) -> Result<Self> {
        let (client, stopped) = (stand.client()?, Arc::<AtomicBool>::default());
        let plan = Plan {
            target,
            path: PAGE.to_owned(),
            headers: format!("Cookie: {}\r\n", user.cookie()),
            rate: RATE,
            until: Until::Stopped(Arc::clone(&stopped)),
            patience: PATIENCE,
        };
        let attempts = Attempts::start(&client, plan);
        Ok(Self { client, attempts, stopped })
    }

    /// The same through the VIP by a user who logs in first.
    ///
    /// # Errors
    /// When that fails.
    pub fn log_in(stand: &Stand) -> Result<Self> {
        Self::start(stand, stand.vip(), &Session::log_in(stand)?.user)
    }

    /// Begins no more.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Begins no more, and waits for those under way.
    ///
    /// # Errors
    /// When the load itself failed.
    pub fn finish(self) -> Result<Vec<Attempt>> {
        self.stop();
        self.attempts.finish(&self.client)
    }
}
