//! Load with real sockets, bounded in count and in time, and an honest account of what came of it.

mod client;
mod report;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use client::{Connection, Job, attempt};
pub use report::{Failure, Recorder, Report};

/// What is sent, and when it ends. It ends at whichever of `requests` and `duration` comes first; requests
/// under way are then waited for, each no longer than `timeout`.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where to connect to.
    pub target: SocketAddr,
    /// What is asked for.
    pub request: Request,
    /// How connections are used.
    pub pattern: Pattern,
    /// At most this many requests.
    pub requests: u64,
    /// For at most this long.
    pub duration: Duration,
    /// For each request, connecting included.
    pub timeout: Duration,
}

/// What is asked for. An answer counts only when its content is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `GET` of a path; any body will do.
    Get(String),
    /// `GET /bytes` of this many bytes, whose hash is checked.
    Download(u64),
    /// `POST /hash` of this many bytes, whose hash must come back.
    Upload(u64),
}

/// How connections are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// A new connection for every request, this many a second whatever becomes of those before.
    NewPerRequest {
        /// Requests a second, at least 1.
        rate: u32,
    },
    /// This many connections at once, each with one request after the other. A connection that breaks is a
    /// failure, and is made anew.
    KeepAlive {
        /// How many.
        connections: u32,
        /// From an answer to the next request on the same connection.
        pause: Duration,
    },
}

/// Runs a load to its end.
pub async fn run(load: &Load) -> Report {
    let recorder = Arc::new(Recorder::default());
    run_with(load, &recorder).await;
    recorder.report()
}

/// Like [`run`], for those who look at the recorder meanwhile.
pub async fn run_with(load: &Load, recorder: &Arc<Recorder>) {
    let job = Arc::new(Job::new(load));
    let end = Instant::now() + load.duration;
    recorder.start();
    let tasks = match load.pattern {
        Pattern::NewPerRequest { rate } => new_per_request(&job, rate, end, recorder).await,
        Pattern::KeepAlive { connections, pause } => keep_alive(&job, connections, pause, end, recorder),
    };
    tasks.join_all().await;
    recorder.stop();
}

async fn new_per_request(job: &Arc<Job>, rate: u32, end: Instant, recorder: &Arc<Recorder>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let mut ticks = interval(Duration::from_secs(1) / rate.max(1));
    // A task that is late catches up: the rate is kept, and with it the number of requests.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for _ in 0..job.load.requests {
        tokio::select! {
            biased;
            () = sleep_until(end) => break,
            _ = ticks.tick() => {}
        }
        let (job, recorder) = (Arc::clone(job), Arc::clone(recorder));
        tasks.spawn(async move { recorder.record(attempt(&job, &mut None).await) });
        while tasks.try_join_next().is_some() {}
    }
    tasks
}

fn keep_alive(
    job: &Arc<Job>,
    connections: u32,
    pause: Duration,
    end: Instant,
    recorder: &Arc<Recorder>,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let (each, more) =
        (job.load.requests / u64::from(connections), job.load.requests % u64::from(connections));
    for number in 0..u64::from(connections) {
        let share = each + u64::from(number < more);
        let (job, recorder) = (Arc::clone(job), Arc::clone(recorder));
        tasks.spawn(async move {
            let mut connection: Option<Connection> = None;
            for _ in 0..share {
                if Instant::now() >= end {
                    break;
                }
                recorder.record(attempt(&job, &mut connection).await);
                sleep_until(end.min(Instant::now() + pause)).await;
            }
        });
    }
    tasks
}
