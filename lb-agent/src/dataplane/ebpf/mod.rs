//! The data path in the kernel: loads the XDP object, attaches it, and reads and writes its maps.
//!
//! The only place that knows `aya`. Everything is undone when [`EbpfDataplane`] is dropped: the programs are
//! detached and the maps are gone with all flows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};

use aya::Ebpf;
use aya::maps::MapInfo;
use aya::programs::{ProgramFd, Xdp};
use lb_common::ring::Ring;

use super::{Dataplane, DataplaneError, Op, RingKey, Tables};
use crate::config::XdpMode;

mod attach;
mod clock;
mod counters;
mod error;
mod expire;
mod flows;
mod load;
mod log;
mod maps;
mod program;
mod query;
mod rings;
mod sys;
mod tables;
mod trial;
mod view;

pub use clock::{Clock, exact_now};
pub use counters::KernelCounters;
pub use expire::Closer;
pub use flows::FlowTable;
pub use load::LoadOptions;
pub use trial::Trial;

use attach::Attached;
use error::failure;
use maps::Maps;

/// The program on the packet path.
const LB: &str = "lb";
/// The program that closes flows, see [`Closer`].
const EXPIRE: &str = "expire";

/// The program that tells the time, see [`EbpfDataplane::clock`].
const CLOCK: &str = "clock";

/// The maps and programs of one loaded object.
///
/// [`Dataplane::apply`] and everything that attaches want it exclusively; counters and flows are handles of their
/// own for other threads.
pub struct EbpfDataplane {
    ebpf: Ebpf,
    /// By interface index.
    links: BTreeMap<u32, Attached>,
    mode: XdpMode,
    maps: Maps,
    /// The rings as they were last written or read. What is read again and is the same shares their memory.
    rings: Mutex<BTreeMap<RingKey, Arc<Ring>>>,
    counters: Arc<KernelCounters>,
    flows: Arc<FlowTable>,
    closer: Arc<Closer>,
    /// Slot at which the next scan for flows that are over begins.
    next_scan: Arc<AtomicU32>,
}

impl EbpfDataplane {
    /// The counters.
    #[must_use]
    pub fn counters(&self) -> Arc<KernelCounters> {
        Arc::clone(&self.counters)
    }

    /// The flow table.
    #[must_use]
    pub fn flows(&self) -> Arc<FlowTable> {
        Arc::clone(&self.flows)
    }

    /// The program on the packet path, for those who run it without an interface: tests and benchmarks.
    ///
    /// # Errors
    /// When the descriptor cannot be copied.
    pub fn packet_program(&self) -> Result<ProgramFd, DataplaneError> {
        let fd = self.program(LB)?.fd().and_then(|fd| fd.try_clone().map_err(Into::into));
        fd.map_err(|e| failure(format!("program {LB}: copy the descriptor"), &e))
    }

    /// The maps of the programs, for those who look at them beside the agent's tables: tests.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn map_infos(&self) -> Result<Vec<MapInfo>, DataplaneError> {
        let mut ids = BTreeSet::new();
        for name in [LB, EXPIRE] {
            let its = self.program(name)?.info().and_then(|info| info.map_ids());
            ids.extend(
                its.map_err(|e| failure(format!("program {name}: ask for its maps"), &e))?
                    .into_iter()
                    .flatten(),
            );
        }
        let info =
            |id| MapInfo::from_id(id).map_err(|e| failure(format!("map with id {id}: ask for it"), &e));
        ids.into_iter().map(info).collect()
    }

    fn program(&self, name: &str) -> Result<&Xdp, DataplaneError> {
        load::program(&self.ebpf, name)
    }

    fn program_mut(&mut self, name: &str) -> Result<&mut Xdp, DataplaneError> {
        let found = self.ebpf.program_mut(name).map(TryInto::try_into);
        found.ok_or_else(|| load::missing(name))?.map_err(|e| failure(format!("program {name}"), &e))
    }
}

impl fmt::Debug for EbpfDataplane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EbpfDataplane { links, flows, .. } = self;
        f.debug_struct("EbpfDataplane").field("links", links).field("flows", flows).finish_non_exhaustive()
    }
}

impl Dataplane for EbpfDataplane {
    fn read(&self) -> Result<Tables, DataplaneError> {
        tables::read(&self.maps, &self.rings)
    }

    fn apply(&mut self, op: &Op) -> Result<(), DataplaneError> {
        tables::apply(&mut self.maps, &self.rings, op)
    }

    fn apply_all(&mut self, ops: &[Op]) -> Result<(), DataplaneError> {
        tables::apply_all(&mut self.maps, &self.rings, ops)
    }
}
