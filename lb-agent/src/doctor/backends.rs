//! The backends: the way there, a connection, the answer of the health check.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::{Finding, Scope};
use crate::config::Config;
use crate::health::fsm::{BadAnswer, CheckResult};
use crate::health::probe::{Checked, Probe};
use crate::model::{BackendSpec, Header, HealthSpec, ProbeKind, ServiceSpec};
use crate::net::NetError;
use crate::net::hops::{HopWatcher, Hops};

/// How long neighbours may take to be found: three requests a second apart (`mcast_solicit`, `retrans_time_ms`), and to spare.
const NEIGHBOURS: Duration = Duration::from_secs(4);
/// Any value makes Superset look for the session, and no value makes one: it looks it up in Redis when sessions are there.
const COOKIE: &str = "session=evenkeel-doctor";

/// A backend that answered its check by HTTP.
pub(super) struct Reachable<'a> {
    pub(super) service: &'a ServiceSpec,
    pub(super) backend: &'a BackendSpec,
}

impl Reachable<'_> {
    pub(super) fn subject(&self) -> String {
        subject(self.service, self.backend)
    }
}

fn subject(service: &ServiceSpec, backend: &BackendSpec) -> String {
    format!("{}/{}", service.name, backend.name)
}

pub(super) async fn examine<'a>(
    config: &'a Config,
    scope: &'a Scope,
) -> Result<(Vec<Finding>, Vec<Reachable<'a>>), NetError> {
    let all: Vec<(&ServiceSpec, &BackendSpec)> =
        scope.services(config).flat_map(|s| s.backends.iter().map(move |b| (s, b))).collect();
    let checks = join_all(all.iter().map(|(service, backend)| check(service, backend)));
    let hops = next_hops(config, all.iter().map(|(_, b)| b.address.ip()).collect());
    let (checks, hops) = tokio::join!(checks, hops);
    let hops = hops?;
    let (mut findings, mut reachable) = (Vec::new(), Vec::new());
    for ((service, backend), outcome) in all.into_iter().zip(checks) {
        let subject = subject(service, backend);
        findings.push(way(&subject, backend.address.ip(), &hops));
        let is_http = matches!(service.health.probe, ProbeKind::Http { .. });
        if is_http && outcome.plain.as_ref().is_ok_and(|checked| checked.result == CheckResult::Ok) {
            reachable.push(Reachable { service, backend });
        }
        findings.extend(outcome.findings(&subject, &service.health));
    }
    Ok((findings, reachable))
}

/// The next hops, when all are known or nothing more will be.
async fn next_hops(config: &Config, targets: BTreeSet<IpAddr>) -> Result<std::sync::Arc<Hops>, NetError> {
    let watcher = HopWatcher::start(config.agent.interfaces.clone()).await?;
    let mut hops = watcher.subscribe();
    watcher.set_targets(targets.clone());
    let known = |hops: &Hops| targets.iter().all(|t| matches!(hops.next.get(t), Some(Ok(_))));
    // When it takes too long, what is known then says why.
    let _ = timeout(NEIGHBOURS, hops.wait_for(|now| known(now))).await;
    let now = hops.borrow().clone();
    Ok(now)
}

fn way(subject: &str, address: IpAddr, hops: &Hops) -> Finding {
    match hops.next.get(&address) {
        Some(Ok(hop)) => {
            let out = hops.ports.values().flatten().find(|port| port.facts.ifindex == hop.ifindex);
            let interface = out.map_or("?", |port| port.facts.name.as_str());
            let mac = hop.mac.map(|byte| format!("{byte:02x}")).join(":");
            Finding::ok(subject, format!("{address} is reached by {interface} and {mac}"))
        }
        Some(Err(error)) => Finding::fail(
            subject,
            error,
            "see `ip route get` and `ip neigh`; the way there must leave by one of agent.interfaces",
        ),
        None => Finding::fail(subject, format!("the way to {address} is not known"), "see `ip route get`"),
    }
}

/// What checks of one backend found.
struct Outcome {
    /// As it is configured, or why it cannot be made.
    plain: Result<Checked, String>,
    /// The same with a session cookie; only when the first was good, and is by HTTP.
    with_cookie: Option<Checked>,
}

async fn check(service: &ServiceSpec, backend: &BackendSpec) -> Outcome {
    let probe = match Probe::new(backend.address, &service.health) {
        Ok(probe) => probe,
        Err(e) => return Outcome { plain: Err(e.to_string()), with_cookie: None },
    };
    let plain = probe.run().await;
    let with_cookie = match with_cookie(&service.health) {
        Some(spec) if plain.result == CheckResult::Ok => match Probe::new(backend.address, &spec) {
            Ok(probe) => Some(probe.run().await),
            Err(_) => None,
        },
        _ => None,
    };
    Outcome { plain: Ok(plain), with_cookie }
}

/// The same check with a session cookie; `None` when it is not by HTTP, or sends a cookie anyway.
fn with_cookie(spec: &HealthSpec) -> Option<HealthSpec> {
    let mut spec = spec.clone();
    let ProbeKind::Http { headers, .. } = &mut spec.probe else { return None };
    if headers.iter().any(|h| h.name.eq_ignore_ascii_case("cookie")) {
        return None;
    }
    headers.push(Header { name: "Cookie".to_owned(), value: COOKIE.to_owned() });
    Some(spec)
}

impl Outcome {
    fn findings(&self, subject: &str, spec: &HealthSpec) -> Vec<Finding> {
        let what = match &spec.probe {
            ProbeKind::Http { path, .. } => format!("GET {path}"),
            ProbeKind::Tcp => "a connection".to_owned(),
        };
        let checked = match &self.plain {
            Ok(checked) => checked,
            Err(why) => return vec![Finding::fail(subject, why, "correct service.health")],
        };
        if checked.result != CheckResult::Ok {
            return vec![Finding::fail(
                subject,
                format!("{what}: {}", checked.result),
                advice(checked.result),
            )];
        }
        let milliseconds = checked.duration.as_secs_f64() * 1e3;
        let mut findings = vec![Finding::ok(subject, format!("{what}: good answer in {milliseconds:.1} ms"))];
        match self.with_cookie.map(|checked| checked.result) {
            None | Some(CheckResult::Ok) => {}
            Some(CheckResult::BadAnswer(BadAnswer::Status(status))) if status >= 500 => {
                findings.push(Finding::fail(
                    subject,
                    format!("{what} with a session cookie: status {status}: the pod does not reach the store of its sessions"),
                    "see that Redis runs, and that the pod's SESSION_REDIS is right",
                ));
            }
            Some(other) => findings.push(Finding::warn(
                subject,
                format!("{what} with a session cookie: {other}"),
                "see the pod's log",
            )),
        }
        findings
    }
}

const fn advice(result: CheckResult) -> &'static str {
    match result {
        CheckResult::Ok => "",
        CheckResult::Refused => "start the pod, or correct its port",
        CheckResult::Unreachable | CheckResult::ConnectTimeout => {
            "see that the host is up, that a route leads there, and that no firewall is between"
        }
        CheckResult::Timeout => {
            "the pod hangs, or all its threads are busy; see its log, or raise service.health.timeout"
        }
        CheckResult::BadAnswer(_) => "see the pod's log, and service.health.path and expect_*",
        CheckResult::Local(_) => "this node could not make the check; see its limits and firewall",
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use crate::model::PassiveSpec;

    fn spec(probe: ProbeKind) -> HealthSpec {
        let second = Duration::from_secs(1);
        HealthSpec {
            probe,
            interval: second,
            timeout: second,
            rise: 1,
            fall: 1,
            grace: second,
            dead_after: second,
            passive: PassiveSpec::default(),
        }
    }

    fn http(headers: Vec<Header>) -> HealthSpec {
        spec(ProbeKind::Http { path: "/health".into(), host: None, headers, status: (200, 200), body: None })
    }

    #[test]
    fn each_answer_has_its_level() {
        let checked = |result| Checked { result, duration: Duration::from_millis(2) };
        let error = CheckResult::BadAnswer(BadAnswer::Status(500));
        for (plain, with_cookie, levels) in [
            (CheckResult::Ok, Some(CheckResult::Ok), &[Level::Ok][..]),
            (CheckResult::Ok, None, &[Level::Ok]),
            (CheckResult::Ok, Some(error), &[Level::Ok, Level::Fail]),
            (CheckResult::Ok, Some(CheckResult::Timeout), &[Level::Ok, Level::Warn]),
            (CheckResult::Refused, None, &[Level::Fail]),
            (CheckResult::ConnectTimeout, None, &[Level::Fail]),
            (error, None, &[Level::Fail]),
        ] {
            let outcome = Outcome { plain: Ok(checked(plain)), with_cookie: with_cookie.map(checked) };
            let found = outcome.findings("s/b", &http(Vec::new()));
            assert_eq!(
                found.iter().map(|f| f.level).collect::<Vec<_>>(),
                levels,
                "{plain:?} {with_cookie:?}"
            );
            assert!(found.iter().all(|f| f.advice.is_empty() == (f.level == Level::Ok)), "{found:?}");
        }
    }

    #[test]
    fn the_cookie_goes_only_where_there_is_none() {
        let cookie = |spec: Option<HealthSpec>| match spec.unwrap().probe {
            ProbeKind::Http { headers, .. } => headers,
            ProbeKind::Tcp => panic!("not by HTTP any more"),
        };
        assert_eq!(cookie(with_cookie(&http(Vec::new())))[0].value, COOKIE);
        let own = Header { name: "cookie".into(), value: "session=1".into() };
        assert_eq!(with_cookie(&http(vec![own])), None);
        assert_eq!(with_cookie(&spec(ProbeKind::Tcp)), None);
    }
}
