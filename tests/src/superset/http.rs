//! HTTP/1.1 as a user's browser speaks it: every request on a connection of its own, so that each is balanced anew.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::header::{CONNECTION, HOST, HeaderName, SET_COOKIE};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Method.
    pub method: Method,
    /// Path, and query if there is one.
    pub path: String,
    /// Headers besides Host and Connection.
    pub headers: Vec<(HeaderName, String)>,
    /// Body, which may be empty.
    pub body: Bytes,
}

/// What comes back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Ask {
    /// `GET path`.
    #[must_use]
    pub fn get(path: &str) -> Self {
        Self { method: Method::GET, path: path.to_owned(), headers: Vec::new(), body: Bytes::new() }
    }

    /// `POST path` with a body of a type.
    #[must_use]
    pub fn with_body(method: Method, path: &str, kind: &str, body: String) -> Self {
        let headers = vec![(hyper::header::CONTENT_TYPE, kind.to_owned())];
        Self { method, path: path.to_owned(), headers, body: body.into() }
    }

    /// The same with a further header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// Asks over a new connection.
    ///
    /// # Errors
    /// When the whole answer is not there within `patience`, with the reason and what was asked for.
    pub async fn send(self, target: SocketAddr, patience: Duration) -> Result<Answer> {
        let what = format!("{} {} at {target}", self.method, self.path);
        let answer = timeout(patience, self.exchange(target)).await;
        answer
            .with_context(|| format!("{what}: no answer within {patience:?}"))?
            .with_context(|| what.clone())
    }

    async fn exchange(self, target: SocketAddr) -> Result<Answer> {
        let stream = TcpStream::connect(target).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the answer.
        let connection = tokio::spawn(connection);
        let mut request = Request::builder().method(self.method).uri(&self.path);
        request = request.header(HOST, target.to_string()).header(CONNECTION, "close");
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        let answer = sender.send_request(request.body(Full::new(self.body))?).await?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await?.to_bytes();
        drop(sender);
        let _ = connection.await;
        Ok(Answer { status: head.status, headers: head.headers, body })
    }
}

impl Answer {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value; empty when it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The value of a cookie that the answer sets.
    #[must_use]
    pub fn cookie(&self, name: &str) -> Option<String> {
        let lines = self.headers.get_all(SET_COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = lines.filter_map(|line| line.split(';').next()?.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
    }
}
