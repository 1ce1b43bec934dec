//! One ring, in and out of the array of rings.

use std::sync::Arc;

use aya::maps::{Array, MapData, MapError};
use lb_common::ring::Ring;

use super::error::{because, failure};
use super::maps::Rings;
use super::sys;
use crate::dataplane::DataplaneError;

impl Rings {
    /// Fills a new inner map and swaps it in. Readers see the old ring or the new one.
    ///
    /// The kernel returns when no packet can be using the old one (an RCU grace period), so this is slow: some
    /// milliseconds to tens of them.
    pub(super) fn write(&mut self, service: u16, ring: &Ring) -> Result<(), DataplaneError> {
        let failed = |e: MapError| failure(what(service, "write"), &e);
        let mut inner = Array::<MapData, Ring>::create(1, 0).map_err(failed)?;
        inner.set(0, ring, 0).map_err(failed)?;
        self.typed.set(u32::from(service), &inner, 0).map_err(failed)
    }

    /// Takes a ring away.
    pub(super) fn remove(&mut self, service: u16) -> Result<(), DataplaneError> {
        // SAFETY: an array of maps has 32-bit keys.
        let removed = unsafe { sys::delete(self.data.fd(), u32::from(service)) };
        removed.map_err(|e| failure(what(service, "remove"), &e))
    }

    /// The ring of a service, or `None` when it has none. `known` is returned when it is equal.
    pub(super) fn read(
        &self,
        service: u16,
        known: Option<&Arc<Ring>>,
        buffer: &mut Box<Ring>,
    ) -> Result<Option<Arc<Ring>>, DataplaneError> {
        let Some(inner) = self.inner(service)? else { return Ok(None) };
        let failed = |e: &dyn std::error::Error| failure(what(service, "read"), e);
        let info = inner.info().map_err(|e| failed(&e))?;
        if (info.key_size(), info.value_size()) != SIZES {
            let why = "the ring has another size: the maps are of another version";
            return Err(because(what(service, "read"), why));
        }
        // SAFETY: the sizes were compared just now.
        unsafe { sys::lookup(inner.fd(), 0, &mut **buffer) }.map_err(|e| failed(&e))?;
        match known {
            Some(known) if **known == **buffer => Ok(Some(Arc::clone(known))),
            Some(_) | None => Ok(Some(Arc::from(std::mem::replace(buffer, Ring::empty())))),
        }
    }

    /// The inner map of a service. Its descriptor is closed when it is dropped.
    fn inner(&self, service: u16) -> Result<Option<MapData>, DataplaneError> {
        let mut id = 0u32;
        // SAFETY: an array of maps has 32-bit keys, and values of 32 bits: the inner map's id.
        match unsafe { sys::lookup(self.data.fd(), u32::from(service), &mut id) } {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(e) => return Err(failure(what(service, "read"), &e)),
        }
        MapData::from_id(id).map(Some).map_err(|e| failure(what(service, "read"), &e))
    }
}

/// Sizes of an inner map's key and value.
#[expect(clippy::cast_possible_truncation, reason = "a ring has 128 KiB")]
const SIZES: (u32, u32) = (size_of::<u32>() as u32, size_of::<Ring>() as u32);

fn what(service: u16, verb: &str) -> String {
    format!("map RINGS, service id {service}: {verb}")
}
