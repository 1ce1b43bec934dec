//! Small constructors for answers.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use tracing::warn;

/// A complete answer.
pub(super) type Answer = Response<Full<Bytes>>;

/// A body of any kind.
pub(super) fn answer(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// Plain text.
pub(super) fn text(status: StatusCode, body: String) -> Answer {
    answer(status, "text/plain; charset=utf-8", body)
}

/// A value as JSON.
pub(super) fn json<T: serde::Serialize>(value: &T) -> Answer {
    json_with(StatusCode::OK, value)
}

/// The same with another status.
pub(super) fn json_with<T: serde::Serialize>(status: StatusCode, value: &T) -> Answer {
    match serde_json::to_string_pretty(value) {
        Ok(body) => answer(status, "application/json", body + "\n"),
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("json: {e}\n")),
    }
}

/// Why a request is not answered as was hoped: a status, and one line that is sent as JSON, `{"error": "…"}`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    status: StatusCode,
    why: String,
    /// A header that goes with the status.
    header: Option<(HeaderName, &'static str)>,
}

impl Refused {
    pub(super) fn new(status: StatusCode, why: impl Into<String>) -> Self {
        let realm = (WWW_AUTHENTICATE, "Bearer realm=\"lb-agent\"");
        Self { status, why: why.into(), header: (status == StatusCode::UNAUTHORIZED).then_some(realm) }
    }

    /// Another method than `allowed`, as a list for people and for the header.
    pub(super) fn method(allowed: &'static str) -> Self {
        let (status, why) =
            (StatusCode::METHOD_NOT_ALLOWED, format!("another method is wanted here: {allowed}"));
        Self { status, why, header: Some((ALLOW, allowed)) }
    }

    /// With the header that goes with the status.
    pub(super) fn answer(self) -> Answer {
        let body = serde_json::json!({ "error": self.why }).to_string() + "\n";
        let mut answer = answer(self.status, "application/json", body);
        if let Some((name, value)) = self.header {
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        answer
    }
}

/// A scan of a large flow table must not delay a ring: it runs on a thread of its own.
///
/// # Errors
/// When `work` panicked.
pub(super) async fn off_the_loop<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refused> {
    tokio::task::spawn_blocking(work).await.map_err(|e| {
        warn!("admin request failed: {e}");
        Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "failed, see the agent's log")
    })
}
