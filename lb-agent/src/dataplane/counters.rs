//! What the data path has counted: read at the moment someone asks, never kept.

use lb_common::flow::State;
use lb_common::reason::REASONS;
use lb_common::stats::{BackendLoad, BackendStats, ServiceStats};

use super::DataplaneError;
use crate::flows::FlowSummary;

/// Counters in the index order of [`lb_common::reason::Reason`].
pub type ReasonCounts = [u64; REASONS as usize];

/// The kernel's counters, all CPUs added up. A handle: cheap to clone behind an `Arc`, usable from any thread
/// while the agent's loop writes to the maps.
pub trait Counters: Send + Sync {
    /// Packets by reason.
    ///
    /// # Errors
    /// When the map cannot be read. So for each method here.
    fn reasons(&self) -> Result<ReasonCounts, DataplaneError>;

    /// Counters of the service with this id. They start at zero when the id is given to a service.
    ///
    /// # Errors
    /// See [`Counters::reasons`].
    fn service(&self, id: u16) -> Result<ServiceStats, DataplaneError>;

    /// Counters of the backend with this id. They start at zero when the id is given to another backend.
    ///
    /// # Errors
    /// See [`Counters::reasons`].
    fn backend(&self, id: u16) -> Result<BackendStats, DataplaneError>;

    /// Flows that the backend has now.
    ///
    /// # Errors
    /// See [`Counters::reasons`].
    fn load(&self, id: u16) -> Result<BackendLoad, DataplaneError>;

    /// Counts the slots of the flow table by state. Takes milliseconds per million slots.
    ///
    /// # Errors
    /// See [`Counters::reasons`].
    fn census(&self) -> Result<SlotCensus, DataplaneError>;

    /// What the flow table's slots say of each backend's flows. Takes tens of milliseconds per million slots.
    ///
    /// # Errors
    /// See [`Counters::reasons`].
    fn summary(&self) -> Result<FlowSummary, DataplaneError>;
}

/// How the flow table's slots are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotCensus {
    /// Slots by [`State`], in the order of [`State::ALL`]. The sum is the capacity.
    pub by_state: [u64; State::ALL.len()],
}

impl SlotCensus {
    /// Slots of the table.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.by_state.iter().sum()
    }

    /// Slots in this state.
    #[must_use]
    pub const fn count(&self, state: State) -> u64 {
        self.by_state[state as usize]
    }

    /// Counts one slot.
    pub const fn add(&mut self, state: State) {
        self.by_state[state as usize] += 1;
    }
}
