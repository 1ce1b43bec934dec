//! What the balancer of a data-path test is configured with, as inputs of the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use lb_agent::model::{
    BackendKey, BackendSpec, DrainSpec, Forwarding, HealthSpec, HealthState, NextHop, NodeFacts, PassiveSpec,
    Policy, PortFacts, ProbeKind, Scheduler, ServiceSpec,
};
use lb_agent::plan::Inputs;
use lb_common::vlan::VlanTags;

use crate::packet::world::{BACKENDS, Endpoint, Family, LB_MAC, Mac, SNAT, VIP};

/// Interface that frames of a test come in by: loopback, which is there on every machine.
pub const FRONT: u32 = 1;

/// All that a plan depends on.
#[derive(Clone, Debug)]
pub struct World {
    /// The node.
    pub node: NodeFacts,
    /// The services; see [`service`].
    pub services: Vec<ServiceSpec>,
    /// What the checks say.
    pub health: BTreeMap<BackendKey, HealthState>,
    /// Backends that are drained.
    pub draining: BTreeSet<BackendKey>,
    /// Since when newcomers are usable.
    pub risen: BTreeMap<BackendKey, Duration>,
    /// Next hops; an address that is absent is unresolved.
    pub hops: BTreeMap<IpAddr, NextHop>,
    /// The time.
    pub now: Duration,
}

impl Default for World {
    /// [`VIP`] of both families over [`BACKENDS`], all healthy and on the interface that clients come by; [`SNAT`]
    /// with 512 ports.
    fn default() -> Self {
        let mut world = Self::empty();
        for family in Family::BOTH {
            world.add_service(service(family, VIP, &BACKENDS));
        }
        for backend in BACKENDS {
            world.add_hop(backend, FRONT, &[]);
        }
        world
    }
}

impl World {
    /// A node without services, with one interface.
    #[must_use]
    pub fn empty() -> Self {
        let node = NodeFacts {
            ports: Vec::new(),
            snat: Family::BOTH.map(|family| SNAT.ip(family).into()).to_vec(),
            snat_ports: (1024, 1535),
            rest: Duration::from_secs(60),
            idle: Duration::from_secs(3600),
            announce: false,
            hash_key: 0x5eed_5eed_5eed_5eed,
            zone: None,
            reset_rate: 1000,
        };
        let mut world = Self {
            node,
            services: Vec::new(),
            health: BTreeMap::new(),
            draining: BTreeSet::new(),
            risen: BTreeMap::new(),
            hops: BTreeMap::new(),
            now: Duration::ZERO,
        };
        world.add_port(FRONT, LB_MAC);
        world
    }

    /// Adds an interface, which must exist. Frames do not come in by it, but may leave by it.
    pub fn add_port(&mut self, ifindex: u32, mac: Mac) {
        self.node.ports.push(PortFacts {
            name: format!("port {ifindex}"),
            ifindex,
            mac,
            tx_by_redirect: false,
        });
    }

    /// As the plan takes it.
    #[must_use]
    pub fn inputs(&self) -> Inputs<'_> {
        Inputs {
            node: &self.node,
            services: &self.services,
            health: &self.health,
            draining: &self.draining,
            risen: &self.risen,
            hops: &self.hops,
            now: self.now,
        }
    }

    /// Adds a service whose backends are all healthy.
    pub fn add_service(&mut self, service: ServiceSpec) {
        for backend in &service.backends {
            self.health.insert(service.backend_key(backend), HealthState::Healthy);
        }
        self.services.push(service);
    }

    /// Makes a backend reachable by an interface, behind these 802.1Q tags from the outside in.
    pub fn add_hop(&mut self, backend: Endpoint, ifindex: u32, vlans: &[u16]) {
        let mut vlan = VlanTags { count: u8::try_from(vlans.len()).unwrap_or(2), ..VlanTags::default() };
        for (tci, id) in vlan.tci.iter_mut().zip(vlans) {
            *tci = id.to_be();
        }
        for family in Family::BOTH {
            self.hops.insert(backend.ip(family), NextHop { ifindex, mac: backend.mac, vlan });
        }
    }
}

/// A service with the defaults of the configuration file.
#[must_use]
pub fn service(family: Family, vip: Endpoint, backends: &[Endpoint]) -> ServiceSpec {
    let backends = backends.iter().map(|backend| {
        let address = backend.socket(family);
        BackendSpec::new(address.to_string(), address)
    });
    ServiceSpec {
        name: vip.socket(family).to_string(),
        vip: vip.socket(family),
        forwarding: Forwarding::Nat,
        scheduler: Scheduler::Maglev,
        policy: Policy::default(),
        requests: true,
        health: HealthSpec {
            probe: ProbeKind::Tcp,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
            grace: Duration::from_secs(60),
            dead_after: Duration::from_secs(30),
            passive: PassiveSpec::default(),
        },
        drain: DrainSpec::default(),
        backends: backends.collect(),
    }
}
