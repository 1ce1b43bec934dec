//! Who may change things.

use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderMap};
use tracing::warn;

use super::answer::{Refused, off_the_loop};
use super::token::TokenFile;
use crate::config::AgentConfig;

/// What those who connect to a listener may do besides reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything: whoever can connect at all is allowed to.
    Full,
    /// Everything, with the token that is in this file.
    Token(TokenFile),
    /// Nothing.
    ReadOnly,
}

impl Access {
    /// What `agent.admin` gives to those who reach it.
    #[must_use]
    pub fn of(agent: &AgentConfig) -> Self {
        agent.admin_token_file.clone().map_or(Self::ReadOnly, Self::Token)
    }

    /// Whether a request with these headers may change things, or look at what is there to change them.
    ///
    /// # Errors
    /// When it may not.
    pub(super) async fn admit(&self, headers: &HeaderMap) -> Result<(), Refused> {
        match self {
            Self::Full => Ok(()),
            Self::ReadOnly => {
                let why = "nothing can be changed here: use the socket (agent.socket), or set agent.admin_token_file";
                Err(Refused::new(StatusCode::FORBIDDEN, why))
            }
            Self::Token(file) => {
                let (file, given) = (file.clone(), bearer(headers).map(<[u8]>::to_owned));
                off_the_loop(move || compare(&file, given.as_deref())).await?
            }
        }
    }
}

fn compare(file: &TokenFile, given: Option<&[u8]>) -> Result<(), Refused> {
    let token = file.read().map_err(|e| {
        warn!("{e}");
        let why = "nobody is let in: something is wrong with agent.admin_token_file, see the agent's log";
        Refused::new(StatusCode::SERVICE_UNAVAILABLE, why)
    })?;
    if given.is_some_and(|given| token.is(given)) {
        return Ok(());
    }
    let why = "no token, or another one: send \"Authorization: Bearer TOKEN\"";
    Err(Refused::new(StatusCode::UNAUTHORIZED, why))
}

/// The token of an `Authorization` header (RFC 6750). The scheme's case has no meaning.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn a_bearer_token_is_what_follows_the_scheme() {
        let with = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for v in values {
                headers.append(AUTHORIZATION, HeaderValue::from_static(v));
            }
            bearer(&headers).map(|t| String::from_utf8(t.to_vec()).unwrap())
        };
        assert_eq!(with(&["Bearer secret"]).as_deref(), Some("secret"));
        assert_eq!(with(&["bEARER  secret "]).as_deref(), Some("secret"));
        assert_eq!(with(&["Bearer "]).as_deref(), Some(""));
        for none in [&[][..], &["Bearer"], &["Basic secret"], &["secret"], &["Bearer a", "Bearer a"]] {
            assert_eq!(with(none), None, "{none:?}");
        }
    }
}
