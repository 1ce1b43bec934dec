//! The read-only HTTP server at `agent.admin`.
//!
//! One request per connection, few connections at once, a deadline on each: a client that does nothing, or
//! too much, costs a bounded amount and never holds up the loop.
#![forbid(unsafe_code)]

pub mod client;
pub mod state;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::dataplane::{Counters, Tables};
use crate::metrics::{self, Metrics};
use crate::status::Status;
use state::StateView;

/// Where the server listens unless `agent.admin` says otherwise.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:9470";

/// Connections at once; more wait in the listener's backlog.
const CONNECTIONS: usize = 32;
/// For the request line and the headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// For a whole connection, the answer's delivery included.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of request line and headers.
const HEADER_BYTES: usize = 16 * 1024;
/// Pause after `accept` failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The loop turns at least once a second; this long without a turn and it is not alive.
pub const STALLED_AFTER: Duration = Duration::from_secs(10);

const PATHS: &str = "/metrics /livez /readyz /status /state";

/// What the loop publishes after each change.
#[derive(Clone, Debug)]
pub struct Published {
    /// For people; without the numbers that the data path counts.
    pub status: Arc<Status>,
    /// What the maps should hold.
    pub desired: Arc<Tables>,
    /// What they hold, as far as is known: written since, or read back.
    pub actual: Arc<Tables>,
}

/// When the loop last turned.
#[derive(Debug)]
pub struct Heartbeat {
    epoch: Instant,
    last: AtomicU64,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { epoch: Instant::now(), last: AtomicU64::new(0) }
    }
}

impl Heartbeat {
    /// The loop turned now.
    pub fn beat(&self) {
        let now = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Time since the last turn.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.epoch.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}

/// What the server answers from.
pub struct View {
    /// The loop's latest word.
    pub published: watch::Receiver<Published>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The kernel's counters.
    pub counters: Arc<dyn Counters>,
    /// When the loop last turned.
    pub heartbeat: Arc<Heartbeat>,
}

impl View {
    /// The status with the numbers of this moment. Reads the kernel; may take milliseconds.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut status = Status::clone(&self.published.borrow().status);
        let new_flows = self.metrics.new_flows();
        status.fill(&*self.counters, |service, backend| {
            new_flows.get(&(service.to_owned(), backend.to_owned())).copied()
        });
        status
    }
}

/// Listens at `address`.
///
/// # Errors
/// When the address cannot be bound, with the address and the configuration key.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|e| io::Error::new(e.kind(), format!("agent.admin: cannot listen on {address}: {e}")))
}

/// Answers until it is dropped.
pub async fn serve(listener: TcpListener, view: Arc<View>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let view = view.clone();
                tokio::spawn(async move {
                    if tokio::time::timeout(CONNECTION_TIMEOUT, connection(stream, view)).await.is_err() {
                        debug!(%peer, "admin connection took too long, closed");
                    }
                    drop(permit);
                });
            }
            Err(e) => {
                warn!("agent.admin: cannot accept a connection: {e}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, view: Arc<View>) {
    let service = service_fn(move |request| {
        let view = view.clone();
        async move { Ok::<_, std::convert::Infallible>(respond(&request, view).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(e) = served {
        debug!("admin connection: {e}");
    }
}

type Answer = Response<Full<Bytes>>;

async fn respond(request: &Request<Incoming>, view: Arc<View>) -> Answer {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "read-only: GET and HEAD\n".to_owned());
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    match request.uri().path() {
        "/livez" => livez(&view),
        "/readyz" => readyz(&view),
        "/metrics" => off_the_loop(move || metrics_text(&view)).await,
        "/status" => off_the_loop(move || json(&view.status())).await,
        "/state" => off_the_loop(move || json(&state(&view))).await,
        path => text(StatusCode::NOT_FOUND, format!("no {path} here: {PATHS}\n")),
    }
}

/// A scan of a large flow table must not delay a ring: it runs on a thread of its own.
async fn off_the_loop(work: impl FnOnce() -> Answer + Send + 'static) -> Answer {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| {
        warn!("admin request failed: {e}");
        text(StatusCode::INTERNAL_SERVER_ERROR, "failed, see the agent's log\n".to_owned())
    })
}

fn livez(view: &View) -> Answer {
    let age = view.heartbeat.age();
    if age <= STALLED_AFTER {
        return text(StatusCode::OK, "alive\n".to_owned());
    }
    text(
        StatusCode::SERVICE_UNAVAILABLE,
        format!("the agent's loop stands still since {} s\n", age.as_secs()),
    )
}

fn readyz(view: &View) -> Answer {
    let published = view.published.borrow();
    if published.status.is_ready() {
        return text(StatusCode::OK, "ready\n".to_owned());
    }
    text(StatusCode::SERVICE_UNAVAILABLE, published.status.not_ready.join("\n") + "\n")
}

fn metrics_text(view: &View) -> Answer {
    match view.metrics.text() {
        Ok(body) => answer(StatusCode::OK, metrics::CONTENT_TYPE, body),
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("metrics: {e}\n")),
    }
}

fn state(view: &View) -> StateView {
    let published = view.published.borrow().clone();
    StateView::new(view.status(), &published.desired, &published.actual)
}

fn json<T: serde::Serialize>(value: &T) -> Answer {
    match serde_json::to_string_pretty(value) {
        Ok(body) => answer(StatusCode::OK, "application/json", body + "\n"),
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("json: {e}\n")),
    }
}

fn text(status: StatusCode, body: String) -> Answer {
    answer(status, "text/plain; charset=utf-8", body)
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
