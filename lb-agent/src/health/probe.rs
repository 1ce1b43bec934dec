//! One check of one backend, from connecting to the verdict.
//!
//! A check is one connection, made and given up within the time-out. Its socket is closed by a reset: neither
//! this node nor the pod then keeps a TIME_WAIT entry for it, however many backends are checked how often, and a
//! hung pod learns at once that nobody waits for this answer any more.
#![forbid(unsafe_code)]

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};

use crate::health::fsm::{BadAnswer, CheckResult};
use crate::health::request::{self, RequestError};
use crate::model::{HealthSpec, ProbeKind};

#[cfg(test)]
mod tests;

/// How much of an answer's head and of its body is read, in bytes.
const READ_LIMIT: usize = 64 * 1024;

/// What the backend's log says of a check.
const AGENT: &str = concat!("evenkeel/", env!("CARGO_PKG_VERSION"));

/// How to check one backend.
#[derive(Clone, Debug)]
pub struct Probe {
    address: SocketAddr,
    timeout: Duration,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Http(Box<Http>),
    Tcp,
}

#[derive(Clone, Debug)]
struct Http {
    uri: Uri,
    host: HeaderValue,
    headers: Vec<(HeaderName, HeaderValue)>,
    status: (u16, u16),
    body: Option<String>,
}

/// A check that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// What it found.
    pub result: CheckResult,
    /// From the first packet to the verdict.
    pub duration: Duration,
}

impl Probe {
    /// Prepares the check of the backend at `address`.
    ///
    /// # Errors
    /// When path, host or a header cannot be sent as they are.
    pub fn new(address: SocketAddr, spec: &HealthSpec) -> Result<Self, RequestError> {
        let kind = match &spec.probe {
            ProbeKind::Tcp => Kind::Tcp,
            ProbeKind::Http { path, host, headers, status, body } => Kind::Http(Box::new(Http {
                uri: request::path(path)?,
                host: request::host(&host.clone().unwrap_or_else(|| address.to_string()))?,
                headers: request::headers(headers)?,
                status: *status,
                body: body.clone(),
            })),
        };
        Ok(Self { address, timeout: spec.timeout, kind })
    }

    /// Where the backend listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes one check. Ends within the time-out; dropping the future closes the connection.
    pub async fn run(&self) -> Checked {
        let start = Instant::now();
        let deadline = start + self.timeout;
        let result = match timeout_at(deadline, connect(self.address)).await {
            Err(_) => CheckResult::ConnectTimeout,
            Ok(Err(error)) => connect_failure(&error),
            Ok(Ok(stream)) => match &self.kind {
                Kind::Tcp => CheckResult::Ok,
                Kind::Http(http) => {
                    timeout_at(deadline, http.exchange(stream)).await.unwrap_or(CheckResult::Timeout)
                }
            },
        };
        Checked { result, duration: start.elapsed() }
    }
}

impl Http {
    async fn exchange(&self, stream: TcpStream) -> CheckResult {
        match self.try_exchange(stream).await {
            Ok(result) => result,
            Err(error) => CheckResult::BadAnswer(answer_failure(&error)),
        }
    }

    async fn try_exchange(&self, stream: TcpStream) -> hyper::Result<CheckResult> {
        let mut builder = http1::Builder::new();
        let (mut sender, connection) =
            builder.max_buf_size(READ_LIMIT).handshake(TokioIo::new(stream)).await?;
        let answer = async {
            let response = sender.send_request(self.request()).await?;
            let status = response.status().as_u16();
            if !(self.status.0..=self.status.1).contains(&status) {
                return Ok(CheckResult::BadAnswer(BadAnswer::Status(status)));
            }
            let body = read_start(response.into_body()).await?;
            Ok(match &self.body {
                Some(text) if !contains(&body, text.as_bytes()) => CheckResult::BadAnswer(BadAnswer::Body),
                Some(_) | None => CheckResult::Ok,
            })
        };
        // An orderly shutdown would leave TIME_WAIT at the pod.
        alongside(connection.without_shutdown(), answer).await
    }

    fn request(&self) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        for (name, value) in &self.headers {
            headers.insert(name.clone(), value.clone());
        }
        request
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Before connecting, so that no way out of a check can leave an orderly close behind.
    socket.set_zero_linger()?;
    socket.connect(address).await
}

/// Drives the connection for as long as the answer takes, in this task: nothing outlives the check.
pub(crate) async fn alongside<T>(connection: impl Future, answer: impl Future<Output = T>) -> T {
    let (mut connection, mut answer) = (pin!(connection), pin!(answer));
    let mut open = true;
    loop {
        tokio::select! {
            biased;
            done = &mut answer => return done,
            // How it ended is told to `answer` too.
            _ = &mut connection, if open => open = false,
        }
    }
}

/// Reads the body to its end, or its first [`READ_LIMIT`] bytes.
async fn read_start(mut body: Incoming) -> hyper::Result<Vec<u8>> {
    let mut start = Vec::new();
    while start.len() < READ_LIMIT {
        let Some(frame) = body.frame().await else { break };
        if let Ok(data) = frame?.into_data() {
            let room = READ_LIMIT - start.len();
            start.extend_from_slice(data.get(..room).unwrap_or(&data));
        }
    }
    Ok(start)
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    text.is_empty() || body.windows(text.len()).any(|window| window == text)
}

/// Who is to blame that there is no connection: the backend, the network, or this node.
fn connect_failure(error: &io::Error) -> CheckResult {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED | libc::ECONNRESET) => CheckResult::Refused,
        // What ICMP and ICMPv6 errors become, a missing route included: Linux, icmp_err_convert() and
        // icmpv6_err_convert().
        Some(
            libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::ENETDOWN
            | libc::ENONET
            | libc::ENOPROTOOPT
            | libc::EACCES,
        ) => CheckResult::Unreachable,
        // The kernel gave up before our own time-out did.
        Some(libc::ETIMEDOUT) => CheckResult::ConnectTimeout,
        // No descriptors, no ports, no memory, a local firewall.
        other => CheckResult::Local(other.unwrap_or(libc::EIO)),
    }
}

fn answer_failure(error: &hyper::Error) -> BadAnswer {
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    let closed = error.is_incomplete_message() || error.is_closed() || error.is_canceled();
    if closed || io.is_some() { BadAnswer::Closed } else { BadAnswer::Protocol }
}
