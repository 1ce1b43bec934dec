//! `[service.health.passive]`.

use std::time::Duration;

/// What the data path sees of a backend's connections, and from when on it counts against the backend. A count or time of 0
/// switches its signal off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassiveSpec {
    /// SYNs in a row that fail, refused or unanswered, until a check is due at once.
    pub check_after: u32,
    /// SYNs in a row that are refused until the backend is suspect.
    pub refused: u32,
    /// SYNs in a row that are not answered until the backend is suspect.
    pub unanswered: u32,
    /// Flows that are cut off within [`PassiveSpec::resets_within`] until the backend is suspect.
    pub resets: u32,
    /// For how long resets are counted together, and how long they are remembered against a suspect backend.
    pub resets_within: Duration,
    /// How long a flow may wait for an answer until the backend is suspect.
    pub oldest_waiting: Duration,
}

impl PassiveSpec {
    /// Every signal off.
    pub const OFF: Self = Self {
        check_after: 0,
        refused: 0,
        unanswered: 0,
        resets: 0,
        resets_within: Duration::from_secs(30),
        oldest_waiting: Duration::ZERO,
    };

    /// Whether the flow table has to be searched for what waits.
    #[must_use]
    pub const fn watches_waiting(&self) -> bool {
        !self.oldest_waiting.is_zero()
    }

    /// Whether the backends' counters have to be watched.
    #[must_use]
    pub const fn watches_counters(&self) -> bool {
        self.check_after > 0 || self.refused > 0 || self.unanswered > 0 || self.resets > 0
    }
}

impl Default for PassiveSpec {
    /// As in a file that does not say. How long a query takes is nobody's fault, so nothing is made of the time that one waits.
    fn default() -> Self {
        Self { check_after: 3, refused: 5, unanswered: 5, resets: 10, ..Self::OFF }
    }
}
