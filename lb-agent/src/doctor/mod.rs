//! `lb-agent doctor`: looks at everything that a balancer depends on, and says what is wrong and what to do.
//!
//! It works beside a running agent and without one, and changes nothing, with these side effects: connections to the
//! backends, as checks make them; probes for the VIPs' addresses (RFC 5227 §2.1.1, RFC 4862 §5.4.2), which no host
//! remembers; maps and programs in the kernel, which are gone when it ends; and, with `sessions`, two visits to each
//! Superset's login page, for each of which Superset keeps an empty session in Redis (for 31 days by default).
#![forbid(unsafe_code)]

mod backends;
mod exchange;
mod interfaces;
mod kernel;
mod sessions;
mod vips;

use std::fmt;

use serde::Serialize;

use crate::config::Config;
use crate::model::ServiceSpec;
use crate::net::NetError;

/// What is looked at.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Only this service and its backends; all of them without.
    pub service: Option<String>,
    /// Whether replicas are asked whether they share sessions and key.
    pub sessions: bool,
}

impl Scope {
    fn services<'a>(&'a self, config: &'a Config) -> impl Iterator<Item = &'a ServiceSpec> + 'a {
        config.services.iter().filter(|s| self.service.as_ref().is_none_or(|name| *name == s.name))
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, and is not as it should be.
    Warn,
    /// It does not work.
    Fail,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        })
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was looked at: `kernel`, `interface eth0`, `superset/superset-1`.
    pub subject: String,
    /// What was found.
    pub text: String,
    /// What to do about it; empty when nothing has to be done.
    pub advice: String,
}

impl Finding {
    /// Nothing has to be done.
    pub fn ok(subject: impl fmt::Display, text: impl fmt::Display) -> Self {
        Self::new(Level::Ok, subject, text, "")
    }

    /// It works, and is not as it should be.
    pub fn warn(subject: impl fmt::Display, text: impl fmt::Display, advice: impl fmt::Display) -> Self {
        Self::new(Level::Warn, subject, text, advice)
    }

    /// It does not work.
    pub fn fail(subject: impl fmt::Display, text: impl fmt::Display, advice: impl fmt::Display) -> Self {
        Self::new(Level::Fail, subject, text, advice)
    }

    fn new(
        level: Level,
        subject: impl fmt::Display,
        text: impl fmt::Display,
        advice: impl fmt::Display,
    ) -> Self {
        Self { level, subject: subject.to_string(), text: text.to_string(), advice: advice.to_string() }
    }
}

/// Looks at kernel, interfaces, VIPs and backends, in the network namespace of the calling thread. Takes up to some seconds for each time-out.
///
/// # Errors
/// When netlink cannot be used at all; everything else is a finding.
pub async fn examine(config: &Config, scope: &Scope) -> Result<Vec<Finding>, NetError> {
    let mut findings = kernel::examine(config);
    findings.extend(interfaces::examine(config).await?);
    findings.extend(vips::examine(config, scope).await?);
    let (of_backends, reachable) = backends::examine(config, scope).await?;
    findings.extend(of_backends);
    if scope.sessions {
        findings.extend(sessions::examine(&reachable).await);
    }
    Ok(findings)
}
