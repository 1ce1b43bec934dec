//! From the agent's state to what it publishes.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use crate::admin::Published;
use crate::admin::state::vlan_ids;
use crate::dataplane::Dataplane;
use crate::drain::Drain;
use crate::model::{BackendSpec, Forwarding, HealthState, NextHop, ServiceSpec};
use crate::plan::{PARTS, Recipe, ServicePlan, Standing};
use crate::status::drain::DrainStatus;
use crate::status::reload::RefusedReload;
use crate::status::{
    BackendStatus, DataplaneStatus, InterfaceStatus, NextHopStatus, ServiceStatus, Status, mac_text,
};

use super::egress::takes_redirects;
use super::program::Attachment;
use super::world::World;
use super::writer::Writer;

/// How many backends `/readyz` names.
const NAMED: usize = 10;

/// Mode of an interface that the program is not attached to.
const DETACHED: &str = "detached";

/// By interface name: the index that the program is attached to, and how.
pub(super) type Attached = BTreeMap<String, (u32, Attachment)>;

/// Where this agent's state began.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Path of the configuration file.
    pub config: PathBuf,
    /// When it was read.
    pub config_loaded: SystemTime,
    /// One moment on both clocks: when the agent started.
    pub started: (Instant, SystemTime),
}

impl Origin {
    /// The agent starts now, with a configuration that was just read.
    #[must_use]
    pub fn now(config: PathBuf) -> Self {
        let wall = SystemTime::now();
        Self { config, config_loaded: wall, started: (Instant::now(), wall) }
    }

    /// A moment of the monotonic clock as people know it.
    fn wall(&self, at: Instant) -> SystemTime {
        let (instant, wall) = self.started;
        at.checked_duration_since(instant).map_or(wall, |later| wall + later)
    }
}

/// What is published before there is anything to report.
#[must_use]
pub(super) fn starting(origin: &Origin) -> Published {
    Published { status: Arc::new(starting_status(origin)), desired: Arc::default(), actual: Arc::default() }
}

fn starting_status(origin: &Origin) -> Status {
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: origin.started.1,
        config: origin.config.display().to_string(),
        config_loaded: origin.config_loaded,
        config_refused: None,
        not_ready: vec!["starting".to_owned()],
        zone: None,
        interfaces: Vec::new(),
        services: Vec::new(),
        flow_table: None,
        dataplane: DataplaneStatus::default(),
    }
}

/// What a report is made of.
pub(super) struct Report<'a, D> {
    pub(super) world: &'a World,
    pub(super) writer: &'a Writer<D>,
    pub(super) attached: &'a Attached,
    pub(super) origin: &'a Origin,
    pub(super) refused: Option<&'a RefusedReload>,
    pub(super) running: bool,
    pub(super) errors: u64,
    pub(super) last_error: Option<&'a str>,
}

impl<D: Dataplane> Report<'_, D> {
    pub(super) fn published(&self) -> Published {
        Published {
            status: Arc::new(self.status()),
            desired: Arc::new(self.writer.plan().tables.clone()),
            actual: Arc::new(self.writer.actual().clone()),
        }
    }

    fn status(&self) -> Status {
        Status {
            config_refused: self.refused.cloned(),
            not_ready: self.not_ready(),
            zone: self.world.node().zone.clone(),
            interfaces: self.interfaces(),
            services: self.world.services().iter().map(|s| self.service(s)).collect(),
            dataplane: DataplaneStatus {
                pending: self.writer.is_pending(),
                errors: self.errors,
                last_error: self.writer.last_error().or(self.last_error).map(str::to_owned),
                drift: self.writer.drift(),
            },
            ..starting_status(self.origin)
        }
    }

    fn not_ready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if !self.running {
            reasons.push("the data path is not running".to_owned());
        }
        let ports = &self.world.node().ports;
        let missing = ports.iter().filter(|p| self.running && !self.attached.contains_key(&p.name));
        reasons.extend(missing.map(|p| format!("interface {}: the program is not attached", p.name)));
        let unchecked: Vec<String> = self.world.unchecked().collect();
        reasons.extend(unchecked.iter().take(NAMED).map(|b| format!("{b}: not checked yet")));
        if unchecked.len() > NAMED {
            reasons.push(format!("{} more backends not checked yet", unchecked.len() - NAMED));
        }
        reasons
    }

    fn interfaces(&self) -> Vec<InterfaceStatus> {
        let attachment = |name| self.attached.get(name).map(|(_, attachment)| attachment);
        let ports = self.world.node().ports.iter();
        ports
            .map(|p| InterfaceStatus {
                name: p.name.clone(),
                ifindex: p.ifindex,
                mac: mac_text(p.mac),
                xdp_mode: attachment(&p.name).map_or(DETACHED, |a| a.mode).to_owned(),
                not_native: attachment(&p.name).and_then(|a| a.refused.clone()),
                redirect_target: takes_redirects(self.world, self.attached, p),
            })
            .collect()
    }

    fn service(&self, spec: &ServiceSpec) -> ServiceStatus {
        let plan = self.writer.plan().services.get(&spec.key());
        let backends: Vec<_> = spec.backends.iter().map(|b| self.backend(spec, b, plan)).collect();
        let healthy = backends.iter().any(|b| b.health == HealthState::Healthy.name());
        let standing = plan.map_or(Standing::Empty, |p| p.standing);
        ServiceStatus {
            name: spec.name.clone(),
            id: plan.map(|p| p.id),
            vip: spec.vip,
            forwarding: forwarding(spec.forwarding).to_owned(),
            scheduler: spec.scheduler.name().to_owned(),
            standing: standing.name().to_owned(),
            priority: plan.and_then(|p| p.priority),
            fail_open: match standing {
                Standing::FailOpen | Standing::Draining => true,
                Standing::Unresolved => !healthy,
                Standing::Healthy | Standing::BelowFloor | Standing::Empty => false,
            },
            backends,
        }
    }

    fn backend(&self, service: &ServiceSpec, b: &BackendSpec, plan: Option<&ServicePlan>) -> BackendStatus {
        let id = plan.and_then(|p| p.backends.get(&service.backend_key(b)).copied());
        let parts = plan.and_then(|p| p.rising.get(&service.backend_key(b)).copied());
        let entry = id.and_then(|id| self.writer.plan().tables.backends.get(&id));
        let stands = |recipe: &Recipe| recipe.members.iter().any(|m| Some(m.id) == id);
        let (health, hop) = (self.world.health(service, b), self.world.hop(b.address.ip()));
        let health_name = health.map_or(HealthState::Starting, |h| h.state).name();
        let drain = self.world.drains().get(&service.backend_key(b));
        let drain_status = drain.map(|d| self.drain(d));
        let (since, why) = drain_status.as_ref().map_or_else(
            || {
                let since = health.map_or(self.origin.started.1, |h| self.origin.wall(h.since));
                (since, health.map(|h| h.why.clone()).unwrap_or_default())
            },
            |d| (d.ended.unwrap_or(d.since), why_drained(d)),
        );
        BackendStatus {
            name: b.name.clone(),
            address: b.address,
            id,
            generation: entry.map(|e| e.generation),
            weight: b.weight,
            slow_start: parts.map(|parts| parts * (100 / PARTS)),
            priority: b.priority,
            in_ring: plan.is_some_and(|p| stands(&p.recipe)),
            near: plan.and_then(|p| p.near.as_ref()).is_some_and(stands),
            zone: b.zone.clone(),
            state: drain.map_or(health_name, Drain::name).to_owned(),
            health: health_name.to_owned(),
            since,
            why,
            next_hop: hop.ok().map(|h| self.next_hop(&h)),
            unresolved: hop.err().map(str::to_owned),
            flows: None,
            waiting: None,
            new_flows: None,
            drain: drain_status,
        }
    }

    fn drain(&self, drain: &Drain) -> DrainStatus {
        let wall = |time| self.origin.wall(self.world.drains().instant(time));
        DrainStatus {
            since: wall(drain.since()),
            deadline: wall(drain.deadline()),
            ended: drain.end().map(|end| wall(end.at)),
            result: drain.end().map(|end| end.outcome.name().to_owned()),
            left_waiting: drain.end().and_then(|end| end.waiting),
            oldest_wait_ms: None,
        }
    }

    fn next_hop(&self, hop: &NextHop) -> NextHopStatus {
        let port = self.world.node().ports.iter().find(|p| p.ifindex == hop.ifindex);
        NextHopStatus {
            interface: port.map_or_else(|| hop.ifindex.to_string(), |p| p.name.clone()),
            mac: mac_text(hop.mac),
            vlans: vlan_ids(&hop.vlan),
        }
    }
}

fn why_drained(d: &DrainStatus) -> String {
    match (d.result.as_deref(), d.left_waiting) {
        (None, _) => "asked for".to_owned(),
        (Some("complete"), _) => "no flow waits for an answer".to_owned(),
        (Some(_), Some(waiting)) => format!("deadline; flows that waited for an answer: {waiting}"),
        (Some(_), None) => "deadline".to_owned(),
    }
}

const fn forwarding(f: Forwarding) -> &'static str {
    match f {
        Forwarding::Nat => "nat",
    }
}
