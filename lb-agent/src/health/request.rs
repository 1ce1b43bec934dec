//! What of a check's request the operator chooses, and whether it can be sent. Pure: the configuration asks here too, so
//! that what it accepts is what can be checked.
#![forbid(unsafe_code)]

use hyper::Uri;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::uri::{Authority, PathAndQuery};

use crate::model::Header;

/// What cannot be sent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The path cannot stand in a request line.
    #[error("path {0:?}: must start with '/' and hold no spaces or control characters")]
    Path(String),
    /// The `Host` header cannot stand in a request.
    #[error("host {0:?}: must be a host name or address, with or without a port")]
    Host(String),
    /// A header cannot be sent, or is not for the operator to set.
    #[error("header {name:?} {why}")]
    Header {
        /// Its name, as it was given.
        name: String,
        /// What is wrong. The value may be a secret, so it is not said.
        #[source]
        why: HeaderError,
    },
}

/// What is wrong with a header. Its display goes on after the header's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// No header can be called so.
    #[error("is not a name of a header")]
    Name,
    /// It is about the connection or the body, which are the check's own, or is `Host`, which has a key of its own.
    #[error("is set by the check itself, or does not go with a GET")]
    Taken,
    /// No header can have this value.
    #[error("has a value that is too long or cannot stand in a header")]
    Value,
}

/// Longest value of a header, in bytes. Servers refuse requests whose headers are much longer.
pub const MAX_HEADER_VALUE: usize = 4096;

/// See [`HeaderError::Taken`].
const TAKEN: [HeaderName; 10] = [
    header::HOST,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

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

/// All headers but those that every check has.
///
/// # Errors
/// The first one that [`header()`] refuses.
pub fn headers(headers: &[Header]) -> Result<Vec<(HeaderName, HeaderValue)>, RequestError> {
    let refused = |h: &Header, why| RequestError::Header { name: h.name.clone(), why };
    headers.iter().map(|h| header(&h.name, &h.value).map_err(|why| refused(h, why))).collect()
}

/// One more header.
///
/// # Errors
/// When there can be no such header, or it is not for the operator to set.
pub fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), HeaderError> {
    let name: HeaderName = name.parse().map_err(|_| HeaderError::Name)?;
    if TAKEN.contains(&name) {
        return Err(HeaderError::Taken);
    }
    // hyper sends other bytes too, and no two servers agree on what they mean.
    let value = Some(value).filter(|v| v.is_ascii() && v.len() <= MAX_HEADER_VALUE);
    let mut value = value.and_then(|v| HeaderValue::from_str(v).ok()).ok_or(HeaderError::Value)?;
    value.set_sensitive(true);
    Ok((name, value))
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
        for name in ["", "X Y", "X:", "X\n", "Ü"] {
            assert_eq!(header(name, "v"), Err(HeaderError::Name));
        }
        for name in ["Host", "host", "Connection", "CONTENT-LENGTH", "transfer-encoding", "Upgrade"] {
            assert_eq!(header(name, "v"), Err(HeaderError::Taken));
        }
        for value in ["a\r\nHost: b", "a\0", "é", &"v".repeat(MAX_HEADER_VALUE + 1)] {
            assert_eq!(header("X-Y", value), Err(HeaderError::Value));
        }
        for value in ["", "session=a; b=\"c\"", &"v".repeat(MAX_HEADER_VALUE)] {
            let (name, sent) = header("X-Y", value).unwrap();
            assert_eq!((name.as_str(), sent.to_str().unwrap()), ("x-y", value));
            assert!(!format!("{sent:?}").contains("session"));
        }
        assert_eq!(path("/health?full=1").unwrap().to_string(), "/health?full=1");
    }
}
