//! Asking a running agent.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// For connecting and for the whole answer, each.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Largest answer that is read: a state of 4,096 backends is a few megabytes.
const ANSWER_BYTES: usize = 64 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens, or not in time.
    #[error(
        "cannot reach lb-agent at {0}: {1} (is it running? agent.admin of its configuration is the address for --admin)"
    )]
    Connect(SocketAddr, String),
    /// Somebody listens, and does not answer as an agent does.
    #[error("lb-agent at {0}: GET {1}: {2}")]
    Answer(SocketAddr, String, String),
}

/// The body of a 200 answer to `GET path`.
///
/// # Errors
/// When nobody answers within seconds, or the answer is another one.
pub async fn get(admin: SocketAddr, path: &str) -> Result<Bytes, ClientError> {
    let connect = |why: String| ClientError::Connect(admin, why);
    let stream = timeout(TIMEOUT, TcpStream::connect(admin))
        .await
        .map_err(|_| connect("no connection in time".to_owned()))?
        .map_err(|e| connect(e.to_string()))?;
    let (status, body) = timeout(TIMEOUT, exchange(stream, admin, path))
        .await
        .map_err(|_| "no answer in time".to_owned())
        .flatten()
        .map_err(|why| ClientError::Answer(admin, path.to_owned(), why))?;
    if status != StatusCode::OK {
        let text = String::from_utf8_lossy(&body).trim().to_owned();
        return Err(ClientError::Answer(admin, path.to_owned(), format!("{status}: {text}")));
    }
    Ok(body)
}

async fn exchange(stream: TcpStream, admin: SocketAddr, path: &str) -> Result<(StatusCode, Bytes), String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| text(&e))?;
    let request = Request::get(path)
        .header(HOST, admin.to_string())
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
