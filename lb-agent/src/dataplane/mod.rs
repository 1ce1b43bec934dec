//! The data path in the agent's own words.
//!
//! Desired and actual state are both [`Tables`]; the difference is a list of [`Op`]s; an implementation of
//! [`Dataplane`] reads the one and applies the other.
#![deny(unsafe_code)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use lb_common::addr::Addr;
use lb_common::backend::Backend;
use lb_common::node::Node;
use lb_common::ring::Ring;
use lb_common::service::{Service, ServiceKey, VipFlags};

pub mod counters;
#[expect(unsafe_code, reason = "the boundary to the kernel")]
pub mod ebpf;
pub mod fake;
pub mod faulty;
pub mod invariant;
mod ring_key;
pub mod scenarios;

pub use counters::{Counters, ReasonCounts, SlotCensus};
pub use ring_key::RingKey;

/// Everything the agent writes to the kernel, as a value. Unused entries are absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// Map `NODE`.
    pub node: Node,
    /// Map `SNAT`: the address of each block.
    pub snat: BTreeMap<u32, Addr>,
    /// Map `BACKENDS`. A removed backend's entry stays here without the live flag, for its generation.
    pub backends: BTreeMap<u16, Backend>,
    /// Map `RINGS`.
    pub rings: BTreeMap<RingKey, Arc<Ring>>,
    /// Map `SERVICES`, by id.
    pub services: BTreeMap<u16, Service>,
    /// Map `VIPS`.
    pub vips: BTreeMap<Addr, VipFlags>,
    /// Map `SERVICE_IDS`: what a packet is looked up in. An entry here is what makes a service real.
    pub service_ids: BTreeMap<ServiceKey, u16>,
}

impl Default for Tables {
    /// Maps that nothing was written to.
    fn default() -> Self {
        Self {
            node: Node::EMPTY,
            snat: BTreeMap::new(),
            backends: BTreeMap::new(),
            rings: BTreeMap::new(),
            services: BTreeMap::new(),
            vips: BTreeMap::new(),
            service_ids: BTreeMap::new(),
        }
    }
}

/// One write. Each is atomic in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Replace the node's configuration (and, in the kernel, the redirect map that goes with its ports).
    SetNode(Box<Node>),
    /// The address of a block; [`Addr::UNSPECIFIED`] clears it.
    SetSnat(u32, Addr),
    /// Write a backend, also to take its live flag. A new generation resets its load counters.
    SetBackend(u16, Backend),
    /// Build an inner map and swap it in.
    SetRing(RingKey, Arc<Ring>),
    /// Take a ring away.
    RemoveRing(RingKey),
    /// Write a service.
    SetService(u16, Service),
    /// Clear a service's entry.
    RemoveService(u16),
    /// Add or change a VIP address.
    SetVip(Addr, VipFlags),
    /// Remove a VIP address.
    RemoveVip(Addr),
    /// Make a service real.
    SetServiceId(ServiceKey, u16),
    /// Make a service unknown to new packets.
    RemoveServiceId(ServiceKey),
}

impl Tables {
    /// What the tables are after a write.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::SetNode(node) => self.node = **node,
            Op::SetSnat(block, Addr::UNSPECIFIED) => drop(self.snat.remove(block)),
            Op::SetSnat(block, address) => drop(self.snat.insert(*block, *address)),
            Op::SetBackend(id, Backend::EMPTY) => drop(self.backends.remove(id)),
            Op::SetBackend(id, backend) => drop(self.backends.insert(*id, *backend)),
            Op::SetRing(key, ring) => drop(self.rings.insert(*key, Arc::clone(ring))),
            Op::RemoveRing(key) => drop(self.rings.remove(key)),
            Op::SetService(id, service) => drop(self.services.insert(*id, *service)),
            Op::RemoveService(id) => drop(self.services.remove(id)),
            Op::SetVip(address, flags) => drop(self.vips.insert(*address, *flags)),
            Op::RemoveVip(address) => drop(self.vips.remove(address)),
            Op::SetServiceId(key, id) => drop(self.service_ids.insert(*key, *id)),
            Op::RemoveServiceId(key) => drop(self.service_ids.remove(key)),
        }
    }
}

/// What is wrong with a read or a write.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct DataplaneError {
    /// Which map and key, and what was tried.
    pub what: String,
    /// What the kernel said.
    #[source]
    pub source: anyhow::Error,
}

/// The maps, or something that behaves like them.
pub trait Dataplane {
    /// Reads everything back.
    ///
    /// # Errors
    /// When a map cannot be read.
    fn read(&self) -> Result<Tables, DataplaneError>;

    /// Carries out one write. When it fails, nothing of it was done.
    ///
    /// # Errors
    /// When the kernel refuses the write.
    fn apply(&mut self, op: &Op) -> Result<(), DataplaneError>;

    /// Carries out writes as if one after the other. Those on different rings may be under way at the
    /// same time, when one follows the other: each of them waits for the kernel.
    ///
    /// # Errors
    /// The first that fails. What was carried out by then stands; nothing after it is begun, except for rings.
    fn apply_all(&mut self, ops: &[Op]) -> Result<(), DataplaneError> {
        ops.iter().try_for_each(|op| self.apply(op))
    }
}

impl<T: Dataplane + ?Sized> Dataplane for &mut T {
    fn read(&self) -> Result<Tables, DataplaneError> {
        (**self).read()
    }

    fn apply(&mut self, op: &Op) -> Result<(), DataplaneError> {
        (**self).apply(op)
    }

    fn apply_all(&mut self, ops: &[Op]) -> Result<(), DataplaneError> {
        (**self).apply_all(ops)
    }
}

/// Reads the tables and brings them to `desired`. Returns the number of writes.
///
/// After an error everything that was written stands, nothing is left half done, and the next call goes on from there.
///
/// # Errors
/// The first read or write that fails.
pub fn converge(dataplane: &mut dyn Dataplane, desired: &Tables) -> Result<usize, DataplaneError> {
    let ops = crate::reconcile::reconcile(&dataplane.read()?, desired);
    dataplane.apply_all(&ops)?;
    Ok(ops.len())
}

/// A write in a few words, for errors and logs.
#[must_use]
pub fn describe(op: &Op) -> String {
    let socket = |key: &ServiceKey| SocketAddr::new(key.vip.into(), u16::from_be(key.port));
    match op {
        Op::SetNode(_) => "map NODE: write".into(),
        Op::SetSnat(block, address) => format!("map SNAT, block {block}: write {address}"),
        Op::SetBackend(id, backend) if backend.is_live() => {
            let address = SocketAddr::new(backend.addr.into(), u16::from_be(backend.port));
            let dead = if backend.is_dead() { ", dead" } else { "" };
            format!("map BACKENDS, id {id}: write {address}, generation {}{dead}", backend.generation)
        }
        Op::SetBackend(id, _) => format!("map BACKENDS, id {id}: take the live flag"),
        Op::SetRing(key, ring) => format!("map RINGS, {key}: write ring of {}", ring.backends),
        Op::RemoveRing(key) => format!("map RINGS, {key}: remove"),
        Op::SetService(id, service) => format!("map SERVICES, id {id}: write {}", service.vip),
        Op::RemoveService(id) => format!("map SERVICES, id {id}: clear"),
        Op::SetVip(vip, flags) => format!("map VIPS, {vip}: write flags {flags}"),
        Op::RemoveVip(vip) => format!("map VIPS, {vip}: remove"),
        Op::SetServiceId(key, id) => format!("map SERVICE_IDS, {}: write id {id}", socket(key)),
        Op::RemoveServiceId(key) => format!("map SERVICE_IDS, {}: remove", socket(key)),
    }
}
