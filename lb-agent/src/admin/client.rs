//! Asking a running agent.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// For connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For the whole answer. An agent that is busy answers so in less.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer that is read: a state of 4,096 backends is a few megabytes.
const ANSWER_BYTES: usize = 64 << 20;

/// Where an agent listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `agent.admin`.
    Address(SocketAddr),
    /// `agent.socket`.
    Socket(PathBuf),
}

impl Target {
    const fn advice(&self) -> &'static str {
        match self {
            Self::Address(_) => "agent.admin of its configuration is the address for --admin",
            Self::Socket(_) => {
                "agent.socket of its configuration is the path for --socket, and root may use it"
            }
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Socket(path) => path.display().fmt(f),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens, or not in time.
    #[error("cannot reach lb-agent at {0}: {1} (is it running? {advice})", advice = .0.advice())]
    Connect(Target, String),
    /// Somebody listens, and does not answer as an agent does.
    #[error("lb-agent at {0}: {1} {2}: {3}")]
    Answer(Target, Method, String, String),
}

/// The body of a 200 answer to `GET path`.
///
/// # Errors
/// When nobody answers within seconds, or the answer is another one.
pub async fn get(admin: SocketAddr, path: &str) -> Result<Bytes, ClientError> {
    let target = Target::Address(admin);
    let (status, body) = request(&target, Method::GET, path).await?;
    if status != StatusCode::OK {
        let text = String::from_utf8_lossy(&body).trim().to_owned();
        return Err(ClientError::Answer(target, Method::GET, path.to_owned(), format!("{status}: {text}")));
    }
    Ok(body)
}

/// Status and body of the answer to a request without a body.
///
/// # Errors
/// When nobody answers within seconds.
pub async fn request(
    target: &Target,
    method: Method,
    path: &str,
) -> Result<(StatusCode, Bytes), ClientError> {
    let connect = async {
        Ok::<Box<dyn Stream>, std::io::Error>(match target {
            Target::Address(address) => Box::new(TcpStream::connect(address).await?),
            Target::Socket(path) => Box::new(UnixStream::connect(path).await?),
        })
    };
    let unreachable = |why: String| ClientError::Connect(target.clone(), why);
    let stream = timeout(CONNECT_TIMEOUT, connect)
        .await
        .map_err(|_| unreachable("no connection in time".to_owned()))?
        .map_err(|e| unreachable(e.to_string()))?;
    let host = match target {
        Target::Address(address) => address.to_string(),
        Target::Socket(_) => "localhost".to_owned(),
    };
    timeout(ANSWER_TIMEOUT, exchange(stream, &host, &method, path))
        .await
        .map_err(|_| "no answer in time".to_owned())
        .flatten()
        .map_err(|why| ClientError::Answer(target.clone(), method, path.to_owned(), why))
}

/// A connection of either kind.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

async fn exchange(
    stream: Box<dyn Stream>,
    host: &str,
    method: &Method,
    path: &str,
) -> Result<(StatusCode, Bytes), String> {
    let text = |e: &dyn fmt::Display| e.to_string();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| text(&e))?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, host)
        .body(Empty::<Bytes>::new())
        .map_err(|e| text(&e))?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(|e| text(&e))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await.map_err(|e| text(&e))?;
        Ok((status, body.to_bytes()))
    };
    tokio::pin!(answer);
    tokio::select! {
        done = &mut answer => done,
        // The connection may end before the answer was taken out of its channel.
        _ = connection => answer.await,
    }
}
