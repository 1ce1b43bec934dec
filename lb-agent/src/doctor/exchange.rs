//! One HTTP request over a connection of its own.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, SET_COOKIE};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::health::probe::alongside;

/// A page takes a moment, on a pod that was just started even more.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most of an answer's body that is read, in bytes: some times a login page.
const LIMIT: usize = 1 << 20;

/// What came back.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// What to send as `Cookie` from now on.
    pub(super) cookies: String,
    pub(super) body: String,
}

/// Sends a request to the backend; `request` lacks only its `Host`.
///
/// # Errors
/// Why there is no whole answer, in a few words.
pub(super) async fn ask(address: SocketAddr, mut request: Request<Full<Bytes>>) -> Result<Answer, String> {
    let host = address.to_string().parse().map_err(|e| format!("{address}: {e}"))?;
    request.headers_mut().insert(HOST, host);
    request.headers_mut().insert(CONNECTION, hyper::header::HeaderValue::from_static("close"));
    let answer = timeout(PATIENCE, exchange(address, request)).await;
    answer.unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())))
}

async fn exchange(address: SocketAddr, request: Request<Full<Bytes>>) -> Result<Answer, String> {
    let stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let answer = async {
        let (head, body) = sender.send_request(request).await.map_err(|e| e.to_string())?.into_parts();
        let body = Limited::new(body, LIMIT).collect().await.map_err(|e| e.to_string())?.to_bytes();
        let cookies = head.headers.get_all(SET_COOKIE).iter().filter_map(|value| {
            // RFC 6265 §5.2: name and value end with the first semicolon.
            value.to_str().ok()?.split(';').next().map(|pair| pair.trim().to_owned())
        });
        Ok(Answer {
            status: head.status,
            cookies: cookies.collect::<Vec<_>>().join("; "),
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    };
    alongside(connection, answer).await
}
