//! The data path in the agent's own words.
//!
//! Desired and actual state are both [`Tables`]; the difference is a list of [`Op`]s; an implementation of
//! [`Dataplane`] reads the one and applies the other.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use lb_common::addr::Addr;
use lb_common::backend::Backend;
use lb_common::node::Node;
use lb_common::ring::Ring;
use lb_common::service::{Service, ServiceKey, VipFlags};

pub mod counters;

pub use counters::{Counters, SlotCensus};

/// Everything the agent writes to the kernel, as a value. Unused entries are absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// Map `NODE`.
    pub node: Node,
    /// Map `SNAT`: the address of each block.
    pub snat: BTreeMap<u32, Addr>,
    /// Map `BACKENDS`. A removed backend's entry stays here without the live flag, for its generation.
    pub backends: BTreeMap<u16, Backend>,
    /// Map `RINGS`, by service id.
    pub rings: BTreeMap<u16, Arc<Ring>>,
    /// Map `SERVICES`, by id.
    pub services: BTreeMap<u16, Service>,
    /// Map `VIPS`.
    pub vips: BTreeMap<Addr, VipFlags>,
    /// Map `SERVICE_IDS`: what a packet is looked up in. An entry here is what makes a service real.
    pub service_ids: BTreeMap<ServiceKey, u16>,
}

/// One write. Each is atomic in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Replace the node's configuration (and, in the kernel, the redirect map that goes with its ports).
    SetNode(Box<Node>),
    /// The address of a block.
    SetSnat(u32, Addr),
    /// Write a backend, also to take its live flag. A new generation resets its load counters.
    SetBackend(u16, Backend),
    /// Build an inner map and swap it in.
    SetRing(u16, Arc<Ring>),
    /// Take a service's ring away.
    RemoveRing(u16),
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
}
