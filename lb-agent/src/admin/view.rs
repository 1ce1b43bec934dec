//! What the server answers from.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::command::{Command, Reload};
use crate::dataplane::{Counters, Tables};
use crate::flows::FlowSummary;
use crate::metrics::Metrics;
use crate::status::Status;

/// The flow table is scanned for what single flows do at most this often, however often somebody asks.
const SCAN_EVERY: Duration = Duration::from_secs(1);

/// What the loop publishes after each change.
#[derive(Clone, Debug)]
pub struct Published {
    /// For people; without the numbers that the data path counts.
    pub status: Arc<Status>,
    /// What the maps should hold.
    pub desired: Arc<Tables>,
    /// What they hold, as far as is known: written since, or read back.
    pub actual: Arc<Tables>,
}

/// When the loop last turned.
#[derive(Debug)]
pub struct Heartbeat {
    epoch: Instant,
    last: AtomicU64,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { epoch: Instant::now(), last: AtomicU64::new(0) }
    }
}

impl Heartbeat {
    /// The loop turned now.
    pub fn beat(&self) {
        let now = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Time since the last turn.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.epoch.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}

/// What the server answers from, and whom it tells what is to be changed.
pub struct View {
    /// The loop's latest word.
    pub published: watch::Receiver<Published>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The kernel's counters.
    pub counters: Arc<dyn Counters>,
    /// When the loop last turned.
    pub heartbeat: Arc<Heartbeat>,
    /// To the loop.
    pub commands: mpsc::Sender<Command>,
    /// To whoever reads the configuration.
    pub reloads: mpsc::Sender<Reload>,
    /// The last scan.
    pub scan: ScanCache,
}

/// The last scan of the flow table, and when it was made.
#[derive(Default)]
pub struct ScanCache(Mutex<Option<(Instant, Arc<FlowSummary>)>>);

impl ScanCache {
    /// A scan that is not older than [`SCAN_EVERY`]; `None` when the table cannot be read.
    fn get(&self, counters: &dyn Counters) -> Option<Arc<FlowSummary>> {
        // A panic in another scan left what was there before it.
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, summary)) = &*last
            && at.elapsed() < SCAN_EVERY
        {
            return Some(summary.clone());
        }
        let summary = Arc::new(counters.summary().ok()?);
        *last = Some((Instant::now(), summary.clone()));
        Some(summary)
    }
}

impl View {
    /// The status with the numbers of this moment. Reads the kernel; may take milliseconds.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut status = Status::clone(&self.published.borrow().status);
        let new_flows = self.metrics.new_flows();
        status.fill(&*self.counters, |service, backend| {
            new_flows.get(&(service.to_owned(), backend.to_owned())).copied()
        });
        if status.is_any_drained()
            && let Some(summary) = self.scan.get(&*self.counters)
        {
            status.fill_waits(&summary);
        }
        status
    }
}
