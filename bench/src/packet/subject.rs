//! The programs that are measured, and how each comes to its state.

use std::sync::Arc;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::EbpfLoader;
use aya::maps::{Array, HashMap};
use aya::programs::{ProgramFd, ProgramInfo};
use lb_agent::config::XdpMode;
use lb_agent::dataplane::ebpf::{EbpfDataplane, FlowTable, LoadOptions};
use lb_agent::dataplane::{RingKey, Tables, converge};
use lb_common::addr::Addr;
use lb_common::backend::Backend;

use super::part::Part;
use super::stage::{LOOPBACK, Stage};
use super::{PRODUCT, REFERENCE, wrapper};
use crate::abi::{RefNode, RefRing, RefService};
use crate::machine;

/// A program that is measured.
pub(super) struct Subject {
    /// Name in rows.
    pub(super) name: String,
    kind: Kind,
    /// What the product does without.
    pub(super) left_out: Option<Part>,
    /// How many flows have been made that must not come again: what is pinned outlives a stage.
    spent: u64,
}

enum Kind {
    Nothing,
    Product,
    Reference(Vec<u8>),
    Pinned(String),
}

/// A program in a state. Everything is gone from the kernel when it is dropped.
pub(super) struct Loaded {
    /// The program; `None` to measure what the wrapper costs.
    pub(super) program: Option<ProgramFd>,
    maps: Maps,
}

/// Holds what must live as long as the program.
enum Maps {
    Product(Box<EbpfDataplane>),
    Reference(#[expect(dead_code, reason = "held, not read")] Box<Ebpf>),
    None,
}

impl Loaded {
    /// The product's flow table.
    pub(super) fn flows(&self) -> Option<Arc<FlowTable>> {
        let Maps::Product(dataplane) = &self.maps else { return None };
        Some(dataplane.flows())
    }
}

impl Subject {
    /// No program: what is measured then is the wrapper.
    pub(super) fn nothing() -> Self {
        Self::new("wrapper", Kind::Nothing)
    }

    /// Evenkeel.
    pub(super) fn product() -> Self {
        Self::new(PRODUCT, Kind::Product)
    }

    /// Evenkeel without a part.
    pub(super) fn without(part: Part) -> Self {
        let name = format!("{PRODUCT}, {}", part.without());
        Self { left_out: Some(part), ..Self::new(&name, Kind::Product) }
    }

    /// The hash-table balancer.
    pub(super) fn reference() -> Result<Self> {
        Ok(Self::new(REFERENCE, Kind::Reference(machine::object("bench-ref.o")?)))
    }

    /// Whatever is pinned at a path.
    pub(super) fn pinned(name: &str, path: &str) -> Self {
        Self::new(name, Kind::Pinned(path.into()))
    }

    fn new(name: &str, kind: Kind) -> Self {
        Self { name: name.into(), kind, left_out: None, spent: 0 }
    }

    /// Whether it must do with each frame what the product does; a pinned program may differ.
    pub(super) const fn is_ours(&self) -> bool {
        matches!(self.kind, Kind::Product | Kind::Reference(_))
    }

    /// Takes numbers of flows that were never used; gives the first.
    pub(super) fn spend(&mut self, flows: u32) -> u64 {
        let first = self.spent;
        self.spent += u64::from(flows);
        first
    }

    /// The program with empty tables.
    pub(super) fn load(&self, stage: &Stage, tables: &Tables) -> Result<Loaded> {
        match &self.kind {
            Kind::Nothing => Ok(Loaded { program: None, maps: Maps::None }),
            Kind::Product => product(stage, tables),
            Kind::Reference(object) => reference(object, stage, tables),
            Kind::Pinned(path) => {
                let program = ProgramInfo::from_pin(path).and_then(|info| info.fd());
                let program = program.with_context(|| format!("{}: {path}", self.name))?;
                Ok(Loaded { program: Some(program), maps: Maps::None })
            }
        }
    }
}

fn product(stage: &Stage, tables: &Tables) -> Result<Loaded> {
    let options = LoadOptions::embedded(stage.slots(), stage.blocks, XdpMode::Auto)?;
    let mut dataplane = EbpfDataplane::load(&options)?;
    converge(&mut dataplane, tables)?;
    Ok(Loaded { program: Some(dataplane.packet_program()?), maps: Maps::Product(Box::new(dataplane)) })
}

/// The same services, backends and rings in the reference's maps.
fn reference(object: &[u8], stage: &Stage, tables: &Tables) -> Result<Loaded> {
    let service_ids = tables.services.keys().max().map_or(1, |id| u32::from(*id) + 1);
    let mut loader = EbpfLoader::new();
    // Two entries a flow.
    loader.map_max_entries("FLOWS", stage.flows() * 2).map_max_entries("RINGS", service_ids);
    let mut ebpf = loader.load(object).context("bench-ref.o")?;
    wrapper::load(&mut ebpf, "reference")?;
    let mut map = |name| ebpf.take_map(name).with_context(|| format!("bench-ref.o: no map {name}"));

    Array::<_, RefNode>::try_from(map("NODE")?)?.set(0, node(stage, tables), 0)?;
    let mut backends: Array<_, Backend> = map("BACKENDS")?.try_into()?;
    for (id, backend) in &tables.backends {
        backends.set(u32::from(*id), backend, 0)?;
    }
    let mut rings: Array<_, RefRing> = map("RINGS")?.try_into()?;
    for (key, ring) in &tables.rings {
        // It knows no zones.
        if let RingKey::All(id) = *key {
            rings.set(u32::from(id), RefRing { slots: ring.slots, reserved: [0; 3] }, 0)?;
        }
    }
    let mut services: HashMap<_, RefService, u32> = map("SERVICES")?.try_into()?;
    for (key, id) in &tables.service_ids {
        let key = RefService { vip: key.vip, port: key.port, protocol: key.protocol.into(), reserved: 0 };
        services.insert(key, u32::from(*id), 0)?;
    }
    let program = wrapper::xdp(&ebpf, "reference")?.fd()?.try_clone()?;
    Ok(Loaded { program: Some(program), maps: Maps::Reference(Box::new(ebpf)) })
}

fn node(stage: &Stage, tables: &Tables) -> RefNode {
    let [port, ..] = tables.node.ports;
    let base = tables.snat.get(&0).copied().unwrap_or(Addr::UNSPECIFIED);
    RefNode {
        snat: [base; 2],
        snat_mask: stage.blocks - 1,
        ifindex: LOOPBACK,
        mac: port.mac,
        reserved: [0; 2],
    }
}

#[expect(unsafe_code, reason = "the one promise to aya about each map value")]
mod pod {
    use super::{RefNode, RefRing, RefService};

    // SAFETY: `repr(C)`, plain integers and arrays of them, no padding.
    unsafe impl aya::Pod for RefNode {}
    // SAFETY: as above.
    unsafe impl aya::Pod for RefRing {}
    // SAFETY: as above.
    unsafe impl aya::Pod for RefService {}
}
