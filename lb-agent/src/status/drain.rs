//! How far a drain is: part of a backend's status, and the answer of `/v1/drain`.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{BackendStatus, Status, rfc3339};

/// A drain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainStatus {
    /// When it began.
    #[serde(with = "rfc3339")]
    pub since: SystemTime,
    /// When it ends at the latest.
    #[serde(with = "rfc3339")]
    pub deadline: SystemTime,
    /// When it ended.
    #[serde(with = "rfc3339::option")]
    pub ended: Option<SystemTime>,
    /// How it ended: `complete` or `deadline`.
    pub result: Option<String>,
    /// Flows that waited for an answer when it ended, as far as was known.
    pub left_waiting: Option<u64>,
    /// How long the oldest of the flows that wait now has waited, in milliseconds.
    pub oldest_wait_ms: Option<u64>,
}

/// How far the drain of a backend is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainProgress {
    /// Name of the service.
    pub service: String,
    /// Name of the backend.
    pub backend: String,
    /// `draining`, `drained`, or the health state of a backend that is not drained.
    pub state: String,
    /// Whether it gets new flows: also while it is drained when there is no other.
    pub in_ring: bool,
    /// Something that was decided is not in the kernel yet.
    pub pending: bool,
    /// Open flows; absent when they could not be read.
    pub flows: Option<u64>,
    /// Of these, those that wait for an answer.
    pub waiting: Option<u64>,
    /// The drain; absent when it is not drained.
    pub drain: Option<DrainStatus>,
}

/// Names that an error lists at most.
const NAMED: usize = 10;

impl DrainProgress {
    /// From the status as a whole.
    ///
    /// # Errors
    /// When there is no such service or backend: one line, with those that there are.
    pub fn of(status: &Status, service: &str, backend: &str) -> Result<Self, String> {
        let services = || status.services.iter().map(|s| s.name.as_str());
        let s = status.services.iter().find(|s| s.name == service);
        let s = s.ok_or_else(|| no_service(service, services()))?;
        let backends = || s.backends.iter().map(|b| b.name.as_str());
        let b = s.backends.iter().find(|b| b.name == backend);
        let b = b.ok_or_else(|| no_backend(service, backend, backends()))?;
        Ok(Self::new(service, b, status.dataplane.pending))
    }

    fn new(service: &str, b: &BackendStatus, pending: bool) -> Self {
        Self {
            service: service.to_owned(),
            backend: b.name.clone(),
            state: b.state.clone(),
            in_ring: b.in_ring,
            pending,
            flows: b.flows,
            waiting: b.waiting,
            drain: b.drain.clone(),
        }
    }
}

/// What is said of a service that is not configured.
pub(crate) fn no_service<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    format!("there is no service {name}; there is {}", list(known))
}

/// What is said of a backend that is not configured.
pub(crate) fn no_backend<'a>(service: &str, name: &str, known: impl Iterator<Item = &'a str>) -> String {
    format!("service {service} has no backend {name}; it has {}", list(known))
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    match names.get(..NAMED) {
        _ if names.is_empty() => "none".to_owned(),
        Some(first) if names.len() > NAMED => {
            format!("{} and {} more", first.join(", "), names.len() - NAMED)
        }
        Some(_) | None => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_are_answered_with_the_known_ones() {
        let names = |n: usize| (1..=n).map(|i| format!("b{i}")).collect::<Vec<_>>();
        for (n, want) in [
            (0, "service s has no backend x; it has none"),
            (2, "service s has no backend x; it has b1, b2"),
            (10, "service s has no backend x; it has b1, b2, b3, b4, b5, b6, b7, b8, b9, b10"),
            (12, "service s has no backend x; it has b1, b2, b3, b4, b5, b6, b7, b8, b9, b10 and 2 more"),
        ] {
            assert_eq!(no_backend("s", "x", names(n).iter().map(String::as_str)), want);
        }
    }
}
