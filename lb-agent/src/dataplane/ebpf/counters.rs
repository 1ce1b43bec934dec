//! The kernel's counters, added up over CPUs.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use aya::maps::{MapData, PerCpuArray};
use aya::{Ebpf, Pod};
use lb_common::stats::{BackendLoad, BackendStats, ServiceStats};

use super::clock::exact_now;
use super::error::{because, failure};
use super::flows::FlowTable;
use super::maps::{data, open};
use super::view::View;
use crate::dataplane::DataplaneError;
use crate::dataplane::counters::{Counters, ReasonCounts, SlotCensus};
use crate::flows::FlowSummary;

/// 64-bit words of a backend's load.
const LOAD_WORDS: usize = size_of::<BackendLoad>() / size_of::<u64>();

/// Handles of the maps that count. They outlive the data plane, and then stand still.
pub struct KernelCounters {
    reasons: PerCpuArray<MapData, u64>,
    services: PerCpuArray<MapData, ServiceStats>,
    backends: PerCpuArray<MapData, BackendStats>,
    load: View<LOAD_WORDS>,
    flows: Arc<FlowTable>,
}

impl KernelCounters {
    pub(super) fn open(ebpf: &Ebpf, flows: Arc<FlowTable>) -> Result<Self, DataplaneError> {
        Ok(Self {
            reasons: open(ebpf, "REASON_STATS")?,
            services: open(ebpf, "SERVICE_STATS")?,
            backends: open(ebpf, "BACKEND_STATS")?,
            load: View::map(&data(ebpf, "LOAD")?, "LOAD")?,
            flows,
        })
    }
}

impl fmt::Debug for KernelCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelCounters").field("flows", &self.flows).finish_non_exhaustive()
    }
}

impl Counters for KernelCounters {
    fn reasons(&self) -> Result<ReasonCounts, DataplaneError> {
        let mut out = [0; _];
        for (index, count) in (0..).zip(&mut out) {
            *count = sum(&self.reasons, "REASON_STATS", index, 0, |a, b| a.wrapping_add(*b))?;
        }
        Ok(out)
    }

    fn service(&self, id: u16) -> Result<ServiceStats, DataplaneError> {
        sum(&self.services, "SERVICE_STATS", u32::from(id), ServiceStats::ZERO, ServiceStats::plus)
    }

    fn backend(&self, id: u16) -> Result<BackendStats, DataplaneError> {
        sum(&self.backends, "BACKEND_STATS", u32::from(id), BackendStats::ZERO, BackendStats::plus)
    }

    fn load(&self, id: u16) -> Result<BackendLoad, DataplaneError> {
        let index = u32::from(id);
        if index >= self.load.len() {
            return Err(because(format!("map LOAD, index {id}: read"), "it has no such entry"));
        }
        let [flows, waiting, failures, resets] =
            self.load.value(index).each_ref().map(|word| word.load(Ordering::Relaxed));
        Ok(BackendLoad { flows, waiting, failures, resets })
    }

    fn census(&self) -> Result<SlotCensus, DataplaneError> {
        Ok(self.flows.census())
    }

    fn summary(&self) -> Result<FlowSummary, DataplaneError> {
        Ok(FlowSummary::of(self.flows.iter().map(|(_, slot)| slot), exact_now()))
    }
}

fn sum<V: Pod>(
    map: &PerCpuArray<MapData, V>,
    name: &str,
    index: u32,
    zero: V,
    plus: impl Fn(&V, &V) -> V,
) -> Result<V, DataplaneError> {
    let values = map.get(&index, 0).map_err(|e| failure(format!("map {name}, index {index}: read"), &e))?;
    Ok(values.iter().fold(zero, |total, value| plus(&total, value)))
}
