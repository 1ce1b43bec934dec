//! From one configuration to the next while the agent runs: what differs, and what of it needs a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::SocketAddr;

use ipnet::IpNet;

use super::{Config, ConfigError};
use crate::model::{BackendSpec, ServiceSpec};

/// What `new` asks for that a running agent cannot do: one error for each key, in the order of the file. Interfaces and
/// addresses of other families may stand in any order; that of a family's `nat.addresses` says which block is whose.
#[must_use]
pub fn restart_needed(old: &Config, new: &Config) -> Vec<ConfigError> {
    let (a, b) = (&old.agent, &new.agent);
    let by_family = |nets: &[IpNet]| -> Vec<IpNet> {
        let (v4, v6): (Vec<IpNet>, Vec<IpNet>) = nets.iter().partition(|net| matches!(net, IpNet::V4(_)));
        [v4, v6].concat()
    };
    let sorted = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
    let ports = |(first, last): (u16, u16)| format!("{first}-{last}");
    let rows = [
        ("agent.interfaces", sorted(&a.interfaces) == sorted(&b.interfaces), list(&a.interfaces)),
        ("agent.xdp_mode", a.xdp_mode == b.xdp_mode, a.xdp_mode.name().to_owned()),
        ("agent.admin", a.admin == b.admin, a.admin.to_string()),
        ("agent.socket", a.socket == b.socket, a.socket.display().to_string()),
        (
            "nat.addresses",
            by_family(&old.nat.addresses) == by_family(&new.nat.addresses),
            list(&old.nat.addresses),
        ),
        ("nat.ports", old.nat.ports == new.nat.ports, ports(old.nat.ports)),
    ];
    let changed = rows.into_iter().filter(|(_, same, _)| !same);
    let mut errors: Vec<ConfigError> = changed
        .map(|(key, _, now)| {
            let reason = format!("cannot be changed while the agent runs, where it is {now}");
            new.source.error(key, reason, "restart the agent, or set it back")
        })
        .collect();
    errors.sort_by_key(|e| e.line);
    errors
}

/// What is different in `new`, one line for each service, backend or section: those that come, those that go, and for those
/// that stay the keys whose values differ. The order of services and backends has no meaning. Values are not shown: some
/// are secret.
#[must_use]
pub fn differences(old: &Config, new: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    let (a, b) = (&old.agent, &new.agent);
    let agent = [
        ("admin_token_file", a.admin_token_file == b.admin_token_file),
        ("announce", a.announce == b.announce),
        ("log_format", a.log_format == b.log_format),
        ("zone", a.zone == b.zone),
        ("reset_rate", a.reset_rate == b.reset_rate),
        ("watch", a.watch == b.watch),
    ];
    push_changed(&mut lines, "agent", &agent);
    let (a, b) = (&old.nat, &new.nat);
    push_changed(
        &mut lines,
        "nat",
        &[("rest", a.rest == b.rest), ("idle_timeout", a.idle_timeout == b.idle_timeout)],
    );
    let (before, after) = (by_name(&old.services), by_name(&new.services));
    for gone in before.values().filter(|s| !after.contains_key(s.name.as_str())) {
        lines.push(format!("service {}: removed, with its backends", gone.name));
    }
    for service in &new.services {
        match before.get(service.name.as_str()) {
            Some(old) => push_service(&mut lines, old, service),
            None => lines.push(format!(
                "service {}: added at {}, with backends: {}",
                service.name,
                service.vip,
                service.backends.len()
            )),
        }
    }
    lines
}

fn by_name(services: &[ServiceSpec]) -> BTreeMap<&str, &ServiceSpec> {
    services.iter().map(|s| (s.name.as_str(), s)).collect()
}

/// A backend is the same one when its name and its address are.
fn identity(backend: &BackendSpec) -> (&str, SocketAddr) {
    (&backend.name, backend.address)
}

fn by_identity(backends: &[BackendSpec]) -> BTreeMap<(&str, SocketAddr), &BackendSpec> {
    backends.iter().map(|b| (identity(b), b)).collect()
}

fn push_service(lines: &mut Vec<String>, a: &ServiceSpec, b: &ServiceSpec) {
    let (p, q) = (&a.policy, &b.policy);
    let keys = [
        ("vip", a.vip == b.vip),
        ("forwarding", a.forwarding == b.forwarding),
        ("scheduler", a.scheduler == b.scheduler),
        ("requests", a.requests == b.requests),
        ("retries", p.retries == q.retries),
        ("slow_start", p.slow_start == q.slow_start),
        ("zone_preference", p.prefer_zone == q.prefer_zone),
        ("zone_spill", p.zone_spill == q.zone_spill),
        ("min_healthy", p.min_healthy == q.min_healthy),
        ("drain_idle", a.drain.idle == b.drain.idle),
        ("drain_deadline", a.drain.deadline == b.drain.deadline),
        ("health", a.health == b.health),
    ];
    push_changed(lines, &format!("service {}", b.name), &keys);
    let (before, after) = (by_identity(&a.backends), by_identity(&b.backends));
    for (_, gone) in before.iter().filter(|(identity, _)| !after.contains_key(*identity)) {
        lines.push(format!("backend {}/{}: removed ({})", a.name, gone.name, gone.address));
    }
    for y in &b.backends {
        match before.get(&identity(y)) {
            None => lines.push(format!("backend {}/{}: added ({})", b.name, y.name, y.address)),
            Some(x) => {
                let keys = [
                    ("weight", x.weight == y.weight),
                    ("priority", x.priority == y.priority),
                    ("zone", x.zone == y.zone),
                ];
                push_changed(lines, &format!("backend {}/{}", b.name, y.name), &keys);
            }
        }
    }
}

/// A line with the keys that are not the same, if there are any.
fn push_changed(lines: &mut Vec<String>, what: &str, keys: &[(&str, bool)]) {
    let changed: Vec<&str> = keys.iter().filter(|(_, same)| !same).map(|(key, _)| *key).collect();
    if !changed.is_empty() {
        lines.push(format!("{what}: changed {}", changed.join(", ")));
    }
}

fn list<T: Display>(values: &[T]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
