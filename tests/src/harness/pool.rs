//! Loaded data paths that the tests of a process use one after the other.
//!
//! Loading one keeps the verifier busy for seconds (for ten times as long under emulation), emptying its maps takes
//! milliseconds, and then it is as good as new.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::Result;
use lb_agent::agent::program::Program;
use lb_agent::config::XdpMode;
use lb_agent::dataplane::ebpf::{EbpfDataplane, LoadOptions};
use lb_agent::dataplane::{Dataplane, Op};

use super::bytes;
use super::maps::Maps;

/// Sizes are rounded up to these, so that one fits most tests; what counts for a test is what its `Node` says.
const LEAST_SLOTS: u32 = 4096;
const LEAST_BLOCKS: u32 = 8;

/// Room for slots and for blocks.
type Size = (u32, u32);

/// Those that nobody uses.
static IDLE: Mutex<Vec<(Size, EbpfDataplane)>> = Mutex::new(Vec::new());

/// A loaded data path with empty maps, for one test alone, attached to nothing. It is detached when it is dropped.
pub struct Lease {
    size: Size,
    /// There until the lease is dropped.
    dataplane: Option<EbpfDataplane>,
}

/// Takes a data path with at least as much room.
///
/// # Errors
/// When the kernel refuses to load one, or to empty its maps.
pub fn lease(slots: u32, blocks: u32) -> Result<Lease> {
    let size = (slots.next_power_of_two().max(LEAST_SLOTS), blocks.max(LEAST_BLOCKS));
    let mut dataplane = match take(size) {
        Some(used) => used,
        None => EbpfDataplane::load(&LoadOptions::embedded(size.0, size.1, XdpMode::Auto)?)?,
    };
    empty(&mut dataplane)?;
    Ok(Lease { size, dataplane: Some(dataplane) })
}

fn take(size: Size) -> Option<EbpfDataplane> {
    let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
    let fits = idle.iter().position(|(its, _)| *its == size)?;
    Some(idle.swap_remove(fits).1)
}

/// Rings are the agent's to remove, since it keeps book of them; everything else is zero in a map that is new.
fn empty(dataplane: &mut EbpfDataplane) -> Result<()> {
    let rings: Vec<Op> = dataplane.read()?.rings.into_keys().map(Op::RemoveRing).collect();
    dataplane.apply_all(&rings)?;
    Maps::of(dataplane).iter().try_for_each(bytes::clear)
}

impl Deref for Lease {
    type Target = EbpfDataplane;

    fn deref(&self) -> &EbpfDataplane {
        self.dataplane.as_ref().expect("a lease that is in use")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut EbpfDataplane {
        self.dataplane.as_mut().expect("a lease that is in use")
    }
}

/// Back to the others; one that a test failed with is not used again.
impl Drop for Lease {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        let Some(mut dataplane) = self.dataplane.take() else { return };
        dataplane.detach();
        IDLE.lock().unwrap_or_else(PoisonError::into_inner).push((self.size, dataplane));
    }
}

#[cfg(test)]
mod tests {
    use lb_agent::dataplane::Tables;

    use super::*;
    use crate::harness::{Harness, World};
    use crate::packet::world::{CLIENT, Family};
    use crate::require_data_path;

    #[test]
    fn what_is_used_again_is_as_good_as_new() {
        require_data_path!("what_is_used_again_is_as_good_as_new");
        let mut lb = Harness::new(World::default());
        for family in Family::BOTH {
            lb.connect(CLIENT, family);
        }
        let used = Maps::of(lb.dataplane());
        let names = used.used();
        for name in
            ["NODE", "DEVICES", "VIPS", "SERVICES", "RINGS", "LOAD", "FLOWS", "HINTS", "SERVICE_STATS"]
        {
            assert!(names.contains(&name), "{name} is not used: {names:?}");
        }
        let id = |maps: &Maps| maps.iter().next().unwrap().id();
        drop(lb);

        let lease = lease(16, 2).unwrap();
        let maps = Maps::of(&lease);
        assert_eq!(id(&maps), id(&used), "another one");
        assert_eq!(maps.used(), [""; 0]);
        assert!(lease.read().unwrap() == Tables::default());
    }
}
