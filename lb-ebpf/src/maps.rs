//! Every map, and the only place that names them. The agent finds them by these names.
//!
//! Sizes of `FLOWS`, `HINTS` and `SNAT` are set when the object is loaded.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::btf_maps::{Array, ArrayOfMaps, DevMap, HashMap, PerCpuArray};
use aya_ebpf::macros::btf_map;
use lb_common::addr::Addr;
use lb_common::backend::{Backend, MAX_BACKENDS};
use lb_common::flow::Slot;
use lb_common::hint::Hint;
use lb_common::node::{MAX_PORTS, Node};
use lb_common::offer::OptionReader;
use lb_common::reason::REASONS;
use lb_common::service::{MAX_RINGS, MAX_SERVICES, Service, ServiceKey, VipFlags};
use lb_common::stats::{BackendLoad, BackendStats, ServiceStats, Tokens};

use crate::arrival::Arrival;
use crate::rings::RingArray;

/// The node's configuration: one value.
#[btf_map]
pub(crate) static NODE: Array<Node, 1> = Array::new();

/// SNAT address of each block of the flow table.
#[btf_map]
pub(crate) static SNAT: Array<Addr, 1> = Array::new();

/// Interfaces by their index in `Node::ports`, for redirects.
#[btf_map]
pub(crate) static DEVICES: DevMap<MAX_PORTS> = DevMap::new();

/// Addresses that are a VIP of some service.
#[btf_map]
pub(crate) static VIPS: HashMap<Addr, VipFlags, { MAX_SERVICES as usize }> = HashMap::new();

/// Service ids by address, port and protocol.
#[btf_map]
pub(crate) static SERVICE_IDS: HashMap<ServiceKey, u32, { MAX_SERVICES as usize }> = HashMap::new();

/// Services by id.
#[btf_map]
pub(crate) static SERVICES: Array<Service, { MAX_SERVICES as usize }> = Array::new();

/// Rings by service id, then rings of near backends: each an inner map of one value.
#[btf_map]
pub(crate) static RINGS: ArrayOfMaps<RingArray, { MAX_RINGS as usize }> = ArrayOfMaps::new();

/// Round-robin position by service id.
#[btf_map]
pub(crate) static CURSORS: Array<u64, { MAX_SERVICES as usize }> = Array::new();

/// Backends by id.
#[btf_map]
pub(crate) static BACKENDS: Array<Backend, { MAX_BACKENDS as usize }> = Array::new();

/// Live load of each backend. The agent maps it into its memory, too: it looks at all of them several times a second.
#[btf_map]
pub(crate) static LOAD: Array<BackendLoad, { MAX_BACKENDS as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();

/// The flow table. The agent maps it into its memory and reads it without a system call.
#[btf_map]
pub(crate) static FLOWS: Array<Slot, 8, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Hints of the flow table's buckets.
#[btf_map]
pub(crate) static HINTS: Array<Hint, 1> = Array::new();

/// The packet that this CPU opens a flow for.
#[btf_map]
pub(crate) static ARRIVAL: PerCpuArray<Arrival, 1> = PerCpuArray::new();

/// The options of the SYN that this CPU has before it.
#[btf_map]
pub(crate) static OPTIONS: PerCpuArray<OptionReader, 1> = PerCpuArray::new();

/// How many RSTs this CPU may send yet.
#[btf_map]
pub(crate) static RESETS: PerCpuArray<Tokens, 1> = PerCpuArray::new();

/// Counters by reason.
#[btf_map]
pub(crate) static REASON_STATS: PerCpuArray<u64, { REASONS as usize }> = PerCpuArray::new();

/// Counters by service id.
#[btf_map]
pub(crate) static SERVICE_STATS: PerCpuArray<ServiceStats, { MAX_SERVICES as usize }> = PerCpuArray::new();

/// Counters by backend id.
#[btf_map]
pub(crate) static BACKEND_STATS: PerCpuArray<BackendStats, { MAX_BACKENDS as usize }> = PerCpuArray::new();
