//! Prometheus metrics.
//!
//! Three sources, one registry: the kernel's counters (`kernel`, read at scrape time), the published status
//! (`control`, so that metrics and `lb-agent status` agree), and what the agent measures itself
//! ([`Metrics`]). [`catalog`] names every family.
#![forbid(unsafe_code)]

pub mod catalog;
mod control;
mod kernel;
pub mod ledger;
mod sample;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

pub use control::StatusSource;
pub use kernel::BackendLabels;
pub use prometheus::Error as MetricsError;

use crate::dataplane::Counters;
use crate::drain::Outcome;
use crate::health::Verdict;
use crate::health::fsm::CheckResult;
use crate::health::passive::Signal;
use crate::status::reload::ReloadResult;
use catalog::{self as cat, Family};
use control::ControlCollector;
use kernel::KernelCollector;
use ledger::Holder;

/// Media type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Bounds of `lb_health_check_seconds`: from a healthy Superset's 0.8 ms to the longest sensible timeout.
const CHECK_SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Bounds of `lb_ring_rebuild_seconds`: the promise is 0.1.
const REBUILD_SECONDS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// What can fail on the data path: the values of the `operation` label of `lb_dataplane_errors_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reading tables back.
    Read,
    /// Writing a table's entry.
    Apply,
    /// Asking for the expiry of flows.
    Expire,
    /// Telling clients that their connection is lost.
    Reset,
    /// Reading counters.
    Counters,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 5] = [Self::Read, Self::Apply, Self::Expire, Self::Reset, Self::Counters];

    /// Value of the label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Apply => "apply",
            Self::Expire => "expire",
            Self::Reset => "reset",
            Self::Counters => "counters",
        }
    }
}

/// How a drain ended: the values of the `result` label of `lb_drains_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainResult {
    /// No flow waited any more.
    Complete,
    /// The deadline came first.
    Deadline,
    /// Somebody wanted the backend back before its end.
    Undone,
    /// Its backend was removed from the configuration before its end.
    Removed,
}

impl DrainResult {
    /// Every result.
    pub const ALL: [Self; 4] = [Self::Complete, Self::Deadline, Self::Undone, Self::Removed];

    /// Value of the label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Complete => Outcome::Complete.name(),
            Self::Deadline => Outcome::Deadline.name(),
            Self::Undone => "undone",
            Self::Removed => "removed",
        }
    }
}

impl From<Outcome> for DrainResult {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Complete => Self::Complete,
            Outcome::Deadline => Self::Deadline,
        }
    }
}

/// All metrics. Shared between the loop, which writes, and the admin server, which reads.
pub struct Metrics {
    registry: Registry,
    kernel: Arc<KernelCollector>,
    checks: IntCounterVec,
    check_seconds: HistogramVec,
    rebuild_seconds: Histogram,
    moved_slots: IntGaugeVec,
    errors: IntCounterVec,
    drift: IntCounter,
    expired: IntCounter,
    resets_sent: IntCounter,
    drains: IntCounterVec,
    reloads: IntCounterVec,
    signals: IntCounterVec,
    early_checks: IntCounterVec,
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// When two families clash: a fault of Evenkeel.
    pub fn new(status: StatusSource, counters: Arc<dyn Counters>) -> Result<Self, MetricsError> {
        let errors = IntCounterVec::new(opts(&cat::ERRORS), cat::ERRORS.labels)?;
        for o in Operation::ALL {
            errors.with_label_values(&[o.name()]);
        }
        let failures = errors.with_label_values(&[Operation::Counters.name()]);
        let metrics = Self {
            registry: Registry::new(),
            kernel: Arc::new(KernelCollector::new(counters, failures)?),
            checks: IntCounterVec::new(opts(&cat::HEALTH_CHECKS), cat::HEALTH_CHECKS.labels)?,
            check_seconds: HistogramVec::new(
                buckets(&cat::HEALTH_CHECK, CHECK_SECONDS),
                cat::HEALTH_CHECK.labels,
            )?,
            rebuild_seconds: Histogram::with_opts(buckets(&cat::RING_REBUILD, REBUILD_SECONDS))?,
            moved_slots: IntGaugeVec::new(opts(&cat::RING_MOVED), cat::RING_MOVED.labels)?,
            errors,
            drift: IntCounter::with_opts(opts(&cat::DRIFT))?,
            expired: IntCounter::with_opts(opts(&cat::EXPIRED))?,
            resets_sent: IntCounter::with_opts(opts(&cat::RESETS_SENT))?,
            drains: IntCounterVec::new(opts(&cat::DRAINS), cat::DRAINS.labels)?,
            reloads: IntCounterVec::new(opts(&cat::CONFIG_RELOADS), cat::CONFIG_RELOADS.labels)?,
            signals: IntCounterVec::new(opts(&cat::SIGNALS), cat::SIGNALS.labels)?,
            early_checks: IntCounterVec::new(opts(&cat::EARLY_CHECKS), cat::EARLY_CHECKS.labels)?,
        };
        for result in DrainResult::ALL {
            metrics.drains.with_label_values(&[result.name()]);
        }
        for result in ReloadResult::ALL {
            metrics.reloads.with_label_values(&[result.name()]);
        }
        let collectors: [Box<dyn Collector>; 14] = [
            Box::new(Shared(metrics.kernel.clone())),
            Box::new(ControlCollector::new(status)?),
            Box::new(metrics.checks.clone()),
            Box::new(metrics.check_seconds.clone()),
            Box::new(metrics.rebuild_seconds.clone()),
            Box::new(metrics.moved_slots.clone()),
            Box::new(metrics.errors.clone()),
            Box::new(metrics.drift.clone()),
            Box::new(metrics.expired.clone()),
            Box::new(metrics.resets_sent.clone()),
            Box::new(metrics.drains.clone()),
            Box::new(metrics.reloads.clone()),
            Box::new(metrics.signals.clone()),
            Box::new(metrics.early_checks.clone()),
        ];
        for c in collectors {
            metrics.registry.register(c)?;
        }
        Ok(metrics)
    }

    /// The exposition format's text. Reads the kernel; may take milliseconds.
    ///
    /// # Errors
    /// When a family cannot be written: a fault of Evenkeel.
    pub fn text(&self) -> Result<String, MetricsError> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// Says who holds which ids from now on. Call it before the change is written to the kernel, so that what
    /// the old holder of an id counted is not the new one's. What was counted here for those who hold nothing any more is
    /// forgotten.
    pub fn assign(
        &self,
        services: impl IntoIterator<Item = Holder<String>>,
        backends: impl IntoIterator<Item = Holder<BackendLabels>>,
    ) {
        let (services, backends) = self.kernel.assign(services, backends);
        for (service, backend) in backends {
            self.forget_backend(&service, &backend);
        }
        for service in services {
            self.forget_service(&service);
        }
    }

    /// Flows given to each live backend.
    #[must_use]
    pub fn new_flows(&self) -> BTreeMap<BackendLabels, u64> {
        self.kernel.backend_totals().into_iter().map(|(labels, t)| (labels, t.new_flows)).collect()
    }

    /// Counts a health check. `results` are all values of the label, so that each series begins at 0.
    pub fn check(&self, labels: (&str, &str), result: &str, results: &[&str], took: Duration) {
        let (service, backend) = labels;
        for r in results {
            self.checks.with_label_values(&[service, backend, r]);
        }
        self.checks.with_label_values(&[service, backend, result]).inc();
        self.check_seconds.with_label_values(&[service, backend]).observe(took.as_secs_f64());
    }

    /// A decision is in the kernel, this long after it fell.
    pub fn applied(&self, latency: Duration) {
        self.rebuild_seconds.observe(latency.as_secs_f64());
    }

    /// A service's ring was replaced, and this many of its slots changed hands.
    pub fn ring_moved(&self, service: &str, slots: u64) {
        self.moved_slots.with_label_values(&[service]).set(i64::try_from(slots).unwrap_or(i64::MAX));
    }

    /// Something failed on the data path.
    pub fn error(&self, operation: Operation) {
        self.errors.with_label_values(&[operation.name()]).inc();
    }

    /// Failures on the data path since the start, counters included.
    #[must_use]
    pub fn errors(&self) -> u64 {
        Operation::ALL.iter().map(|o| self.errors.with_label_values(&[o.name()]).get()).sum()
    }

    /// Entries of the maps were not what had been written.
    pub fn drifted(&self, entries: u64) {
        self.drift.inc_by(entries);
    }

    /// A drain ended.
    pub fn drained(&self, result: DrainResult) {
        self.drains.with_label_values(&[result.name()]).inc();
    }

    /// A reload of the configuration ended.
    pub fn reloaded(&self, result: ReloadResult) {
        self.reloads.with_label_values(&[result.name()]).inc();
    }

    /// Lets a service's series of passive signals begin at 0.
    pub fn begin_signals(&self, service: &str) {
        self.early_checks.with_label_values(&[service]);
        for (signal, verdict) in signals_by_verdict() {
            self.signals.with_label_values(&[service, signal, verdict]);
        }
    }

    /// Counts a passive signal against a backend of this service, by what became of it.
    pub fn signal(&self, service: &str, signal: Signal, verdict: Verdict) {
        self.signals.with_label_values(&[service, signal.name(), verdict.name()]).inc();
    }

    /// Counts a check of a backend of this service that became due at once.
    pub fn hurried(&self, service: &str) {
        self.early_checks.with_label_values(&[service]).inc();
    }

    /// The expiry sweep closed flows.
    pub fn expired(&self, flows: u64) {
        self.expired.inc_by(flows);
    }

    /// Clients of lost connections were told.
    pub fn resets_sent(&self, clients: u64) {
        self.resets_sent.inc_by(clients);
    }

    /// Forgets the checks of a backend.
    fn forget_backend(&self, service: &str, backend: &str) {
        // An error means that there was no such series: what is wanted. So for services, too.
        let _ = self.check_seconds.remove_label_values(&[service, backend]);
        for result in CheckResult::NAMES {
            let _ = self.checks.remove_label_values(&[service, backend, result]);
        }
    }

    /// Forgets the ring and the signals of a service.
    fn forget_service(&self, service: &str) {
        let _ = self.moved_slots.remove_label_values(&[service]);
        let _ = self.early_checks.remove_label_values(&[service]);
        for (signal, verdict) in signals_by_verdict() {
            let _ = self.signals.remove_label_values(&[service, signal, verdict]);
        }
    }
}

/// Every pair of labels of a service's signals.
fn signals_by_verdict() -> impl Iterator<Item = (&'static str, &'static str)> {
    Signal::ALL.into_iter().flat_map(|signal| Verdict::NAMES.map(|verdict| (signal.name(), verdict)))
}

/// A collector that the registry shares with others.
struct Shared(Arc<KernelCollector>);

impl Collector for Shared {
    fn desc(&self) -> Vec<&prometheus::core::Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<prometheus::proto::MetricFamily> {
        self.0.collect()
    }
}

fn opts(f: &Family) -> Opts {
    Opts::new(f.name, f.help)
}

fn buckets(f: &Family, bounds: &[f64]) -> HistogramOpts {
    HistogramOpts::new(f.name, f.help).buckets(bounds.to_vec())
}
