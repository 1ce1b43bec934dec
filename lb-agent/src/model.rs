//! What the operator asked for and what is known of the world, in plain values.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lb_common::service::{MAX_RETRIES, SPILL_ONE, ServiceKey};
use lb_common::vlan::VlanTags;

mod passive;

pub use passive::PassiveSpec;

/// How a packet reaches its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// Full NAT: the backend sees a SNAT address of this node, and answers to it.
    Nat,
}

/// How a new flow's backend is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    /// The ring entry at the flow's hash.
    Maglev,
    /// Backends in turn, by weight.
    RoundRobin,
    /// Of two ring entries the one with fewer live flows per weight.
    LeastConn,
    /// Of two ring entries the one with fewer waiting flows per weight; with as many, as `LeastConn`.
    LeastWaiting,
}

impl Scheduler {
    /// As in the file and in the status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Maglev => "maglev",
            Self::RoundRobin => "round-robin",
            Self::LeastConn => "least-conn",
            Self::LeastWaiting => "least-waiting",
        }
    }
}

/// What a service's new flows go by, besides the scheduler. By default as the configuration file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// On how many other backends a SYN is tried that one refused or did not answer, 0 to [`MAX_RETRIES`].
    pub retries: u8,
    /// Below this share of the weight of all backends of a priority, in percent, suspect ones get new flows too. 0: never.
    pub min_healthy: u8,
    /// How long it takes until a newcomer has its whole weight. 0: it has it at once.
    pub slow_start: Duration,
    /// Whether new flows stay in the node's zone; no part of round robin, which asks nobody's load.
    pub prefer_zone: bool,
    /// How much more waiting work per weight a backend in the zone may have than another one before a flow leaves the
    /// zone, in units of 1/256 ([`SPILL_ONE`]), from 1.0 to 100.
    pub zone_spill: u16,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            retries: MAX_RETRIES,
            min_healthy: 0,
            slow_start: Duration::ZERO,
            prefer_zone: true,
            zone_spill: 2 * SPILL_ONE,
        }
    }
}

/// One `[[service]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Unique; a metric label.
    pub name: String,
    /// What clients connect to.
    pub vip: SocketAddr,
    /// How packets travel.
    pub forwarding: Forwarding,
    /// How backends are chosen.
    pub scheduler: Scheduler,
    /// What else new flows go by.
    pub policy: Policy,
    /// Whether requests and responses alternate (`requests = true`).
    pub requests: bool,
    /// How backends are checked.
    pub health: HealthSpec,
    /// When a backend that is drained may be stopped.
    pub drain: DrainSpec,
    /// In the order of the file; the order has no meaning.
    pub backends: Vec<BackendSpec>,
}

impl ServiceSpec {
    /// What a packet of this service is looked up by.
    #[must_use]
    pub fn key(&self) -> ServiceKey {
        ServiceKey::tcp(self.vip.ip().into(), self.vip.port().to_be())
    }

    /// The identity of one of its backends.
    #[must_use]
    pub fn backend_key(&self, backend: &BackendSpec) -> BackendKey {
        BackendKey { service: self.key(), address: backend.address }
    }
}

/// One `[[service.backend]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSpec {
    /// Unique within the service; a metric label.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Relative share, 1 to 65,535. 100 by default.
    pub weight: u16,
    /// Backends of a higher number get new flows only while no backend of a lower one is usable. 0 by default.
    pub priority: u8,
    /// Where it is, for [`Policy::prefer_zone`]; any name.
    pub zone: Option<String>,
}

impl BackendSpec {
    /// `weight` of a backend that does not say.
    pub const WEIGHT: u16 = 100;

    /// A backend with the defaults of the configuration file.
    #[must_use]
    pub const fn new(name: String, address: SocketAddr) -> Self {
        Self { name, address, weight: Self::WEIGHT, priority: 0, zone: None }
    }
}

/// `[service.health]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthSpec {
    /// What is done to check a backend.
    pub probe: ProbeKind,
    /// From the start of one check to the start of the next.
    pub interval: Duration,
    /// For the whole check, the connection included.
    pub timeout: Duration,
    /// Good checks in a row that make a backend healthy.
    pub rise: u32,
    /// Bad checks in a row that make it suspect or dead.
    pub fall: u32,
    /// How long a new backend may fail before it counts.
    pub grace: Duration,
    /// How long connecting must time out before a suspect backend is dead.
    pub dead_after: Duration,
    /// What counts against a backend besides checks.
    pub passive: PassiveSpec,
}

/// `drain_idle` and `drain_deadline` of a service, or what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainSpec {
    /// How long no data may have passed for a drain to be complete.
    pub idle: Duration,
    /// From the beginning of a drain to its end at the latest.
    pub deadline: Duration,
}

/// The shortest and the longest deadline of a drain.
pub const DEADLINES: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(86_400);

impl Default for DrainSpec {
    /// As in a file that does not say.
    fn default() -> Self {
        Self { idle: Duration::from_secs(5), deadline: Duration::from_secs(600) }
    }
}

/// What a check does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// `GET path`; status and optional body must match.
    Http {
        /// Path and query.
        path: String,
        /// `Host` header; the backend's address by default.
        host: Option<String>,
        /// Further headers.
        headers: Vec<Header>,
        /// Inclusive range of status codes that are good.
        status: (u16, u16),
        /// Must occur in the first 64 KiB of the body.
        body: Option<String>,
    },
    /// Connect and close.
    Tcp,
}

/// A header of a check's request.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    /// In lower case; each occurs once.
    pub name: String,
    /// May be a secret.
    pub value: String,
}

impl std::fmt::Debug for Header {
    /// Without the value.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Header").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Identity of a backend: what stays the same when names and order change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendKey {
    /// The service that it serves.
    pub service: ServiceKey,
    /// Where it listens.
    pub address: SocketAddr,
}

/// What the checks say of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HealthState {
    /// Not checked often enough to know.
    Starting,
    /// Gets new flows.
    Healthy,
    /// Slow or wrong: keeps its flows, gets no new ones.
    Suspect,
    /// Refused or unreachable: gets no new flows; its old ones are lost.
    Dead,
}

impl HealthState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Starting, Self::Healthy, Self::Suspect, Self::Dead];

    /// Label in metrics and status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Suspect => "suspect",
            Self::Dead => "dead",
        }
    }
}

/// How to reach an address on layer 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Interface that the program is attached to (the parent of a VLAN device).
    pub ifindex: u32,
    /// MAC of the host or of its gateway.
    pub mac: [u8; 6],
    /// Tags that must be on the frame.
    pub vlan: VlanTags,
}

/// An interface that the program is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortFacts {
    /// Name.
    pub name: String,
    /// Kernel index.
    pub ifindex: u32,
    /// Own MAC.
    pub mac: [u8; 6],
    /// See [`lb_common::node::PORT_TX_BY_REDIRECT`].
    pub tx_by_redirect: bool,
}

/// The node as the plan needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// At most [`lb_common::node::MAX_PORTS`].
    pub ports: Vec<PortFacts>,
    /// `nat.addresses`, hosts as full-length prefixes; at most [`lb_common::node::MAX_SNAT_RANGES`].
    pub snat: Vec<ipnet::IpNet>,
    /// First and last SNAT port, inclusive.
    pub snat_ports: (u16, u16),
    /// `nat.rest`.
    pub rest: Duration,
    /// `nat.idle_timeout`.
    pub idle: Duration,
    /// Whether the data path answers ARP and NDP for the VIPs (`agent.announce = "arp"`).
    pub announce: bool,
    /// Secret of the flow table's hash; read back from the kernel while the maps live.
    pub hash_key: u64,
    /// `agent.zone`: where this node is.
    pub zone: Option<String>,
    /// `agent.reset_rate`: RSTs of its own that a CPU may send in a second.
    pub reset_rate: u32,
}

/// The family of an address, for messages.
#[must_use]
pub const fn family(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    }
}
