//! Rings, in and out of the array of rings.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;

use aya::maps::{Array, ArrayOfMaps, Map, MapData, MapError};
use lb_common::ring::Ring;

use super::error::{because, failure};
use super::sys;
use crate::dataplane::{DataplaneError, Op, RingKey};

/// System calls that are under way at once. Each waits for the kernel, and all of them for the same.
const AT_ONCE: usize = 32;

/// The map `RINGS`. The kernel compares an inner map with the template that the object has.
pub(super) struct Rings {
    outer: MapData,
}

impl Rings {
    pub(super) const fn new(outer: MapData) -> Self {
        Self { outer }
    }

    /// Fills a new inner map and swaps it in, or takes the ring away. Packets see the old ring or the new one.
    ///
    /// The kernel returns when no packet can be using the old one (an RCU grace period), so this takes some
    /// milliseconds to tens of them; many threads that wait at once wait for the same.
    fn set(&self, key: RingKey, ring: Option<&Ring>) -> Result<(), DataplaneError> {
        let Some(ring) = ring else {
            let index = index(key, "remove")?;
            // SAFETY: an array of maps has 32-bit keys.
            let removed = unsafe { sys::delete(self.outer.fd(), index) };
            return removed.map_err(|e| failure(what(key, "remove"), &e));
        };
        let index = index(key, "write")?;
        let failed = |e: MapError| failure(what(key, "write"), &e);
        let mut inner = Array::<MapData, Ring>::create(1, 0).map_err(failed)?;
        inner.set(0, ring, 0).map_err(failed)?;
        self.typed().and_then(|mut outer| outer.set(index, &inner, 0)).map_err(failed)
    }

    /// Carries out swaps of different rings, many at once.
    pub(super) fn set_all(&self, swaps: &[Swap<'_>]) -> Result<(), DataplaneError> {
        let set =
            |share: &[Swap<'_>]| share.iter().try_for_each(|(key, ring)| self.set(*key, ring.map(|r| &**r)));
        at_once(swaps, set).map(drop)
    }

    /// The rings at these places, of those that there are. One that is `known` and is still the same is shared.
    ///
    /// Kernels before 6.8 wait as long for a look at a map of maps as for a change (`bpf_map_copy_value`), also when
    /// nothing is found: so nothing should be asked for that cannot be there, and what is asked for waits together.
    pub(super) fn read_all(
        &self,
        keys: &[RingKey],
        known: &BTreeMap<RingKey, Arc<Ring>>,
    ) -> Result<BTreeMap<RingKey, Arc<Ring>>, DataplaneError> {
        let read = |share: &[RingKey]| {
            let mut buffer = Ring::empty();
            let mut found = Vec::new();
            for key in share {
                found.extend(self.read(*key, known.get(key), &mut buffer)?.map(|ring| (*key, ring)));
            }
            Ok(found)
        };
        Ok(at_once(keys, read)?.into_iter().flatten().collect())
    }

    /// A handle for one write: aya wants it exclusively, and threads share the map.
    fn typed(&self) -> Result<ArrayOfMaps<MapData, Array<MapData, Ring>>, MapError> {
        let fd = self.outer.fd().as_fd().try_clone_to_owned()?;
        Map::from_map_data(MapData::from_fd(fd)?)?.try_into()
    }

    /// A ring, or `None` when there is none. `known` is returned when it is equal.
    fn read(
        &self,
        key: RingKey,
        known: Option<&Arc<Ring>>,
        buffer: &mut Box<Ring>,
    ) -> Result<Option<Arc<Ring>>, DataplaneError> {
        let Some(inner) = self.inner(key)? else { return Ok(None) };
        let failed = |e: &dyn std::error::Error| failure(what(key, "read"), e);
        let info = inner.info().map_err(|e| failed(&e))?;
        if (info.key_size(), info.value_size()) != SIZES {
            let why = "the ring has another size: the maps are of another version";
            return Err(because(what(key, "read"), why));
        }
        // SAFETY: the sizes were compared just now.
        unsafe { sys::lookup(inner.fd(), 0, &mut **buffer) }.map_err(|e| failed(&e))?;
        match known {
            Some(known) if **known == **buffer => Ok(Some(Arc::clone(known))),
            Some(_) | None => Ok(Some(Arc::from(std::mem::replace(buffer, Ring::empty())))),
        }
    }

    /// The inner map. Its descriptor is closed when it is dropped.
    fn inner(&self, key: RingKey) -> Result<Option<MapData>, DataplaneError> {
        let (index, mut id) = (index(key, "read")?, 0u32);
        // SAFETY: an array of maps has 32-bit keys, and values of 32 bits: the inner map's id.
        match unsafe { sys::lookup(self.outer.fd(), index, &mut id) } {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(e) => return Err(failure(what(key, "read"), &e)),
        }
        MapData::from_id(id).map(Some).map_err(|e| failure(what(key, "read"), &e))
    }
}

/// Has threads do the work, each its share of the items, and gives what came of the shares in their order. A single
/// item needs no thread.
fn at_once<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&[T]) -> Result<R, DataplaneError> + Sync,
) -> Result<Vec<R>, DataplaneError> {
    if items.len() <= 1 {
        return Ok(vec![work(items)?]);
    }
    let (each, work) = (items.len().div_ceil(AT_ONCE), &work);
    thread::scope(|scope| {
        let start = |share| {
            let thread = thread::Builder::new().name("rings".into()).spawn_scoped(scope, move || work(share));
            thread.map_err(|e| failure("map RINGS: start a thread", &e))
        };
        let threads: Vec<_> = items.chunks(each).map(start).collect();
        let panicked = |_| Err(because("map RINGS", "a thread panicked"));
        // The scope waits for all of them, whatever comes of the first.
        threads.into_iter().map(|thread| thread?.join().unwrap_or_else(panicked)).collect()
    })
}

/// The next ring at a place, or none.
pub(super) type Swap<'a> = (RingKey, Option<&'a Arc<Ring>>);

/// The swaps at the head of these writes: all at different places, and nothing else between them.
pub(super) fn leading_swaps(ops: &[Op]) -> Vec<Swap<'_>> {
    let mut seen = BTreeSet::new();
    let swap = |op| match swap_of(op) {
        Some((key, ring)) if seen.insert(key) => Some((key, ring)),
        Some(_) | None => None,
    };
    ops.iter().map_while(swap).collect()
}

fn swap_of(op: &Op) -> Option<Swap<'_>> {
    if let Op::SetRing(key, ring) = op {
        return Some((*key, Some(ring)));
    }
    let Op::RemoveRing(key) = op else { return None };
    Some((*key, None))
}

/// Sizes of an inner map's key and value.
#[expect(clippy::cast_possible_truncation, reason = "a ring has 128 KiB")]
const SIZES: (u32, u32) = (size_of::<u32>() as u32, size_of::<Ring>() as u32);

/// Index in the map. Beyond its end the kernel would take a ring for a near one.
fn index(key: RingKey, verb: &str) -> Result<u32, DataplaneError> {
    key.index().ok_or_else(|| because(what(key, verb), "there is no such service id"))
}

fn what(key: RingKey, verb: &str) -> String {
    format!("map RINGS, {key}: {verb}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swaps_of_different_rings_go_together_and_nothing_else() {
        let ring: Arc<Ring> = Arc::from(Ring::empty());
        let set = |key| Op::SetRing(key, Arc::clone(&ring));
        let check = |ops: &[Op], want: &[(RingKey, bool)]| {
            let seen: Vec<_> = leading_swaps(ops).iter().map(|(key, ring)| (*key, ring.is_some())).collect();
            assert_eq!(seen, want);
        };
        check(&[], &[]);
        let (one, two, near) = (RingKey::All(1), RingKey::All(2), RingKey::Near(1));
        check(&[Op::RemoveService(1), set(one)], &[]);
        check(&[set(one), set(two), Op::RemoveService(3), set(near)], &[(one, true), (two, true)]);
        check(&[set(one), Op::RemoveRing(two), set(one)], &[(one, true), (two, false)]);
        check(&[set(one), set(near), set(near)], &[(one, true), (near, true)]);
    }
}
