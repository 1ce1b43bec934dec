//! Closing flows that are over, and telling the clients of those that are lost.
//!
//! A client that waits for the answer of a backend that has died sends nothing, so nothing in the data path would ever
//! tell it. The order is: the data path closes the flow, if it finds it lost, too; then the RST is sent. So nobody is told
//! whose flow goes on. Should the agent end in between, at most the clients of one [`CHUNK`] are not told; whatever
//! they send next is answered by the data path.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use lb_common::flow::{Ctrl, Slot};

use super::program::{AT_ONCE, Closer, Scanner};
use crate::dataplane::{DataplaneError, Tables};
use crate::flows::is_lost;
use crate::net::reset::Reset;

/// Flows that are closed, and clients that are told, at once.
pub const CHUNK: usize = 64;
/// Pause after telling so many, so that tens of thousands are told in a second and no queue is flooded.
const PAUSE: Duration = Duration::from_millis(1);
/// How often a frame is tried again when too many are on their way, with as many pauses.
const RETRIES: u32 = 50;

/// Sends a frame out of the interface with this index.
pub type Sender = Arc<dyn Fn(u32, &[u8]) -> io::Result<()> + Send + Sync>;

/// A sweep of the flow table. Takes up to a second, so it runs on a thread of its own.
#[derive(Clone)]
pub struct Sweep {
    /// Finds flows that are over.
    pub scan: Scanner,
    /// Closes them.
    pub close: Closer,
    /// Sends the RSTs.
    pub send: Sender,
}

/// What came of a sweep.
#[derive(Debug, Default)]
pub struct Swept {
    /// Flows that looked as if they were over.
    pub found: usize,
    /// Flows that were closed.
    pub closed: u64,
    /// Of these, clients that were told, by backend id and generation.
    pub told: BTreeMap<(u16, u16), u64>,
    /// Why flows are not closed that should be.
    pub not_closed: Option<DataplaneError>,
    /// Clients that were not told, and why not the last of them.
    pub not_told: Option<(u64, io::Error)>,
}

impl Swept {
    /// Whether there may be more to close at once.
    #[must_use]
    pub const fn is_partial(&self) -> bool {
        self.found >= AT_ONCE && self.closed > 0
    }
}

impl Sweep {
    /// Sweeps once. `tables` are what the kernel has, or is about to have, and services that it had: flows that are lost may
    /// be theirs.
    #[must_use]
    pub fn run(&self, tables: &Tables) -> Swept {
        let found = (self.scan)(tables);
        let mut swept = Swept { found: found.len(), ..Swept::default() };
        for slots in found.chunks(CHUNK) {
            match (self.close)(slots) {
                Ok(closed) => self.tell(&closed, tables, &mut swept),
                Err(e) => {
                    swept.not_closed = Some(e);
                    break;
                }
            }
        }
        swept
    }

    fn tell(&self, closed: &[Slot], tables: &Tables, swept: &mut Swept) {
        swept.closed += u64::try_from(closed.len()).unwrap_or(u64::MAX);
        let lost = closed.iter().filter(|slot| is_lost(Ctrl(slot.ctrl), tables));
        let mut sent = false;
        for (slot, reset) in lost.filter_map(|slot| Some((slot, Reset::of(slot, tables)?))) {
            match self.send(&reset) {
                Ok(()) => {
                    let ctrl = Ctrl(slot.ctrl);
                    *swept.told.entry((ctrl.backend(), ctrl.generation())).or_default() += 1;
                }
                Err(e) => {
                    let others = swept.not_told.as_ref().map_or(0, |(n, _)| *n);
                    swept.not_told = Some((others + 1, e));
                }
            }
            sent = true;
        }
        if sent {
            sleep(PAUSE);
        }
    }

    fn send(&self, reset: &Reset) -> io::Result<()> {
        let frame = reset.frame();
        for _ in 0..RETRIES {
            match (self.send)(reset.ifindex, &frame) {
                Err(e) if is_full(&e) => sleep(PAUSE),
                done => return done,
            }
        }
        (self.send)(reset.ifindex, &frame)
    }
}

/// Whether too many frames are on their way.
fn is_full(e: &io::Error) -> bool {
    e.kind() == ErrorKind::WouldBlock || e.raw_os_error() == Some(libc::ENOBUFS)
}

#[cfg(test)]
mod tests;
