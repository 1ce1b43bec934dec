//! One request over one connection.

use std::io;
use std::time::Instant;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{HOST, SERVER};
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::report::{Attempt, Failure, Success};
use super::{Load, Request};
use crate::content::{self, Hasher};
use crate::server::Content;

/// A load, and what it must receive: computed once, because it takes as long as the transfer.
pub(super) struct Job {
    pub(super) load: Load,
    length: u64,
    hash: String,
}

impl Job {
    pub(super) fn new(load: &Load) -> Self {
        let length = match load.request {
            Request::Get(_) => 0,
            Request::Download(bytes) | Request::Upload(bytes) => bytes,
        };
        Self { load: load.clone(), length, hash: content::hash(length) }
    }
}

/// A connection that may be used again. Dropping it closes the socket.
pub(super) struct Connection {
    sender: SendRequest<Content>,
    driver: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Sends one request, over `connection` when there is one. After a failure there is none.
pub(super) async fn attempt(job: &Job, connection: &mut Option<Connection>) -> Attempt {
    let start = Instant::now();
    let result = timeout(job.load.timeout, exchange(job, connection)).await.unwrap_or(Err(Failure::Timeout));
    if result.is_err() {
        *connection = None;
    }
    Attempt { latency: start.elapsed(), result }
}

async fn exchange(job: &Job, connection: &mut Option<Connection>) -> Result<Success, Failure> {
    if connection.as_ref().is_none_or(|c| c.sender.is_closed()) {
        *connection = Some(connect(job).await?);
    }
    let Some(open) = connection else { return Err(Failure::Closed) };
    open.sender.ready().await.map_err(|e| failure(&e))?;
    let response = open.sender.send_request(request(job)?).await.map_err(|e| failure(&e))?;
    if response.status() != StatusCode::OK {
        return Err(Failure::Status);
    }
    let server = response.headers().get(SERVER).and_then(|v| v.to_str().ok()).unwrap_or("?").to_owned();
    let bytes = check(job, response).await?;
    Ok(Success { server, bytes })
}

async fn connect(job: &Job) -> Result<Connection, Failure> {
    let stream = TcpStream::connect(job.load.target).await.map_err(|e| connect_failure(&e))?;
    // Fails only for a socket that is gone already, which the request will tell.
    let _ = stream.set_nodelay(true);
    let (sender, driver) = handshake(TokioIo::new(stream)).await.map_err(|e| failure(&e))?;
    // What goes wrong with the connection reaches the request that waits for it.
    let driver = tokio::spawn(async move { drop(driver.await) }).abort_handle();
    Ok(Connection { sender, driver })
}

fn request(job: &Job) -> Result<hyper::Request<Content>, Failure> {
    let (method, path, body) = match &job.load.request {
        Request::Get(path) => (Method::GET, path.clone(), 0),
        Request::Download(bytes) => (Method::GET, format!("/bytes?n={bytes}"), 0),
        Request::Upload(bytes) => (Method::POST, "/hash".to_owned(), *bytes),
    };
    hyper::Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, job.load.target.to_string())
        .body(Content::new(body))
        .map_err(|_| Failure::Http)
}

/// Reads the body and checks it. Returns how many bytes of content went either way.
async fn check(job: &Job, response: Response<Incoming>) -> Result<u64, Failure> {
    if matches!(job.load.request, Request::Upload(_)) {
        let body = response.into_body().collect().await.map_err(|e| failure(&e))?.to_bytes();
        let answer: Value = serde_json::from_slice(&body).map_err(|_| Failure::Content)?;
        let right = answer["length"] == job.length && answer["hash"] == job.hash;
        return if right { Ok(job.length) } else { Err(Failure::Content) };
    }
    let mut hasher = Hasher::default();
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame.map_err(|e| failure(&e))?.data_ref() {
            hasher.update(data);
        }
    }
    let checked = matches!(job.load.request, Request::Download(_));
    if checked && (hasher.length() != job.length || hasher.finish() != job.hash) {
        return Err(Failure::Content);
    }
    Ok(hasher.length())
}

/// What a hyper error means on the wire: a reset, a connection that ended early, or not HTTP at all.
fn failure(error: &hyper::Error) -> Failure {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return broken(io);
        }
        source = cause.source();
    }
    if error.is_parse() { Failure::Http } else { Failure::Closed }
}

fn connect_failure(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        Failure::Refused
    } else if error.kind() == io::ErrorKind::ConnectionReset {
        // Connected, and reset before this task heard of it.
        Failure::Reset
    } else if error.kind() == io::ErrorKind::TimedOut {
        Failure::ConnectTimeout
    } else {
        Failure::Unreachable
    }
}

fn broken(error: &io::Error) -> Failure {
    if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) {
        Failure::Reset
    } else if error.kind() == io::ErrorKind::TimedOut {
        Failure::Timeout
    } else {
        Failure::Closed
    }
}
