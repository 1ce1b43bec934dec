//! What the agent says of itself: the value behind `/status`, `lb-agent status` and the metrics' labels.
#![forbid(unsafe_code)]

pub mod drain;
pub mod reload;
pub mod render;
mod rfc3339;
#[cfg(test)]
pub(crate) mod testing;

use std::net::SocketAddr;
use std::time::SystemTime;

use lb_common::abi::ticks_to_millis;
use lb_common::stats::BackendLoad;
use serde::{Deserialize, Serialize};

use crate::dataplane::{Counters, SlotCensus};
use crate::drain::Drain;
use crate::flows::{BackendFlows, FlowSummary};
use crate::model::HealthState;
use crate::plan::Standing;
use drain::DrainStatus;
use lb_common::flow::State;
use reload::RefusedReload;

/// Everything at one moment. Numbers that the data path counts are filled in by [`Status::fill`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the agent.
    pub version: String,
    /// When the agent started.
    #[serde(with = "rfc3339")]
    pub started: SystemTime,
    /// Path of the configuration file in use.
    pub config: String,
    /// When it was read.
    #[serde(with = "rfc3339")]
    pub config_loaded: SystemTime,
    /// The last reload, when it was refused; absent otherwise.
    pub config_refused: Option<RefusedReload>,
    /// Empty once the program is attached and every backend was checked; the reasons why not before that.
    pub not_ready: Vec<String>,
    /// Where the node is, if the configuration says.
    pub zone: Option<String>,
    /// Where the program is attached.
    pub interfaces: Vec<InterfaceStatus>,
    /// In the order of the configuration.
    pub services: Vec<ServiceStatus>,
    /// Use of the flow table; absent when it could not be read.
    pub flow_table: Option<FlowTableStatus>,
    /// How writing to the kernel goes.
    pub dataplane: DataplaneStatus,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Name.
    pub name: String,
    /// Kernel index.
    pub ifindex: u32,
    /// Own MAC.
    pub mac: String,
    /// `native`, `generic`, or `detached`.
    pub xdp_mode: String,
    /// Why it is not native, when that was tried.
    pub not_native: Option<String>,
    /// Whether frames that are redirected to it arrive; absent when none are, or the kernel does not say.
    pub redirect_target: Option<bool>,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Name.
    pub name: String,
    /// Id in the kernel's maps; absent until it has one.
    pub id: Option<u16>,
    /// What clients connect to.
    pub vip: SocketAddr,
    /// `nat`.
    pub forwarding: String,
    /// `least-waiting`, `least-conn`, `maglev`, `round-robin`.
    pub scheduler: String,
    /// Which backends get new flows: `healthy` ones, suspect ones as well (`below-floor`), all but draining ones (`fail-open`), draining ones because there
    /// are no others (`draining`), or none because no next hop is known (`unresolved`) or there is no backend (`empty`).
    pub standing: String,
    /// The priority number of the backends that get new flows; absent while no backend is usable.
    pub priority: Option<u8>,
    /// No backend is both healthy and not draining, and new flows go to those that there are.
    pub fail_open: bool,
    /// In the order of the configuration.
    pub backends: Vec<BackendStatus>,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Name.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Id in the kernel's maps; absent until it has one.
    pub id: Option<u16>,
    /// Generation of that id.
    pub generation: Option<u16>,
    /// Configured weight.
    pub weight: u16,
    /// How much of its weight counts, in percent, while its share of new flows grows; absent otherwise.
    pub slow_start: Option<u8>,
    /// Configured priority number; those of the lowest that is usable get new flows.
    pub priority: u8,
    /// Whether it gets new flows.
    pub in_ring: bool,
    /// Whether it gets them rather than others, because it is in the node's zone.
    pub near: bool,
    /// Where it is, if the configuration says.
    pub zone: Option<String>,
    /// `draining` or `drained`; when it is neither, its health.
    pub state: String,
    /// `starting`, `healthy`, `suspect`, `dead`: what the checks say, drained or not.
    pub health: String,
    /// Since when.
    #[serde(with = "rfc3339")]
    pub since: SystemTime,
    /// Why it is in that state.
    pub why: String,
    /// How it is reached; absent while that is not known.
    pub next_hop: Option<NextHopStatus>,
    /// Why that is not known.
    pub unresolved: Option<String>,
    /// Open flows, unfinished handshakes included; absent when they could not be read.
    pub flows: Option<u64>,
    /// Of these, those that wait for an answer.
    pub waiting: Option<u64>,
    /// Flows it was given since the agent started.
    pub new_flows: Option<u64>,
    /// Its drain; absent when it is not drained.
    pub drain: Option<DrainStatus>,
}

/// A backend's next hop on layer 2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHopStatus {
    /// Name of the interface, or its index when it is not one of ours.
    pub interface: String,
    /// MAC of the backend or of its gateway.
    pub mac: String,
    /// VLAN ids, outermost first.
    pub vlans: Vec<u16>,
}

/// Use of the flow table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowTableStatus {
    /// Slots.
    pub capacity: u64,
    /// Slots that were never used.
    pub free: u64,
    /// Unfinished handshakes.
    pub embryonic: u64,
    /// Established flows.
    pub established: u64,
    /// Closed flows, whose slots are free to be taken.
    pub closed: u64,
}

/// How writing to the kernel goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataplaneStatus {
    /// Something that was decided is not in the kernel yet.
    pub pending: bool,
    /// Failed operations since the start.
    pub errors: u64,
    /// The last of them; kept after it was mended, for whoever looks later.
    pub last_error: Option<String>,
    /// Map entries that were found changed by someone else.
    pub drift: u64,
}

impl Status {
    /// Whether the node may be given traffic.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        self.not_ready.is_empty()
    }

    /// Backends whose next hop is not known.
    #[must_use]
    pub fn unresolved(&self) -> usize {
        self.services.iter().flat_map(|s| &s.backends).filter(|b| b.next_hop.is_none()).count()
    }

    /// Whether some backend is draining or drained.
    #[must_use]
    pub fn is_any_drained(&self) -> bool {
        self.services.iter().flat_map(|s| &s.backends).any(|b| b.drain.is_some())
    }

    /// Adds how long flows of drained backends wait. The scan may be a moment older than the rest.
    pub fn fill_waits(&mut self, flows: &FlowSummary) {
        for b in self.services.iter_mut().flat_map(|s| &mut s.backends) {
            let (Some(drain), Some(id), Some(generation)) = (&mut b.drain, b.id, b.generation) else {
                continue;
            };
            let waits = |flows: &&BackendFlows| flows.waiting > 0 && b.waiting != Some(0);
            let waiting = flows.backend(id, generation).filter(waits);
            drain.oldest_wait_ms = waiting.map(|flows| ticks_to_millis(flows.oldest_waiting));
        }
    }

    /// Adds what the data path counts at this moment. What cannot be read stays absent.
    ///
    /// `new_flows` gives a backend's total by service and name.
    pub fn fill(&mut self, counters: &dyn Counters, new_flows: impl Fn(&str, &str) -> Option<u64>) {
        self.flow_table = counters.census().ok().map(|c| FlowTableStatus::from(&c));
        for service in &mut self.services {
            for b in &mut service.backends {
                let load: Option<BackendLoad> = b.id.and_then(|id| counters.load(id).ok());
                b.flows = load.map(|l| l.flows);
                b.waiting = load.map(|l| l.waiting);
                b.new_flows = new_flows(&service.name, &b.name);
            }
        }
    }
}

/// Every value of [`BackendStatus::state`].
pub fn backend_states() -> impl Iterator<Item = &'static str> {
    HealthState::ALL.into_iter().map(HealthState::name).chain(Drain::NAMES)
}

impl ServiceStatus {
    /// Whether suspect backends get new flows, because too few others are usable.
    #[must_use]
    pub fn is_below_floor(&self) -> bool {
        self.standing == Standing::BelowFloor.name()
    }

    /// Whether this backend could have new flows, and gets them only when others are not usable any more.
    #[must_use]
    pub fn is_standby(&self, backend: &BackendStatus) -> bool {
        let behind = self.priority.is_some_and(|serving| backend.priority > serving);
        behind && backend.state == HealthState::Healthy.name()
    }

    /// How many backends are in this state.
    #[must_use]
    pub fn in_state(&self, state: &str) -> usize {
        self.backends.iter().filter(|b| b.state == state).count()
    }
}

impl From<&SlotCensus> for FlowTableStatus {
    fn from(c: &SlotCensus) -> Self {
        Self {
            capacity: c.capacity(),
            free: c.count(State::Free),
            embryonic: c.count(State::Claiming) + c.count(State::Syn) + c.count(State::Answered),
            established: c.count(State::Established),
            closed: c.count(State::Closed),
        }
    }
}

/// A MAC address as people write it.
#[must_use]
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}
