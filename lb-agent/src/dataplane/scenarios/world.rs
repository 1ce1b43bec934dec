//! The inputs of a plan as one value that is easy to write down and to change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::model::{
    BackendKey, BackendSpec, DrainSpec, Forwarding, HealthSpec, HealthState, NextHop, NodeFacts, PassiveSpec,
    Policy, PortFacts, ProbeKind, Scheduler, ServiceSpec,
};
use crate::plan::Inputs;
use lb_common::vlan::VlanTags;

/// Everything a plan depends on. Addresses that cannot be parsed are left out.
#[derive(Clone, Debug)]
pub struct World {
    /// The node.
    pub node: NodeFacts,
    /// The services.
    pub services: Vec<ServiceSpec>,
    /// The backends' states.
    pub health: BTreeMap<BackendKey, HealthState>,
    /// Backends that are drained.
    pub draining: BTreeSet<BackendKey>,
    /// Since when newcomers are usable.
    pub risen: BTreeMap<BackendKey, Duration>,
    /// The backends' next hops.
    pub hops: BTreeMap<IpAddr, NextHop>,
    /// The time.
    pub now: Duration,
    ifindexes: [u32; 2],
}

impl World {
    /// A node without services: two interfaces, 16 ports on one SNAT address of each family.
    #[must_use]
    pub fn new(ifindexes: [u32; 2]) -> Self {
        let node = NodeFacts {
            ports: Vec::new(),
            snat: Vec::new(),
            snat_ports: (1024, 1039),
            rest: Duration::from_secs(60),
            idle: Duration::from_secs(3600),
            announce: false,
            hash_key: 0x5eed,
            zone: None,
            reset_rate: 1000,
        };
        let world = Self {
            node,
            services: Vec::new(),
            health: BTreeMap::new(),
            draining: BTreeSet::new(),
            risen: BTreeMap::new(),
            hops: BTreeMap::new(),
            now: Duration::ZERO,
            ifindexes,
        };
        world.interfaces(&[0, 1]).snat(&["10.77.0.1/32", "fd77::1/128"])
    }

    /// As the plan takes it.
    #[must_use]
    pub const fn inputs(&self) -> Inputs<'_> {
        Inputs {
            node: &self.node,
            services: self.services.as_slice(),
            health: &self.health,
            draining: &self.draining,
            risen: &self.risen,
            hops: &self.hops,
            now: self.now,
        }
    }

    /// With one more service.
    #[must_use]
    pub fn service(mut self, name: &str, vip: &str, backends: &[&str]) -> Self {
        let Ok(vip) = vip.parse() else { return self };
        let health = HealthSpec {
            probe: ProbeKind::Tcp,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
            grace: Duration::from_secs(60),
            dead_after: Duration::from_secs(30),
            passive: PassiveSpec::default(),
        };
        self.services.push(ServiceSpec {
            name: name.into(),
            vip,
            forwarding: Forwarding::Nat,
            scheduler: Scheduler::Maglev,
            policy: Policy::default(),
            requests: true,
            health,
            drain: DrainSpec::default(),
            backends: Vec::new(),
        });
        backends.iter().fold(self, |world, backend| world.backend(name, backend))
    }

    /// With one more backend, healthy and resolved by the first interface.
    #[must_use]
    pub fn backend(mut self, service: &str, address: &str) -> Self {
        let Ok(address) = address.parse::<SocketAddr>() else { return self };
        for spec in self.services.iter_mut().filter(|s| s.name == service) {
            let backend = BackendSpec::new(address.to_string(), address);
            self.health.insert(spec.backend_key(&backend), HealthState::Healthy);
            spec.backends.push(backend);
        }
        let mac = [2, 0, 0, 0, 0, 7];
        self.hops
            .insert(address.ip(), NextHop { ifindex: self.ifindexes[0], mac, vlan: VlanTags::default() });
        self
    }

    /// With one service less.
    #[must_use]
    pub fn without_service(mut self, name: &str) -> Self {
        self.services.retain(|s| s.name != name);
        self
    }

    /// With one backend less.
    #[must_use]
    pub fn without_backend(mut self, service: &str, address: &str) -> Self {
        for spec in self.services.iter_mut().filter(|s| s.name == service) {
            spec.backends.retain(|b| b.name != address);
        }
        self
    }

    /// With a dead backend, in every service that has it.
    #[must_use]
    pub fn sick(self, address: &str) -> Self {
        self.state(address, HealthState::Dead)
    }

    /// With a backend in this state, in every service that has it.
    #[must_use]
    pub fn state(mut self, address: &str, state: HealthState) -> Self {
        let health = self.health.iter_mut().filter(|(key, _)| key.address.to_string() == address);
        health.for_each(|(_, old)| *old = state);
        self
    }

    /// With a backend that is drained, in every service that has it.
    #[must_use]
    pub fn draining(mut self, address: &str) -> Self {
        let keys = self.health.keys().filter(|key| key.address.to_string() == address);
        self.draining = keys.chain(&self.draining).copied().collect();
        self
    }

    /// With a newcomer that is usable since then, in every service that has it.
    #[must_use]
    pub fn risen(mut self, address: &str, since: Duration) -> Self {
        let keys = self.health.keys().filter(|key| key.address.to_string() == address);
        self.risen.extend(keys.map(|key| (*key, since)));
        self
    }

    /// At this time.
    #[must_use]
    pub const fn at(mut self, now: Duration) -> Self {
        self.now = now;
        self
    }

    /// Without the next hop of an address.
    #[must_use]
    pub fn unresolved(mut self, address: &str) -> Self {
        self.hops.retain(|ip, _| ip.to_string() != address);
        self
    }

    /// With this weight of a backend.
    #[must_use]
    pub fn weight(self, address: &str, weight: u16) -> Self {
        self.spec(address, |b| b.weight = weight)
    }

    /// With this priority of a backend.
    #[must_use]
    pub fn priority(self, address: &str, priority: u8) -> Self {
        self.spec(address, |b| b.priority = priority)
    }

    /// With a backend in this zone.
    #[must_use]
    pub fn zone(self, address: &str, zone: &str) -> Self {
        self.spec(address, |b| b.zone = Some(zone.to_owned()))
    }

    /// With the node in this zone.
    #[must_use]
    pub fn node_zone(mut self, zone: Option<&str>) -> Self {
        self.node.zone = zone.map(str::to_owned);
        self
    }

    /// With another policy of a service.
    #[must_use]
    pub fn policy(mut self, service: &str, change: impl Fn(&mut Policy)) -> Self {
        let services = self.services.iter_mut().filter(|s| s.name == service);
        services.for_each(|s| change(&mut s.policy));
        self
    }

    fn spec(mut self, address: &str, change: impl Fn(&mut BackendSpec)) -> Self {
        let backends = self.services.iter_mut().flat_map(|s| &mut s.backends);
        backends.filter(|b| b.name == address).for_each(change);
        self
    }

    /// With round robin for a service.
    #[must_use]
    pub fn round_robin(mut self, service: &str) -> Self {
        let services = self.services.iter_mut().filter(|s| s.name == service);
        services.for_each(|s| s.scheduler = Scheduler::RoundRobin);
        self
    }

    /// With VIPs that the data path answers for.
    #[must_use]
    pub const fn announced(mut self) -> Self {
        self.node.announce = true;
        self
    }

    /// With the program on these of the two interfaces.
    #[must_use]
    pub fn interfaces(mut self, which: &[usize]) -> Self {
        let ports = which.iter().filter_map(|&i| self.ifindexes.get(i)).map(|&ifindex| PortFacts {
            name: format!("port{ifindex}"),
            ifindex,
            mac: [2, 0, 0, 0, 1, 1],
            tx_by_redirect: false,
        });
        self.node.ports = ports.collect();
        self
    }

    /// With next hops by the interface at this place in the configuration.
    #[must_use]
    pub fn by_interface(mut self, place: usize) -> Self {
        if let Some(port) = self.node.ports.get(place) {
            self.hops.values_mut().for_each(|hop| hop.ifindex = port.ifindex);
        }
        self
    }

    /// With these SNAT addresses, at most [`super::BLOCKS`].
    #[must_use]
    pub fn snat(mut self, nets: &[&str]) -> Self {
        self.node.snat = nets.iter().filter_map(|net| net.parse().ok()).collect();
        self
    }
}
