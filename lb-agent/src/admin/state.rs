//! `/state`: what the maps should hold and what they hold, in words that can be compared.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use lb_common::backend::Backend;
use lb_common::flow::WAYS;
use lb_common::node::Node;
use lb_common::ring::Ring;
use lb_common::service::{Service, ServiceKey, VIP_ANNOUNCE, VipFlags};
use serde::Serialize;

use crate::dataplane::{RingKey, Tables};
use crate::status::{Status, mac_text};

/// The answer to `/state`.
#[derive(Debug, Serialize)]
pub struct StateView {
    /// As `/status`.
    pub status: Status,
    /// Whether `desired` and `actual` are the same.
    pub in_sync: bool,
    /// What the maps should hold.
    pub desired: TablesView,
    /// What they hold.
    pub actual: TablesView,
}

impl StateView {
    /// From the published values.
    #[must_use]
    pub fn new(status: Status, desired: &Tables, actual: &Tables) -> Self {
        Self { status, in_sync: desired == actual, desired: desired.into(), actual: actual.into() }
    }
}

/// [`Tables`] for readers.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct TablesView {
    /// Map `NODE`, without the secret.
    pub node: NodeView,
    /// Map `SNAT`: block → address.
    pub snat: BTreeMap<u32, IpAddr>,
    /// Map `VIPS`.
    pub vips: BTreeMap<IpAddr, VipView>,
    /// Maps `SERVICE_IDS` and `SERVICES`: service id → service.
    pub services: BTreeMap<u16, ServiceView>,
    /// Map `BACKENDS`: backend id → backend.
    pub backends: BTreeMap<u16, BackendView>,
    /// Map `RINGS`: service id → ring.
    pub rings: BTreeMap<u16, RingView>,
    /// Map `RINGS`: service id → ring of the near backends.
    pub near_rings: BTreeMap<u16, RingView>,
}

/// The node.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct NodeView {
    /// Interfaces: index and MAC.
    pub ports: Vec<PortView>,
    /// First SNAT port.
    pub first_port: u32,
    /// SNAT ports per address.
    pub ports_per_address: u32,
    /// Blocks of IPv4 and IPv6.
    pub blocks: (u32, u32),
    /// How long a closed slot rests, in seconds.
    pub rest_seconds: u64,
    /// Silence after which a flow may be reused, in seconds.
    pub idle_seconds: u64,
    /// RSTs of its own that a CPU may send in a second.
    pub reset_rate: u32,
}

/// An interface.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct PortView {
    /// Kernel index.
    pub ifindex: u32,
    /// Own MAC.
    pub mac: String,
    /// `PORT_*` bits.
    pub flags: u16,
}

/// A VIP.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct VipView {
    /// The data path answers ARP and NDP.
    pub announce: bool,
}

/// A service.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct ServiceView {
    /// What packets are addressed to.
    pub vip: SocketAddr,
    /// One of `SCHEDULER_*`.
    pub scheduler: u8,
    /// `SERVICE_*` bits.
    pub flags: u8,
    /// On how many other backends a failed SYN is tried.
    pub retries: u8,
    /// How much more work a near backend may have before a flow goes elsewhere, in units of 1/256.
    pub spill: u16,
    /// New packets find it.
    pub reachable: bool,
}

/// A backend.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct BackendView {
    /// Where it listens.
    pub address: SocketAddr,
    /// Rises each time the id is given away.
    pub generation: u16,
    /// Service id.
    pub service: u16,
    /// Weight.
    pub weight: u16,
    /// In use.
    pub live: bool,
    /// Next hop, if known: index in `ports`, MAC, tags.
    pub next_hop: Option<HopView>,
}

/// A next hop.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct HopView {
    /// Index in `ports`.
    pub port: u8,
    /// MAC.
    pub mac: String,
    /// VLAN ids, outermost first.
    pub vlans: Vec<u16>,
}

/// A ring, as what it is made of.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct RingView {
    /// Used slots.
    pub length: u32,
    /// Slots by backend id.
    pub slots: BTreeMap<u16, u32>,
    /// FNV-1a of the slots: equal rings have equal digests, on every node.
    pub digest: String,
}

impl From<&Tables> for TablesView {
    fn from(t: &Tables) -> Self {
        Self {
            node: (&t.node).into(),
            snat: t.snat.iter().map(|(&block, &a)| (block, a.into())).collect(),
            vips: t.vips.iter().map(|(&a, &flags)| (a.into(), vip(flags))).collect(),
            services: t.services.iter().map(|(&id, s)| (id, service(id, s, t))).collect(),
            backends: t.backends.iter().map(|(&id, b)| (id, b.into())).collect(),
            rings: rings(t, |key| matches!(key, RingKey::All(_))),
            near_rings: rings(t, |key| matches!(key, RingKey::Near(_))),
        }
    }
}

impl From<&Node> for NodeView {
    fn from(n: &Node) -> Self {
        let ports = n.ports.iter().take(n.port_count as usize);
        let seconds = |ticks: u32| lb_common::abi::ticks_to_millis(ticks).div_ceil(1000);
        Self {
            ports: ports
                .map(|p| PortView { ifindex: p.ifindex, mac: mac_text(p.mac), flags: p.flags })
                .collect(),
            first_port: n.port_base,
            ports_per_address: n.buckets.saturating_mul(u32::try_from(WAYS).unwrap_or(u32::MAX)),
            blocks: (n.v4_blocks, n.v6_blocks),
            rest_seconds: seconds(n.rest_ticks),
            idle_seconds: seconds(n.idle_ticks),
            reset_rate: n.reset_rate,
        }
    }
}

impl From<&Backend> for BackendView {
    fn from(b: &Backend) -> Self {
        let hop = || HopView { port: b.port_index, mac: mac_text(b.mac), vlans: vlan_ids(&b.vlan) };
        Self {
            address: SocketAddr::new(b.addr.into(), u16::from_be(b.port)),
            generation: b.generation,
            service: b.service,
            weight: b.weight,
            live: b.is_live(),
            next_hop: b.is_resolved().then(hop),
        }
    }
}

impl From<&Ring> for RingView {
    fn from(r: &Ring) -> Self {
        let used = if r.backends == 0 { &[][..] } else { r.slots.get(..r.length as usize).unwrap_or(&[]) };
        let mut slots = BTreeMap::new();
        let mut digest = 0xcbf2_9ce4_8422_2325u64;
        for &id in used {
            *slots.entry(id).or_insert(0) += 1;
            for byte in id.to_le_bytes() {
                digest = (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        Self { length: r.length, slots, digest: format!("{digest:016x}") }
    }
}

/// The VLAN ids of tags, outermost first.
#[must_use]
pub fn vlan_ids(tags: &lb_common::vlan::VlanTags) -> Vec<u16> {
    tags.tci.iter().take(usize::from(tags.count)).map(|tci| u16::from_be(*tci) & 0x0fff).collect()
}

fn rings(t: &Tables, which: fn(&RingKey) -> bool) -> BTreeMap<u16, RingView> {
    let chosen = t.rings.iter().filter(|(key, _)| which(key));
    chosen.map(|(key, ring)| (key.service(), RingView::from(&**ring))).collect()
}

fn service(id: u16, s: &Service, t: &Tables) -> ServiceView {
    let key = ServiceKey { vip: s.vip, port: s.port, protocol: s.protocol, reserved: [0; 5] };
    ServiceView {
        vip: SocketAddr::new(s.vip.into(), u16::from_be(s.port)),
        scheduler: s.scheduler,
        flags: s.flags,
        retries: s.retries,
        spill: s.spill,
        reachable: t.service_ids.get(&key) == Some(&id),
    }
}

const fn vip(flags: VipFlags) -> VipView {
    VipView { announce: flags & VIP_ANNOUNCE != 0 }
}
