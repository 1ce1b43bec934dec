//! The maps that the agent writes, with their types. Nobody else finds a map by its name.

use std::os::fd::AsFd;

use aya::Ebpf;
use aya::maps::xdp::DevMap;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use lb_common::addr::Addr;
use lb_common::backend::Backend;
use lb_common::node::Node;
use lb_common::service::{Service, ServiceKey, VipFlags};
use lb_common::stats::{BackendLoad, BackendStats, ServiceStats};

use super::error::{because, failure};
use super::rings::Rings;
use crate::dataplane::DataplaneError;

/// Handles of maps. When one is made, the sizes of its key and value are compared with its types.
pub(super) struct Maps {
    pub(super) node: Array<MapData, Node>,
    pub(super) snat: Array<MapData, Addr>,
    pub(super) devices: DevMap<MapData>,
    pub(super) vips: HashMap<MapData, Addr, VipFlags>,
    pub(super) service_ids: HashMap<MapData, ServiceKey, u32>,
    pub(super) services: Array<MapData, Service>,
    pub(super) rings: Rings,
    pub(super) cursors: Array<MapData, u64>,
    pub(super) backends: Array<MapData, Backend>,
    pub(super) load: Array<MapData, BackendLoad>,
    pub(super) service_stats: PerCpuArray<MapData, ServiceStats>,
    pub(super) backend_stats: PerCpuArray<MapData, BackendStats>,
}

impl Maps {
    /// Handles of the loaded object's maps. The object keeps its own.
    pub(super) fn open(ebpf: &Ebpf) -> Result<Self, DataplaneError> {
        Ok(Self {
            node: open(ebpf, "NODE")?,
            snat: open(ebpf, "SNAT")?,
            devices: open(ebpf, "DEVICES")?,
            vips: open(ebpf, "VIPS")?,
            service_ids: open(ebpf, "SERVICE_IDS")?,
            services: open(ebpf, "SERVICES")?,
            rings: Rings::new(data(ebpf, "RINGS")?),
            cursors: open(ebpf, "CURSORS")?,
            backends: open(ebpf, "BACKENDS")?,
            load: open(ebpf, "LOAD")?,
            service_stats: open(ebpf, "SERVICE_STATS")?,
            backend_stats: open(ebpf, "BACKEND_STATS")?,
        })
    }
}

/// A handle of its own of the map `name`, as a `T`.
pub(super) fn open<T: TryFrom<Map, Error = MapError>>(ebpf: &Ebpf, name: &str) -> Result<T, DataplaneError> {
    let map = Map::from_map_data(data(ebpf, name)?).and_then(T::try_from);
    map.map_err(|e| failure(format!("map {name}: open"), &e))
}

/// A handle of its own of the map `name`.
pub(super) fn data(ebpf: &Ebpf, name: &str) -> Result<MapData, DataplaneError> {
    let what = || format!("map {name}: open");
    let missing = || because(what(), "the XDP object has no such map: build both from one source");
    let (Map::Array(data)
    | Map::ArrayOfMaps(data)
    | Map::DevMap(data)
    | Map::HashMap(data)
    | Map::PerCpuArray(data)) = ebpf.map(name).ok_or_else(missing)?
    else {
        return Err(missing());
    };
    let fd = data.fd().as_fd().try_clone_to_owned().map_err(|e| failure(what(), &e))?;
    MapData::from_fd(fd).map_err(|e| failure(what(), &e))
}
