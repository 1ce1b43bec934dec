//! What came of a load.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// Connecting was answered by a reset.
    Refused,
    /// The kernel gave up connecting.
    ConnectTimeout,
    /// Connecting failed otherwise, such as for want of a route.
    Unreachable,
    /// The request took longer than it was allowed to, connecting included.
    Timeout,
    /// The connection was reset.
    Reset,
    /// The connection ended before the answer did.
    Closed,
    /// The status was not 200.
    Status,
    /// The content, or its hash, was wrong.
    Content,
    /// Not HTTP.
    Http,
}

pub(super) struct Success {
    pub(super) server: String,
    pub(super) bytes: u64,
}

pub(super) struct Attempt {
    pub(super) latency: Duration,
    pub(super) result: Result<Success, Failure>,
}

/// The account of a load. Times are in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Requests that came to an end, good or bad.
    pub attempts: u64,
    /// Those that were answered with the right content.
    pub ok: u64,
    /// The others, by reason.
    pub failed: BTreeMap<Failure, u64>,
    /// Good answers by the server's name.
    pub servers: BTreeMap<String, u64>,
    /// Bytes of content that were received or sent.
    pub bytes: u64,
    /// Median time of good requests, connecting included.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
    /// The longest time without a good answer, from the start to the end of the load.
    pub longest_gap_us: u64,
    /// How long the load took.
    pub elapsed_us: u64,
}

/// Counts while a load runs.
#[derive(Debug, Default)]
pub struct Recorder {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    report: Report,
    start: Option<Instant>,
    end: Option<Instant>,
    last_good: Option<Instant>,
    longest_gap: Duration,
    latencies_us: Vec<u64>,
}

impl Recorder {
    /// What happened so far.
    #[must_use]
    pub fn report(&self) -> Report {
        let state = self.state();
        let now = state.end.unwrap_or_else(Instant::now);
        let mut report = state.report.clone();
        let mut latencies = state.latencies_us.clone();
        let open_gap = state.last_good.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        report.longest_gap_us = micros(state.longest_gap.max(open_gap));
        report.elapsed_us = state.start.map_or(0, |start| micros(now.saturating_duration_since(start)));
        drop(state);
        latencies.sort_unstable();
        (report.p50_us, report.p99_us) = (percentile(&latencies, 50), percentile(&latencies, 99));
        report.max_us = latencies.last().copied().unwrap_or_default();
        report
    }

    pub(super) fn start(&self) {
        let mut state = self.state();
        let now = Instant::now();
        state.start = Some(now);
        // The first gap begins here.
        state.last_good = Some(now);
    }

    pub(super) fn stop(&self) {
        self.state().end = Some(Instant::now());
    }

    pub(super) fn record(&self, attempt: Attempt) {
        let mut state = self.state();
        state.report.attempts += 1;
        match attempt.result {
            Ok(success) => {
                let now = Instant::now();
                let gap = state.last_good.replace(now).map_or(Duration::ZERO, |last| now - last);
                state.longest_gap = state.longest_gap.max(gap);
                state.report.ok += 1;
                state.report.bytes += success.bytes;
                *state.report.servers.entry(success.server).or_default() += 1;
                state.latencies_us.push(micros(attempt.latency));
            }
            Err(failure) => *state.report.failed.entry(failure).or_default() += 1,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The value that `percent` of the sorted values do not exceed; 0 when there are none.
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<_> = (1..=200).collect();
        assert_eq!((percentile(&values, 50), percentile(&values, 99)), (100, 198));
        assert_eq!((percentile(&[7], 50), percentile(&[7], 99)), (7, 7));
        assert_eq!(percentile(&[], 99), 0);
    }

    #[test]
    fn failures_are_counted_by_reason_and_make_a_gap() {
        let recorder = Recorder::default();
        recorder.start();
        let good = || Ok(Success { server: "a".to_owned(), bytes: 3 });
        for result in [good(), Err(Failure::Reset), Err(Failure::Reset), good(), Err(Failure::Timeout)] {
            recorder.record(Attempt { latency: Duration::from_micros(9), result });
        }
        recorder.stop();
        let report = recorder.report();
        assert_eq!((report.attempts, report.ok, report.bytes, report.max_us), (5, 2, 6, 9));
        assert_eq!(report.failed, BTreeMap::from([(Failure::Reset, 2), (Failure::Timeout, 1)]));
        assert_eq!(report.servers, BTreeMap::from([("a".to_owned(), 2)]));
        assert!(report.longest_gap_us <= report.elapsed_us);
        assert!(serde_json::to_string(&report).unwrap().contains(r#""failed":{"timeout":1,"reset":2}"#));
    }
}
