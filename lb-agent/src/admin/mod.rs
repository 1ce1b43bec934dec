//! The HTTP server at `agent.socket` and `agent.admin`: reading for all who can connect, and changes ([`v1`]) for those
//! whom [`access::Access`] lets.
//!
//! One request per connection, few connections at once, a deadline on each: a client that does nothing, or
//! too much, costs a bounded amount and never holds up the loop.
#![forbid(unsafe_code)]

pub mod access;
mod answer;
pub mod client;
pub mod command;
mod listen;
pub mod state;
#[cfg(test)]
mod tests;
pub mod token;
pub mod v1;
mod view;

pub use listen::{AdminSocket, bind};
pub use view::{Heartbeat, Published, ScanCache, View};

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{ALLOW, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tracing::{debug, warn};

use crate::metrics;
use access::Access;
use answer::{Answer, Refused, answer, json, off_the_loop, text};
use listen::Listen;
use state::StateView;

/// Where the server listens unless `agent.admin` says otherwise.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:9470";
/// Where the server's socket is unless `agent.socket` says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/evenkeel/admin.sock";

/// Connections at once for each listener; more wait in the listener's backlog.
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

/// Answers until it is dropped. `access` may change; each connection goes by what it is when it begins.
pub async fn serve<L: Listen>(listener: L, access: watch::Receiver<Access>, view: Arc<View>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok(stream) => {
                let (access, view) = (Arc::new(access.borrow().clone()), view.clone());
                tokio::spawn(async move {
                    if tokio::time::timeout(CONNECTION_TIMEOUT, connection(stream, access, view))
                        .await
                        .is_err()
                    {
                        debug!("admin connection took too long, closed");
                    }
                    drop(permit);
                });
            }
            Err(e) => {
                warn!("{}: cannot accept a connection: {e}", L::KEY);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    access: Arc<Access>,
    view: Arc<View>,
) {
    let service = service_fn(move |request| {
        let (access, view) = (access.clone(), view.clone());
        async move { Ok::<_, std::convert::Infallible>(respond(&request, &access, view).await) }
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

async fn respond<B>(request: &Request<B>, access: &Access, view: Arc<View>) -> Answer {
    if request.uri().path().starts_with(v1::PREFIX) {
        return v1::respond(request, access, view).await;
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "read-only: GET and HEAD\n".to_owned());
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    match request.uri().path() {
        "/livez" => livez(&view),
        "/readyz" => readyz(&view),
        "/metrics" => read(move || metrics_text(&view)).await,
        "/status" => read(move || json(&view.status())).await,
        "/state" => read(move || json(&state(&view))).await,
        path => text(StatusCode::NOT_FOUND, format!("no {path} here: {PATHS}\n")),
    }
}

async fn read(work: impl FnOnce() -> Answer + Send + 'static) -> Answer {
    off_the_loop(work).await.unwrap_or_else(Refused::answer)
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
