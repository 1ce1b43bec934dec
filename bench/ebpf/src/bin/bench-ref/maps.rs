//! The reference's maps.

use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray};
use aya_ebpf::macros::btf_map;
use lb_bench_ebpf::abi::{RefFlow, RefKey, RefNode, RefRing, RefService, RefStats};
use lb_common::backend::{Backend, MAX_BACKENDS};
use lb_common::reason::REASONS;
use lb_common::service::MAX_SERVICES;

/// Configuration: one value.
#[btf_map]
pub(crate) static NODE: Array<RefNode, 1> = Array::new();

/// Service ids by address, port and protocol.
#[btf_map]
pub(crate) static SERVICES: HashMap<RefService, u32, { MAX_SERVICES as usize }> = HashMap::new();

/// Flows: two entries each, one a direction. The size is set when the object is loaded.
#[btf_map]
pub(crate) static FLOWS: LruHashMap<RefKey, RefFlow, 2> = LruHashMap::new();

/// Backends by id.
#[btf_map]
pub(crate) static BACKENDS: Array<Backend, { MAX_BACKENDS as usize }> = Array::new();

/// Rings by service id. The size is set when the object is loaded.
#[btf_map]
pub(crate) static RINGS: Array<RefRing, 1> = Array::new();

/// Position in the SNAT ports.
#[btf_map]
pub(crate) static CURSOR: PerCpuArray<u32, 1> = PerCpuArray::new();

/// Packets that were not forwarded, by reason.
#[btf_map]
pub(crate) static REASON_STATS: PerCpuArray<u64, { REASONS as usize }> = PerCpuArray::new();

/// Counters by service id.
#[btf_map]
pub(crate) static SERVICE_STATS: PerCpuArray<RefStats, { MAX_SERVICES as usize }> = PerCpuArray::new();

/// Counters by backend id.
#[btf_map]
pub(crate) static BACKEND_STATS: PerCpuArray<RefStats, { MAX_BACKENDS as usize }> = PerCpuArray::new();
