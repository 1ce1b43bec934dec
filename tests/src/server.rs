//! A real HTTP server that says who it is, counts what it does, and can be slow or silent on request.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::SERVER;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::content::{self, Hasher};

mod cut;

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 4096;

/// What a server is asked for. Every answer has the name in its `server` header.
///
/// | request | answer |
/// | --- | --- |
/// | `GET /health` | `OK` |
/// | `GET /` | name, and the address that the request came from |
/// | `GET /bytes?n=N` | the first N bytes of [`content`] |
/// | `POST /hash` | JSON: `length` and `hash` of the body |
/// | `GET /sleep?ms=N` | `OK`, N milliseconds later |
/// | `GET /hang` | none, ever |
/// | `GET /stats` | [`Stats`] as JSON |
#[derive(Clone, Debug)]
pub struct Server {
    name: String,
    silent: bool,
    cuts: bool,
    stats: Arc<Mutex<Stats>>,
}

/// What a server has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Connections that were accepted.
    pub connections: u64,
    /// Of these, how many are open.
    pub open: u64,
    /// Requests by path, without the query.
    pub requests: BTreeMap<String, u64>,
}

/// A listening socket with a long backlog; an IPv6 socket takes no IPv4.
///
/// # Errors
/// When the address cannot be bound.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if address.is_ipv6() {
        socket2::SockRef::from(&socket).set_only_v6(true)?;
    }
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

impl Server {
    /// A server; a `silent` one accepts connections, reads requests and never answers.
    #[must_use]
    pub fn new(name: &str, silent: bool) -> Self {
        Self { name: name.to_owned(), silent, cuts: false, stats: Arc::default() }
    }

    /// The same, but every answer is cut off by a reset in its middle, except those to `GET /health`.
    #[must_use]
    pub fn with_cuts(self, cuts: bool) -> Self {
        Self { cuts, ..self }
    }

    /// Serves until the task is dropped.
    ///
    /// # Errors
    /// When accepting fails for another reason than that a connection went away.
    pub async fn serve(&self, listener: TcpListener) -> io::Result<Infallible> {
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(e) => return Err(e),
            };
            tokio::spawn(self.clone().connection(stream, peer));
        }
    }

    /// What happened so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.with_stats(|stats| stats.clone())
    }

    fn with_stats<T>(&self, f: impl FnOnce(&mut Stats) -> T) -> T {
        f(&mut self.stats.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn connection(self, stream: TcpStream, peer: SocketAddr) {
        self.with_stats(|stats| {
            stats.connections += 1;
            stats.open += 1;
        });
        // Fails only for a socket that is gone already.
        let _ = stream.set_nodelay(true);
        let stream = if self.cuts { cut::unless_a_check(stream).await } else { Some(stream) };
        if let Some(stream) = stream {
            self.serve_http(stream, peer).await;
        }
        self.with_stats(|stats| stats.open -= 1);
    }

    async fn serve_http(&self, stream: TcpStream, peer: SocketAddr) {
        let service = service_fn(|request| self.clone().answer(request, peer));
        // A client that goes away in the middle is its own business.
        let _ =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }

    async fn answer(self, request: Request<Incoming>, peer: SocketAddr) -> hyper::Result<Response<Answer>> {
        let path = request.uri().path().to_owned();
        let number = number(request.uri().query());
        self.with_stats(|stats| *stats.requests.entry(path.clone()).or_default() += 1);
        if self.silent {
            std::future::pending::<()>().await;
        }
        let mut status = StatusCode::OK;
        let body = match (request.method(), path.as_str()) {
            (&Method::GET, "/health") => text("OK"),
            (&Method::GET, "/") => text(&format!("{} {peer}\n", self.name)),
            (&Method::GET, "/bytes") => Either::Right(Content::new(number)),
            (&Method::GET, "/stats") => text(&serde_json::json!(self.stats()).to_string()),
            (&Method::GET, "/hang") => std::future::pending().await,
            (&Method::GET, "/sleep") => {
                tokio::time::sleep(Duration::from_millis(number)).await;
                text("OK")
            }
            (&Method::POST, "/hash") => {
                let hasher = read(request.into_body()).await?;
                text(&serde_json::json!({"length": hasher.length(), "hash": hasher.finish()}).to_string())
            }
            _ => {
                status = StatusCode::NOT_FOUND;
                text("no such page\n")
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        if let Ok(name) = self.name.parse() {
            response.headers_mut().insert(SERVER, name);
        }
        Ok(response)
    }
}

async fn read(mut body: Incoming) -> hyper::Result<Hasher> {
    let mut hasher = Hasher::default();
    while let Some(frame) = body.frame().await {
        if let Some(bytes) = frame?.data_ref() {
            hasher.update(bytes);
        }
    }
    Ok(hasher)
}

/// The number in a query of the form `key=number`, 0 when there is none.
fn number(query: Option<&str>) -> u64 {
    query.and_then(|q| q.split_once('=')?.1.parse().ok()).unwrap_or_default()
}

type Answer = Either<Full<Bytes>, Content>;

fn text(text: &str) -> Answer {
    Either::Left(Full::new(Bytes::copy_from_slice(text.as_bytes())))
}

/// The first bytes of [`content`] as a body, never held in memory as a whole.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    offset: u64,
    length: u64,
}

impl Content {
    pub(crate) const fn new(length: u64) -> Self {
        Self { offset: 0, length }
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let left = self.length - self.offset;
        if left == 0 {
            return Poll::Ready(None);
        }
        let piece = content::piece(self.offset, left);
        self.offset += piece.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.offset == self.length
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length - self.offset)
    }
}
