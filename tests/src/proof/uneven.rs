//! Requests of very different cost: who spreads the work, and what it does to the slowest.
//!
//! Ten pods of 16 threads, as gunicorn gives a Superset pod; 200 users who ask again as soon as they are answered. One request
//! in a hundred takes 2 s, the others 20 ms. Each request has a connection of its own: gunicorn closes an idle one after
//! 2 s, which is less than a user looks at a page, so that every click begins with new connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::arena::{Arena, Contender};
use super::attempts::quantile;
use super::draw::mix;
use super::pods::{Pods, request};
use super::{Name, Report, progress};
use crate::lab::{Lab, Servers, Topology};

const PODS: u8 = 10;
const THREADS: usize = 16;
/// For each request, and for one in [`RARE`].
const QUICK: Duration = Duration::from_millis(20);
const SLOW: Duration = Duration::from_secs(2);
const RARE: u64 = 100;
/// How often the pods' work is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Users, each with one request at a time.
    pub users: u64,
    /// Until as many slow requests are at work as always will be; not measured.
    pub warm_up: Duration,
    /// What is measured.
    pub measured: Duration,
}

const SIZE: Size =
    Size { users: 200, warm_up: Duration::from_millis(2500), measured: Duration::from_secs(8) };
const ROUNDS: usize = 3;

const CONTENDERS: [Contender; 4] = [
    Contender::Evenkeel("least-waiting"),
    Contender::Evenkeel("maglev"),
    Contender::Evenkeel("round-robin"),
    Contender::Haproxy("leastconn"),
];

/// What one round showed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Requests answered a second.
    pub rate: f64,
    /// Requests that failed.
    pub failed: f64,
    /// From the beginning of the connection to the end of the answer, in milliseconds: median and 99th percentile.
    pub times: [f64; 2],
    /// The same without the request's own 20 ms or 2 s: 99th percentile.
    pub added_p99: f64,
    /// Requests at work or in want of a thread, per pod.
    pub waiting: f64,
    /// Of these, those of the pod that has the most by the mean of all pods; mean over time.
    pub unevenness: f64,
}

/// The proof: each balancer in turn, in several rounds, in fresh labs.
///
/// # Errors
/// When something does not start.
pub fn prove() -> Result<Report> {
    let mut all: [Vec<Outcome>; 4] = Default::default();
    for round in 1..=ROUNDS {
        for (contender, outcomes) in CONTENDERS.iter().zip(&mut all) {
            progress(&format!("uneven: round {round} of {ROUNDS}: {}", contender.label()));
            outcomes.push(measure(*contender, SIZE).with_context(|| contender.label())?);
        }
    }
    let medians = all.map(|outcomes| Outcome::median(&outcomes));
    let columns = ["requests/s", "failed", "p50 ms", "p99 ms", "added p99 ms", "waiting/pod", "max/mean"];
    let mut report = Report::new(Name::Uneven, &columns);
    for (contender, outcome) in CONTENDERS.iter().zip(&medians) {
        report.row(&contender.label(), outcome.figures().map(Some));
    }
    report.note(format!(
        "{PODS} pods of {THREADS} threads, {} users, 20 ms and 1 % of 2 s, a new connection for each request; medians of {ROUNDS} \
         interleaved rounds. \"added\" is what a request took beyond its own 20 ms or 2 s; \"waiting\" is counted in the pods.",
        SIZE.users
    ));
    report.note(
        "One in a hundred takes 2 s by itself, so that p99 lies on the border between both kinds by chance; \"added p99\" is what the \
         balancer answers for, and what is compared.",
    );
    let [ours, _, _, haproxy] = medians;
    let (mine, other) = (ours.added_p99, haproxy.added_p99);
    report.aim(
        mine <= other,
        format!("added p99 {mine:.1} ms, aim at most {other:.1} ms as HAProxy's leastconn"),
    );
    report.aim(ours.unevenness <= 1.3, format!("max/mean {:.2}, aim at most 1.30", ours.unevenness));
    report.aim(ours.failed == 0.0, format!("{} requests failed, aim 0", ours.failed));
    Ok(report)
}

impl Outcome {
    const fn figures(&self) -> [f64; 7] {
        let Self { rate, failed, times, added_p99, waiting, unevenness } = *self;
        [rate, failed, times[0], times[1], added_p99, waiting, unevenness]
    }

    /// Figure by figure.
    fn median(outcomes: &[Self]) -> Self {
        let median = |index: usize| {
            let mut values: Vec<f64> = outcomes.iter().map(|o| o.figures()[index]).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or_default()
        };
        Self {
            rate: median(0),
            failed: median(1),
            times: [median(2), median(3)],
            added_p99: median(4),
            waiting: median(5),
            unevenness: median(6),
        }
    }
}

/// One balancer, once.
///
/// # Errors
/// When something does not start, or nothing is answered.
pub fn measure(contender: Contender, size: Size) -> Result<Outcome> {
    let lab = Lab::new(Topology::two_arm(PODS))?;
    let pods = Pods::start(&lab, THREADS)?;
    let arena = Arena::over(contender, lab, Servers::default(), "")?;
    let client = arena.client()?;
    let begin = Instant::now() + size.warm_up;
    let users = client.spawn(all_users(arena.vip(), size.users, begin, begin + size.measured));
    thread::sleep(begin.saturating_duration_since(Instant::now()));
    let seen = look(&pods, size.measured);
    let answers = client.wait(users)?;
    let mut took: Vec<Duration> = answers.done.iter().map(|a| a.took).collect();
    let mut added: Vec<Duration> = answers.done.iter().map(|a| a.took.saturating_sub(a.work)).collect();
    ensure!(!took.is_empty(), "no request was answered");
    #[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^53")]
    let [done, failed] = [took.len() as f64, answers.failed as f64];
    Ok(Outcome {
        rate: done / size.measured.as_secs_f64(),
        failed,
        times: [0.5, 0.99].map(|share| quantile(&mut took, share)),
        added_p99: quantile(&mut added, 0.99),
        waiting: seen.waiting,
        unevenness: seen.unevenness,
    })
}

struct Seen {
    waiting: f64,
    unevenness: f64,
}

/// Looks at the pods' work for so long.
fn look(pods: &Pods, duration: Duration) -> Seen {
    let (mut waiting, mut unevenness, mut looks) = (0.0, 0.0, 0.0);
    let begin = Instant::now();
    while begin.elapsed() < duration {
        let now = pods.waiting();
        let (sum, most) = (now.iter().sum::<u32>(), now.iter().max().copied().unwrap_or_default());
        let mean = f64::from(sum) / f64::from(PODS);
        if sum > 0 {
            waiting += mean;
            unevenness += f64::from(most) / mean;
            looks += 1.0;
        }
        thread::sleep(LOOK);
    }
    Seen { waiting: waiting / looks, unevenness: unevenness / looks }
}

struct Answered {
    work: Duration,
    took: Duration,
}

#[derive(Default)]
struct Answers {
    done: Vec<Answered>,
    failed: u64,
}

/// Users who ask one after the other until `end`; what began before `begin` does not count.
async fn all_users(vip: SocketAddr, users: u64, begin: Instant, end: Instant) -> Answers {
    let number = Arc::<AtomicU64>::default();
    let mut tasks = JoinSet::new();
    for _ in 0..users {
        let number = Arc::clone(&number);
        tasks.spawn(async move {
            let mut answers = Answers::default();
            while Instant::now() < end {
                let work = work(number.fetch_add(1, Ordering::Relaxed));
                let asked = Instant::now();
                let answer = ask(vip, work).await;
                if asked < begin {
                    continue;
                }
                match answer {
                    Ok(()) => answers.done.push(Answered { work, took: asked.elapsed() }),
                    Err(_) => answers.failed += 1,
                }
            }
            answers
        });
    }
    tasks.join_all().await.into_iter().fold(Answers::default(), |mut all, one| {
        all.done.extend(one.done);
        all.failed += one.failed;
        all
    })
}

/// The work of request `n`: drawn, and the same for every balancer.
const fn work(n: u64) -> Duration {
    if mix(n).is_multiple_of(RARE) { SLOW } else { QUICK }
}

async fn ask(vip: SocketAddr, work: Duration) -> io::Result<()> {
    let mut stream = TcpStream::connect(vip).await?;
    stream.write_all(request(work).as_bytes()).await?;
    let mut answer = Vec::with_capacity(128);
    stream.read_to_end(&mut answer).await?;
    if answer.ends_with(b"OK") { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_in_a_hundred_is_slow() {
        let slow = (0..100_000).filter(|n| work(*n) == SLOW).count();
        assert!((900..1100).contains(&slow), "{slow}");
    }
}
