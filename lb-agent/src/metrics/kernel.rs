//! The kernel's counters as metrics, read when Prometheus asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lb_common::abi::TICK_SHIFT;
use lb_common::flow::State;
use lb_common::reason::Reason;
use lb_common::stats::{BackendStats, FIRST_BYTE_BUCKETS, FROM_BACKEND, FROM_CLIENT, ServiceStats};
use prometheus::core::{Collector, Desc};
use prometheus::{IntCounter, proto};

use super::catalog::{self as cat, Family};
use super::ledger::{Holder, Ledger};
use super::sample::{desc, family, float, histogram, sample};
use crate::dataplane::{Counters, DataplaneError};

/// A backend's `service` and `backend` labels.
pub type BackendLabels = (String, String);

/// Values of the `direction` label, with the index of their counter.
const DIRECTIONS: [(&str, usize); 2] = [("from_client", FROM_CLIENT), ("from_backend", FROM_BACKEND)];

/// The `reason` of packets that were forwarded.
const FORWARDED: &str = "forwarded";

/// Exponents of the exported first-byte buckets: 2^4 ticks are 1.05 ms, 2^23 are 550 s. The kernel's finer and
/// coarser ones are folded into their neighbours.
const FIRST_BYTE_EXPONENTS: std::ops::RangeInclusive<usize> = 4..=23;

/// Seconds per tick.
const TICK_SECONDS: f64 = (1u64 << TICK_SHIFT) as f64 * 1e-9;

const FAMILIES: [Family; 20] = [
    cat::SERVICE_PACKETS,
    cat::SERVICE_BYTES,
    cat::SERVICE_NEW_FLOWS,
    cat::SERVICE_RECYCLED,
    cat::SERVICE_UNRESTED,
    cat::SERVICE_TABLE_FULL,
    cat::BACKEND_FLOWS,
    cat::BACKEND_WAITING,
    cat::BACKEND_NEW_FLOWS,
    cat::BACKEND_REFUSED,
    cat::BACKEND_UNANSWERED,
    cat::BACKEND_MOVED,
    cat::BACKEND_RESETS,
    cat::BACKEND_OLDEST,
    cat::BACKEND_PACKETS,
    cat::BACKEND_BYTES,
    cat::BACKEND_FIRST_BYTE,
    cat::PACKETS,
    cat::SLOTS,
    cat::CAPACITY,
];

/// Who holds which ids.
#[derive(Debug, Default)]
struct Books {
    services: Ledger<String, ServiceStats>,
    backends: Ledger<BackendLabels, BackendStats>,
}

/// Reads the counters and names them.
pub(super) struct KernelCollector {
    counters: Arc<dyn Counters>,
    books: Mutex<Books>,
    descs: Vec<Desc>,
    failures: IntCounter,
}

impl KernelCollector {
    /// `failures` counts what could not be read.
    pub(super) fn new(counters: Arc<dyn Counters>, failures: IntCounter) -> prometheus::Result<Self> {
        let descs = FAMILIES.iter().map(desc).collect::<prometheus::Result<_>>()?;
        Ok(Self { counters, books: Mutex::default(), descs, failures })
    }

    /// See [`Ledger::assign`].
    pub(super) fn assign(
        &self,
        services: impl IntoIterator<Item = Holder<String>>,
        backends: impl IntoIterator<Item = Holder<BackendLabels>>,
    ) -> (Vec<String>, Vec<BackendLabels>) {
        let mut books = self.books();
        (
            books.services.assign(services, |id| self.ok(self.counters.service(id))),
            books.backends.assign(backends, |id| self.ok(self.counters.backend(id))),
        )
    }

    /// Totals of the live backends.
    pub(super) fn backend_totals(&self) -> Vec<(BackendLabels, BackendStats)> {
        self.books().backends.totals(|id| self.ok(self.counters.backend(id)))
    }

    /// The books stay usable after a panic elsewhere: every change to them is complete or not begun.
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ok<T>(&self, reading: Result<T, DataplaneError>) -> Option<T> {
        reading.inspect_err(|_| self.failures.inc()).ok()
    }

    /// Totals of the live backends, and by service those of all that it ever had.
    fn traffic(&self) -> (Vec<(BackendLabels, BackendStats)>, BTreeMap<String, BackendStats>) {
        let mut books = self.books();
        let live = books.backends.totals(|id| self.ok(self.counters.backend(id)));
        let mut services = books.backends.gone().clone();
        for ((service, _), stats) in &live {
            let sum = services.entry(service.clone()).or_insert(BackendStats::ZERO);
            *sum = sum.plus(stats);
        }
        (live, services)
    }

    fn services(&self, traffic: &BTreeMap<String, BackendStats>, out: &mut Vec<proto::MetricFamily>) {
        let totals = self.books().services.totals(|id| self.ok(self.counters.service(id)));
        let per = |f: &Family, get: fn(&ServiceStats) -> u64| {
            family(f, totals.iter().map(|(name, s)| sample(f, &[name], float(get(s)))).collect())
        };
        let both = |f: &Family, get: fn(&BackendStats) -> [u64; 2]| {
            let samples = totals.iter().flat_map(|(name, _)| {
                let counts = traffic.get(name).map_or([0; 2], get);
                DIRECTIONS.map(|(label, i)| sample(f, &[name, label], float(counts[i])))
            });
            family(f, samples.collect())
        };
        out.push(both(&cat::SERVICE_PACKETS, |s| s.packets));
        out.push(both(&cat::SERVICE_BYTES, |s| s.bytes));
        out.push(per(&cat::SERVICE_NEW_FLOWS, |s| s.new_flows));
        out.push(per(&cat::SERVICE_RECYCLED, |s| s.recycled_embryonic));
        out.push(per(&cat::SERVICE_UNRESTED, |s| s.reused_unrested));
        out.push(per(&cat::SERVICE_TABLE_FULL, |s| s.table_full));
    }

    fn backends(&self, totals: &[(BackendLabels, BackendStats)], out: &mut Vec<proto::MetricFamily>) {
        let per = |f: &Family, get: fn(&BackendStats) -> u64| {
            family(f, totals.iter().map(|((s, b), t)| sample(f, &[s, b], float(get(t)))).collect())
        };
        let both = |f: &Family, get: fn(&BackendStats) -> [u64; 2]| {
            let samples = totals.iter().flat_map(|((s, b), t)| {
                DIRECTIONS.map(|(label, i)| sample(f, &[s, b, label], float(get(t)[i])))
            });
            family(f, samples.collect())
        };
        out.push(per(&cat::BACKEND_NEW_FLOWS, |t| t.new_flows));
        out.push(per(&cat::BACKEND_REFUSED, |t| t.refused));
        out.push(per(&cat::BACKEND_UNANSWERED, |t| t.unanswered));
        out.push(per(&cat::BACKEND_MOVED, |t| t.moved));
        out.push(per(&cat::BACKEND_RESETS, |t| t.resets));
        out.push(both(&cat::BACKEND_PACKETS, |t| t.packets));
        out.push(both(&cat::BACKEND_BYTES, |t| t.bytes));
        out.push(family(
            &cat::BACKEND_FIRST_BYTE,
            totals.iter().map(|((s, b), t)| first_byte(&[s, b], t)).collect(),
        ));
    }

    fn loads(&self, out: &mut Vec<proto::MetricFamily>) {
        let held = self.books().backends.holders();
        let loads: Vec<_> = held
            .into_iter()
            .filter_map(|(labels, id, _)| Some((labels, self.ok(self.counters.load(id))?)))
            .collect();
        for (f, get) in [
            (&cat::BACKEND_FLOWS, (|l| l.flows) as fn(&lb_common::stats::BackendLoad) -> u64),
            (&cat::BACKEND_WAITING, |l| l.waiting),
        ] {
            let samples = loads.iter().map(|((s, b), l)| sample(f, &[s, b], float(get(l))));
            out.push(family(f, samples.collect()));
        }
    }

    fn packets(&self, forwarded: u64, out: &mut Vec<proto::MetricFamily>) {
        let f = &cat::PACKETS;
        let mut samples = vec![sample(f, &[FORWARDED], float(forwarded))];
        if let Some(counts) = self.ok(self.counters.reasons()) {
            let each = Reason::ALL.iter().zip(counts);
            samples.extend(each.map(|(reason, n)| sample(f, &[reason.name()], float(n))));
        }
        out.push(family(f, samples));
    }

    fn table(&self, out: &mut Vec<proto::MetricFamily>) {
        let Some(summary) = self.ok(self.counters.summary()) else { return };
        let oldest = self.books().backends.holders().into_iter().map(|((s, b), id, generation)| {
            let ticks = summary.backend(id, generation).map_or(0, |flows| flows.oldest_waiting);
            sample(&cat::BACKEND_OLDEST, &[&s, &b], f64::from(ticks) * TICK_SECONDS)
        });
        out.push(family(&cat::BACKEND_OLDEST, oldest.collect()));
        let (f, census) = (&cat::SLOTS, &summary.census);
        let slots = State::ALL.map(|s| sample(f, &[s.name()], float(census.count(s))));
        out.push(family(f, slots.into()));
        out.push(family(&cat::CAPACITY, vec![sample(&cat::CAPACITY, &[], float(census.capacity()))]));
    }
}

impl Collector for KernelCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let mut out = Vec::with_capacity(FAMILIES.len());
        let (backends, services) = self.traffic();
        let forwarded = services.values().flat_map(|s| s.packets).sum();
        self.services(&services, &mut out);
        self.backends(&backends, &mut out);
        self.loads(&mut out);
        self.packets(forwarded, &mut out);
        self.table(&mut out);
        // The registry takes a family without samples for a mistake.
        out.retain(|f| !f.get_metric().is_empty());
        out
    }
}

/// Bucket `i` of the kernel counts times below 2^i ticks, so its bound is exact as an upper bound.
fn first_byte(labels: &[&str], t: &BackendStats) -> proto::Metric {
    let below = |exponent: usize| t.first_byte.iter().take(exponent + 1).sum::<u64>();
    let buckets = FIRST_BYTE_EXPONENTS.map(|e| (float(1 << e) * TICK_SECONDS, below(e)));
    // The histogram's own sum and not `responses`: a scrape between two writes must not show a count below a bucket.
    let count = below(FIRST_BYTE_BUCKETS);
    histogram(&cat::BACKEND_FIRST_BYTE, labels, buckets, float(t.first_byte_ticks) * TICK_SECONDS, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_byte_buckets_are_cumulative_seconds() {
        let mut t = BackendStats::ZERO;
        t.first_byte[1] = 5;
        t.first_byte[4] = 1;
        t.first_byte[10] = 2;
        t.first_byte[31] = 3;
        t.first_byte_ticks = 1 << 20;
        let m = first_byte(&["s", "b"], &t);
        let h = m.get_histogram();
        let at = |e: usize| h.get_bucket()[e - 4].cumulative_count();
        assert_eq!((at(4), at(9), at(10), at(23), h.get_sample_count()), (6, 6, 8, 8, 11));
        assert!((h.get_bucket()[0].upper_bound() - 0.001_048_576).abs() < 1e-12);
        assert!((h.get_sample_sum() - 68.719_476_736).abs() < 1e-9);
    }
}
