//! Counters that a test writes.

use std::collections::BTreeMap;
use std::sync::Mutex;

use lb_common::flow::Slot;
use lb_common::reason::REASONS;
use lb_common::stats::{BackendLoad, BackendStats, ServiceStats};

use crate::dataplane::DataplaneError;
use crate::dataplane::counters::{Counters, ReasonCounts, SlotCensus};
use crate::flows::FlowSummary;

#[derive(Default)]
pub(crate) struct FakeCounters(Mutex<Values>);

#[derive(Default)]
pub(crate) struct Values {
    pub(crate) services: BTreeMap<u16, ServiceStats>,
    pub(crate) backends: BTreeMap<u16, BackendStats>,
    pub(crate) reasons: BTreeMap<u32, u64>,
    pub(crate) loads: BTreeMap<u16, BackendLoad>,
    /// Those in use.
    pub(crate) slots: Vec<Slot>,
    pub(crate) now: u32,
    pub(crate) scans: usize,
    pub(crate) broken: bool,
}

impl FakeCounters {
    pub(crate) fn set(&self, change: impl FnOnce(&mut Values)) {
        change(&mut self.0.lock().unwrap());
    }

    /// How often the table was scanned.
    pub(crate) fn scans(&self) -> usize {
        self.0.lock().unwrap().scans
    }

    fn get<T>(&self, read: impl FnOnce(&Values) -> T) -> Result<T, DataplaneError> {
        let values = self.0.lock().unwrap();
        if values.broken {
            return Err(DataplaneError { what: "counters".into(), source: anyhow::anyhow!("broken") });
        }
        Ok(read(&values))
    }
}

impl Counters for FakeCounters {
    fn reasons(&self) -> Result<ReasonCounts, DataplaneError> {
        self.get(|v| {
            let mut out = [0; REASONS as usize];
            for (r, n) in &v.reasons {
                out[*r as usize] = *n;
            }
            out
        })
    }

    fn service(&self, id: u16) -> Result<ServiceStats, DataplaneError> {
        self.get(|v| v.services.get(&id).copied().unwrap_or(ServiceStats::ZERO))
    }

    fn backend(&self, id: u16) -> Result<BackendStats, DataplaneError> {
        self.get(|v| v.backends.get(&id).copied().unwrap_or(BackendStats::ZERO))
    }

    fn load(&self, id: u16) -> Result<BackendLoad, DataplaneError> {
        let usual = BackendLoad { flows: u64::from(id) * 10, waiting: u64::from(id), ..BackendLoad::ZERO };
        self.get(|v| v.loads.get(&id).copied().unwrap_or(usual))
    }

    fn summary(&self) -> Result<FlowSummary, DataplaneError> {
        self.set(|v| v.scans += 1);
        let census = self.census()?;
        self.get(|v| {
            let mut summary = FlowSummary::of(v.slots.iter().copied(), v.now);
            summary.census = census;
            summary
        })
    }

    fn census(&self) -> Result<SlotCensus, DataplaneError> {
        self.get(|_| SlotCensus { by_state: [100, 0, 3, 2, 40, 7] })
    }
}
