//! What the agent has decided, as metrics: derived from the published [`Status`] at each scrape, so that metrics
//! and `lb-agent status` cannot disagree and nothing is left behind when a backend goes.

use std::sync::Arc;
use std::time::SystemTime;

use lb_common::abi::ABI_VERSION;
use prometheus::core::{Collector, Desc};
use prometheus::proto;

use super::catalog::{self as cat, Family};
use super::sample::{desc, family, float, sample};
use crate::model::HealthState;
use crate::status::{BackendStatus, ServiceStatus, Status, backend_states};

/// Gives the latest published status.
pub type StatusSource = Box<dyn Fn() -> Arc<Status> + Send + Sync>;

const FAMILIES: [Family; 18] = [
    cat::BUILD_INFO,
    cat::READY,
    cat::CONFIG_SUCCESSFUL,
    cat::CONFIG_LOADED,
    cat::XDP_MODE,
    cat::REDIRECT_TARGET,
    cat::SERVICE_FAIL_OPEN,
    cat::SERVICE_BELOW_FLOOR,
    cat::SERVICE_PRIORITY,
    cat::SERVICE_BACKENDS,
    cat::BACKEND_UP,
    cat::BACKEND_STATE,
    cat::BACKEND_RESOLVED,
    cat::BACKEND_WEIGHT,
    cat::BACKEND_SLOW_START,
    cat::BACKEND_NEAR,
    cat::UNRESOLVED,
    cat::PENDING,
];

/// Shows the published status as metrics.
pub(super) struct ControlCollector {
    status: StatusSource,
    descs: Vec<Desc>,
}

impl ControlCollector {
    pub(super) fn new(status: StatusSource) -> prometheus::Result<Self> {
        Ok(Self { status, descs: FAMILIES.iter().map(desc).collect::<prometheus::Result<_>>()? })
    }
}

impl Collector for ControlCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let status = (self.status)();
        let mut out = node(&status);
        out.extend(services(&status.services));
        out.extend(backends(&status.services));
        out.retain(|f| !f.get_metric().is_empty());
        out
    }
}

fn node(s: &Status) -> Vec<proto::MetricFamily> {
    let one = |f: &Family, labels: &[&str], value: f64| family(f, vec![sample(f, labels, value)]);
    let loaded = s.config_loaded.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let modes = s.interfaces.iter().map(|i| sample(&cat::XDP_MODE, &[&i.name, &i.xdp_mode], 1.0));
    let targets = s.interfaces.iter().filter_map(|i| {
        let arrives = i.redirect_target?;
        Some(sample(&cat::REDIRECT_TARGET, &[&i.name], flag(arrives)))
    });
    vec![
        one(&cat::BUILD_INFO, &[&s.version, &ABI_VERSION.to_string()], 1.0),
        one(&cat::READY, &[], flag(s.is_ready())),
        one(&cat::CONFIG_SUCCESSFUL, &[], flag(s.config_refused.is_none())),
        one(&cat::CONFIG_LOADED, &[], loaded.as_secs_f64()),
        family(&cat::XDP_MODE, modes.collect()),
        family(&cat::REDIRECT_TARGET, targets.collect()),
        one(&cat::UNRESOLVED, &[], float(s.unresolved() as u64)),
        one(&cat::PENDING, &[], flag(s.dataplane.pending)),
    ]
}

fn services(services: &[ServiceStatus]) -> [proto::MetricFamily; 4] {
    let per = |f: &Family, get: fn(&ServiceStatus) -> Option<f64>| {
        family(f, services.iter().filter_map(|s| Some(sample(f, &[&s.name], get(s)?))).collect())
    };
    let states = services.iter().flat_map(|s| {
        backend_states()
            .map(|state| sample(&cat::SERVICE_BACKENDS, &[&s.name, state], float(s.in_state(state) as u64)))
    });
    [
        per(&cat::SERVICE_FAIL_OPEN, |s| Some(flag(s.fail_open))),
        per(&cat::SERVICE_BELOW_FLOOR, |s| Some(flag(s.is_below_floor()))),
        per(&cat::SERVICE_PRIORITY, |s| s.priority.map(f64::from)),
        family(&cat::SERVICE_BACKENDS, states.collect()),
    ]
}

fn backends(services: &[ServiceStatus]) -> [proto::MetricFamily; 6] {
    let all = || services.iter().flat_map(|s| s.backends.iter().map(move |b| (s.name.as_str(), b)));
    let per = |f: &Family, get: fn(&BackendStatus) -> f64| {
        family(f, all().map(|(s, b)| sample(f, &[s, &b.name], get(b))).collect())
    };
    let states = all().flat_map(|(s, b)| {
        backend_states()
            .map(move |state| sample(&cat::BACKEND_STATE, &[s, &b.name, state], flag(b.state == state)))
    });
    [
        per(&cat::BACKEND_UP, |b| flag(b.health == HealthState::Healthy.name())),
        family(&cat::BACKEND_STATE, states.collect()),
        per(&cat::BACKEND_RESOLVED, |b| flag(b.next_hop.is_some())),
        per(&cat::BACKEND_WEIGHT, |b| f64::from(b.weight)),
        per(&cat::BACKEND_SLOW_START, |b| f64::from(b.slow_start.unwrap_or(100)) / 100.0),
        per(&cat::BACKEND_NEAR, |b| flag(b.near)),
    ]
}

const fn flag(yes: bool) -> f64 {
    if yes { 1.0 } else { 0.0 }
}
