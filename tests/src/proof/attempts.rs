//! New connections at a steady rate, each with one request, and what became of every single one.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout_at};

use crate::e2e::Client;

/// One attempt to connect and be answered.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// When it began.
    pub begun: Instant,
    /// When it was over.
    pub over: Instant,
    /// How long connecting took, or why there was no connection.
    pub connected: Result<Duration, io::ErrorKind>,
    /// Whether the answer was whole, or why it was not.
    pub answered: Result<(), io::ErrorKind>,
}

impl Attempt {
    /// Whether anything went wrong.
    #[must_use]
    pub const fn failed(&self) -> bool {
        self.connected.is_err() || self.answered.is_err()
    }

    /// How long it took.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.over - self.begun
    }
}

/// Attempts under way.
#[derive(Debug)]
pub struct Attempts {
    task: JoinHandle<Vec<Attempt>>,
}

/// Which attempts, and how many.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to connect to.
    pub target: SocketAddr,
    /// What to ask for.
    pub path: String,
    /// Further lines of the request's head, each with its line break.
    pub headers: String,
    /// Attempts a second, whatever becomes of those before.
    pub rate: u32,
    /// When to begin no more.
    pub until: Until,
    /// After this an attempt is given up.
    pub patience: Duration,
}

/// When attempts end.
#[derive(Clone, Debug)]
pub enum Until {
    /// After so many.
    Count(u32),
    /// When this is set.
    Stopped(Arc<AtomicBool>),
}

impl Attempts {
    /// Starts attempts.
    #[must_use]
    pub fn start(client: &Client, plan: Plan) -> Self {
        Self { task: client.spawn(pace(plan)) }
    }

    /// Waits for the last of them.
    ///
    /// # Errors
    /// When the task panicked.
    pub fn finish(self, client: &Client) -> Result<Vec<Attempt>> {
        client.wait(self.task).context("attempts to connect")
    }
}

async fn pace(plan: Plan) -> Vec<Attempt> {
    let mut tasks = JoinSet::new();
    let mut ticks = interval(Duration::from_secs(1) / plan.rate.max(1));
    // Late ones catch up: the number and the mean rate are kept.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let request: Arc<str> =
        format!("GET {} HTTP/1.1\r\nHost: vip\r\nConnection: close\r\n{}\r\n", plan.path, plan.headers)
            .into();
    for number in 0.. {
        ticks.tick().await;
        let over = match &plan.until {
            Until::Count(count) => number >= *count,
            Until::Stopped(stopped) => stopped.load(Ordering::Relaxed),
        };
        if over {
            break;
        }
        tasks.spawn(attempt(plan.target, Arc::clone(&request), plan.patience));
    }
    tasks.join_all().await
}

async fn attempt(target: SocketAddr, request: Arc<str>, patience: Duration) -> Attempt {
    let begun = Instant::now();
    let deadline = tokio::time::Instant::from_std(begun + patience);
    let connected = timeout_at(deadline, TcpStream::connect(target)).await;
    let (connected, answered) = match connected {
        Ok(Ok(stream)) => {
            let took = begun.elapsed();
            let answer = timeout_at(deadline, ask(stream, &request)).await;
            (Ok(took), answer.unwrap_or(Err(io::ErrorKind::TimedOut.into())).map_err(|e| e.kind()))
        }
        Ok(Err(e)) => (Err(e.kind()), Err(e.kind())),
        Err(_) => (Err(io::ErrorKind::TimedOut), Err(io::ErrorKind::TimedOut)),
    };
    Attempt { begun, over: Instant::now(), connected, answered }
}

async fn ask(mut stream: TcpStream, request: &str) -> io::Result<()> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    if !answer.starts_with(b"HTTP/1.1 200") {
        return Err(io::ErrorKind::InvalidData.into());
    }
    if is_whole(&answer) { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Whether an answer is as long as it says. A server that is killed may end it in good order on the wire, and too early.
fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    length.is_none_or(|length: usize| answer.len() == end + 4 + length)
}

/// The value that this share (0 to 1) of the times do not exceed, in milliseconds; 0 of none.
#[must_use]
pub fn quantile(times: &mut [Duration], share: f64) -> f64 {
    times.sort_unstable();
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts are far below 2^53, and shares between 0 and 1"
    )]
    let rank = (times.len() as f64 * share).ceil() as usize;
    times.get(rank.saturating_sub(1)).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_was_cut_off_is_none() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody";
        assert!(is_whole(whole) && is_whole(b"HTTP/1.1 200 OK\r\n\r\nuntil the end"));
        assert!(!is_whole(&whole[..whole.len() - 1]) && !is_whole(&whole[..20]));
    }

    #[test]
    fn quantiles_are_times_that_occurred() {
        let mut times: Vec<_> = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!([0.5, 0.99, 1.0].map(|share| quantile(&mut times, share)), [100.0, 198.0, 200.0]);
        assert_eq!(quantile(&mut [], 0.5), 0.0);
    }
}
