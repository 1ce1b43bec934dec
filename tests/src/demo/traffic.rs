//! The client: new connections at a steady rate, in short beats, so that each moment has its own account.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::{RangeBounds, RangeInclusive};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use crate::lab::{CLIENT, Lab};
use crate::load::{Failure, Load, Pattern, Recorder, Request, run_with};

/// New connections a second, each with one request.
pub(super) const RATE: u32 = 300;
/// How long a beat is.
pub(super) const BEAT: Duration = Duration::from_millis(100);
/// What is a fair share of the traffic for one of three servers, in percent.
pub(super) const SHARE: RangeInclusive<u64> = 25..=42;
const PER_BEAT: u64 = 30;
/// Traffic ends after this many beats in any case: a minute.
const MOST_BEATS: usize = 600;
/// For a request, connecting included. Long enough for two tries of TCP to connect.
const TIMEOUT: Duration = Duration::from_secs(4);

/// What the client saw.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    beats: Mutex<Vec<Beat>>,
    stop: AtomicBool,
}

#[derive(Debug)]
struct Beat {
    start: Instant,
    recorder: Arc<Recorder>,
}

/// The account of some beats.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Requests that came to an end.
    pub(super) attempts: u64,
    /// Those that were answered.
    pub(super) ok: u64,
    /// The others, by reason.
    pub(super) failed: BTreeMap<Failure, u64>,
    /// Answers by the server's name.
    pub(super) servers: BTreeMap<String, u64>,
}

impl Tally {
    pub(super) const fn failures(&self) -> u64 {
        self.attempts - self.ok
    }

    /// Why requests failed, to be put behind their number; nothing when none did.
    pub(super) fn reasons(&self) -> String {
        let reasons: Vec<_> = self.failed.iter().map(|(why, n)| format!("{n} {}", words(*why))).collect();
        if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) }
    }

    pub(super) fn answers_of(&self, server: &str) -> u64 {
        self.servers.get(server).copied().unwrap_or_default()
    }
}

const fn words(failure: Failure) -> &'static str {
    match failure {
        Failure::Refused => "refused",
        Failure::ConnectTimeout | Failure::Timeout => "timed out",
        Failure::Unreachable => "unreachable",
        Failure::Reset => "reset",
        Failure::Closed => "closed early",
        Failure::Status => "with another status than 200",
        Failure::Content | Failure::Http => "with a wrong answer",
    }
}

impl Traffic {
    /// Sends requests to `target` from the lab's client while `f` runs. Every request has come to an end when
    /// this returns.
    ///
    /// # Errors
    /// That of `f`, or when the client cannot run at all.
    pub(super) fn during<T>(
        lab: &Lab,
        target: SocketAddr,
        f: impl FnOnce(&Self) -> Result<T>,
    ) -> Result<(T, Self)> {
        let traffic = Self::default();
        let result = std::thread::scope(|scope| {
            let client = scope.spawn(|| lab.in_ns(CLIENT, || traffic.run(target)));
            let result = {
                let _stop = Stop(&traffic.stop);
                f(&traffic)
            };
            client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))??;
            result
        })?;
        Ok((result, traffic))
    }

    /// The account of the beats that began within `range`.
    pub(super) fn tally(&self, range: impl RangeBounds<Instant>) -> Tally {
        let mut tally = Tally::default();
        for beat in self.beats().iter().filter(|beat| range.contains(&beat.start)) {
            let report = beat.recorder.report();
            tally.attempts += report.attempts;
            tally.ok += report.ok;
            for (failure, count) in report.failed {
                *tally.failed.entry(failure).or_default() += count;
            }
            for (server, count) in report.servers {
                *tally.servers.entry(server).or_default() += count;
            }
        }
        tally
    }

    fn run(&self, target: SocketAddr) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.context("start the client")?.block_on(self.beat(target));
        Ok(())
    }

    async fn beat(&self, target: SocketAddr) {
        let load = Load {
            target,
            request: Request::Get("/".to_owned()),
            pattern: Pattern::NewPerRequest { rate: RATE },
            requests: PER_BEAT,
            duration: TIMEOUT,
            timeout: TIMEOUT,
        };
        let mut ticks = tokio::time::interval(BEAT);
        let mut tasks = JoinSet::new();
        for _ in 0..MOST_BEATS {
            ticks.tick().await;
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let recorder = Arc::new(Recorder::default());
            self.beats().push(Beat { start: Instant::now(), recorder: Arc::clone(&recorder) });
            let load = load.clone();
            tasks.spawn(async move { run_with(&load, &recorder).await });
        }
        tasks.join_all().await;
    }

    fn beats(&self) -> MutexGuard<'_, Vec<Beat>> {
        self.beats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the traffic when dropped, also by a panic: the client's thread is waited for.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
