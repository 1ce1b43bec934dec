//! Reading the maps into [`Tables`], and carrying out [`Op`]s.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::slice;
use std::sync::{Arc, Mutex, PoisonError};

use aya::maps::{Array, MapData, MapError, PerCpuArray, PerCpuValues};
use aya::{Pod, util};
use lb_common::addr::Addr;
use lb_common::backend::Backend;
use lb_common::node::Node;
use lb_common::ring::Ring;
use lb_common::service::{SERVICE_NEAR, Service};
use lb_common::stats::{BackendLoad, BackendStats, ServiceStats};
use nix::net::if_::if_indextoname;

use super::error::{because, failure};
use super::maps::Maps;
use super::rings::{Swap, leading_swaps};
use crate::dataplane::{DataplaneError, Op, RingKey, Tables, describe};

/// See [`super::EbpfDataplane`].
type KnownRings = Mutex<BTreeMap<RingKey, Arc<Ring>>>;

/// Reads everything back. Unused entries are left out.
pub(super) fn read(maps: &Maps, known: &KnownRings) -> Result<Tables, DataplaneError> {
    let services = entries(&maps.services, "SERVICES", Service::is_live)?;
    Ok(Tables {
        node: maps.node.get(&0, 0).map_err(|e| failure("map NODE: read", &e))?,
        snat: entries(&maps.snat, "SNAT", |a: &Addr| *a != Addr::UNSPECIFIED)?,
        backends: entries(&maps.backends, "BACKENDS", |b: &Backend| *b != Backend::EMPTY)?,
        rings: read_rings(maps, known, &services)?,
        services,
        vips: pairs(maps.vips.iter(), "VIPS")?,
        service_ids: pairs::<_, u32>(maps.service_ids.iter(), "SERVICE_IDS")?
            .into_iter()
            .map(|(key, id)| Ok((key, to_id("SERVICE_IDS", id)?)))
            .collect::<Result<_, DataplaneError>>()?,
    })
}

/// The entries of an array that are in use, by their index.
fn entries<K: TryFrom<u32> + Ord, V: Pod>(
    map: &Array<MapData, V>,
    name: &str,
    is_used: impl Fn(&V) -> bool,
) -> Result<BTreeMap<K, V>, DataplaneError> {
    let mut out = BTreeMap::new();
    for index in 0..map.len() {
        let value =
            map.get(&index, 0).map_err(|e| failure(format!("map {name}, index {index}: read"), &e))?;
        if is_used(&value) {
            out.insert(to_id(name, index)?, value);
        }
    }
    Ok(out)
}

fn pairs<K: Ord, V>(
    iter: impl Iterator<Item = Result<(K, V), MapError>>,
    name: &str,
) -> Result<BTreeMap<K, V>, DataplaneError> {
    iter.collect::<Result<_, _>>().map_err(|e| failure(format!("map {name}: read"), &e))
}

fn to_id<K: TryFrom<u32>>(name: &str, id: u32) -> Result<K, DataplaneError> {
    K::try_from(id).map_err(|_| because(format!("map {name}: read"), format!("there is no id {id}")))
}

/// The rings of services, and those that were written to these maps for whatever service. Another one, which no packet
/// can reach, would not be seen.
fn read_rings(
    maps: &Maps,
    known: &KnownRings,
    services: &BTreeMap<u16, Service>,
) -> Result<BTreeMap<RingKey, Arc<Ring>>, DataplaneError> {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    let near = services.iter().filter(|(_, service)| service.flags & SERVICE_NEAR != 0);
    let near = near.map(|(id, _)| RingKey::Near(*id));
    let used = services.keys().map(|id| RingKey::All(*id)).chain(near);
    let keys: BTreeSet<_> = used.chain(known.keys().copied()).collect();
    *known = maps.rings.read_all(&Vec::from_iter(keys), &known)?;
    Ok(known.clone())
}

/// Carries out writes in order; swaps of rings that follow one another wait together.
pub(super) fn apply_all(maps: &mut Maps, known: &KnownRings, mut ops: &[Op]) -> Result<(), DataplaneError> {
    while let Some((op, rest)) = ops.split_first() {
        let swaps = leading_swaps(ops);
        if swaps.len() > 1 {
            swap_rings(maps, known, &swaps)?;
            ops = ops.get(swaps.len()..).unwrap_or_default();
        } else {
            apply(maps, known, op)?;
            ops = rest;
        }
    }
    Ok(())
}

/// Carries out one write.
pub(super) fn apply(maps: &mut Maps, known: &KnownRings, op: &Op) -> Result<(), DataplaneError> {
    let failed = |e: &dyn Error| failure(describe(op), e);
    match op {
        Op::SetNode(node) => set_node(maps, node),
        Op::SetSnat(block, address) => maps.snat.set(*block, address, 0).map_err(|e| failed(&e)),
        Op::SetBackend(0, _) => Err(because(describe(op), "backend id 0 means none")),
        Op::SetBackend(id, backend) => {
            reset_backend(maps, *id, backend)?;
            maps.backends.set(u32::from(*id), backend, 0).map_err(|e| failed(&e))
        }
        Op::SetRing(..) | Op::RemoveRing(_) => swap_rings(maps, known, &leading_swaps(slice::from_ref(op))),
        Op::SetService(id, service) => {
            reset_service(maps, *id, service)?;
            maps.services.set(u32::from(*id), service, 0).map_err(|e| failed(&e))
        }
        Op::RemoveService(id) => maps.services.set(u32::from(*id), Service::EMPTY, 0).map_err(|e| failed(&e)),
        Op::SetVip(address, flags) => maps.vips.insert(address, flags, 0).map_err(|e| failed(&e)),
        Op::RemoveVip(address) => maps.vips.remove(address).map_err(|e| failed(&e)),
        Op::SetServiceId(key, id) => maps.service_ids.insert(key, u32::from(*id), 0).map_err(|e| failed(&e)),
        Op::RemoveServiceId(key) => maps.service_ids.remove(key).map_err(|e| failed(&e)),
    }
}

/// A ring is known before it is written, and until it is removed: one of these writes may fail when others are through.
fn swap_rings(maps: &Maps, known: &KnownRings, swaps: &[Swap<'_>]) -> Result<(), DataplaneError> {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    let possible = swaps.iter().filter(|(key, _)| key.index().is_some());
    known.extend(possible.filter_map(|(key, ring)| Some((*key, Arc::clone((*ring)?)))));
    maps.rings.set_all(swaps)?;
    for (key, _) in swaps.iter().filter(|(_, ring)| ring.is_none()) {
        known.remove(key);
    }
    Ok(())
}

/// A port is in the redirect map before packets can be sent to it. What is left there of ports that are gone
/// harms nobody: no port index leads to it. An interface that has vanished is no reason to write nothing any more: no
/// packet can be sent there anyway.
fn set_node(maps: &mut Maps, node: &Node) -> Result<(), DataplaneError> {
    for (index, port) in (0..).zip(&node.ports).filter(|(_, port)| port.ifindex != 0) {
        let Err(e) = maps.devices.set(index, port.ifindex, None, 0) else { continue };
        let what = format!("map DEVICES, port {index}: write interface index {}", port.ifindex);
        // nix takes the null pointer of a failure for an empty name.
        if if_indextoname(port.ifindex).is_ok_and(|name| !name.is_empty()) {
            return Err(failure(what, &e));
        }
        tracing::warn!("{what}: the interface is gone");
    }
    maps.node.set(0, node, 0).map_err(|e| failure("map NODE: write", &e))
}

/// A new generation starts to count at zero.
fn reset_backend(maps: &mut Maps, id: u16, new: &Backend) -> Result<(), DataplaneError> {
    let index = u32::from(id);
    let old =
        maps.backends.get(&index, 0).map_err(|e| failure(format!("map BACKENDS, id {id}: read"), &e))?;
    if old.generation == new.generation {
        return Ok(());
    }
    let none = BackendLoad::ZERO;
    maps.load.set(index, none, 0).map_err(|e| failure(format!("map LOAD, id {id}: reset"), &e))?;
    clear(&mut maps.backend_stats, index, BackendStats::ZERO)
        .map_err(|e| failure(format!("map BACKEND_STATS, id {id}: reset"), &*e))
}

/// A service that takes an unused id starts to count at zero.
fn reset_service(maps: &mut Maps, id: u16, new: &Service) -> Result<(), DataplaneError> {
    let index = u32::from(id);
    let old =
        maps.services.get(&index, 0).map_err(|e| failure(format!("map SERVICES, id {id}: read"), &e))?;
    if old.is_live() || !new.is_live() {
        return Ok(());
    }
    maps.cursors.set(index, 0, 0).map_err(|e| failure(format!("map CURSORS, id {id}: reset"), &e))?;
    clear(&mut maps.service_stats, index, ServiceStats::ZERO)
        .map_err(|e| failure(format!("map SERVICE_STATS, id {id}: reset"), &*e))
}

fn clear<V: Pod>(
    map: &mut PerCpuArray<MapData, V>,
    index: u32,
    zero: V,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let cpus = util::nr_cpus().map_err(|(path, e)| format!("{path}: {e}"))?;
    Ok(map.set(index, PerCpuValues::try_from(vec![zero; cpus])?, 0)?)
}
