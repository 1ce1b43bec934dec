//! What of a check's request the operator chooses, and whether it can be sent. Pure: the configuration asks here too, so
//! that what it accepts is what can be checked.
#![forbid(unsafe_code)]

use hyper::Uri;
use hyper::header::HeaderValue;
use hyper::http::uri::{Authority, PathAndQuery};

/// What cannot be sent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The path cannot stand in a request line.
    #[error("path {0:?}: must start with '/' and hold no spaces or control characters")]
    Path(String),
    /// The `Host` header cannot stand in a request.
    #[error("host {0:?}: must be a host name or address, with or without a port")]
    Host(String),
}

/// Path and query of the request line.
///
/// # Errors
/// When it does not begin with a slash, or holds what no path can.
pub fn path(text: &str) -> Result<Uri, RequestError> {
    let path = text.starts_with('/').then(|| PathAndQuery::try_from(text).ok()).flatten();
    path.map(Uri::from).ok_or_else(|| RequestError::Path(text.to_owned()))
}

/// The `Host` header.
///
/// # Errors
/// When it is not a host name or address, with or without a port.
pub fn host(text: &str) -> Result<HeaderValue, RequestError> {
    let authority: Option<Authority> = text.parse().ok().filter(|a: &Authority| !a.as_str().contains('@'));
    let value = authority.and_then(|a| HeaderValue::from_str(a.as_str()).ok());
    value.ok_or_else(|| RequestError::Host(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_sent_is_refused() {
        for text in ["", "health", "/a b", "/a\r\nX: y", "*", "http://x/"] {
            assert_eq!(path(text), Err(RequestError::Path(text.to_owned())));
        }
        for text in ["", "a b", "a\r\nX: y", "user@host", "a/b"] {
            assert_eq!(host(text), Err(RequestError::Host(text.to_owned())));
        }
        for text in ["superset", "superset:8088", "[fd77::1]:80", "10.0.0.1"] {
            assert_eq!(host(text).unwrap(), text);
        }
        assert_eq!(path("/health?full=1").unwrap().to_string(), "/health?full=1");
    }
}
