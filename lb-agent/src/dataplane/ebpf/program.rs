//! What the agent's loop asks of the data path.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{EbpfDataplane, expire};
use crate::agent::program::{Attachment, Closer, Program, Scanner};
use crate::dataplane::{DataplaneError, Tables};
use crate::model::PortFacts;

impl Program for EbpfDataplane {
    fn attach(&mut self, port: &PortFacts) -> Result<Attachment, DataplaneError> {
        let moved = |(index, attached): (&u32, &super::Attached)| {
            (attached.interface == port.name && *index != port.ifindex).then_some(*index)
        };
        for left in self.links.iter().filter_map(moved).collect::<Vec<_>>() {
            self.detach_from(left)?;
        }
        self.attach_to(&port.name, port.ifindex, self.mode)
    }

    fn detach(&mut self) {
        for ifindex in self.links.keys().copied().collect::<Vec<_>>() {
            if let Err(e) = self.detach_from(ifindex) {
                tracing::warn!("{e}");
            }
        }
    }

    fn scanner(&self) -> Scanner {
        let (flows, next) = (self.flows(), Arc::clone(&self.next_scan));
        let clock = self.clock();
        Arc::new(move |tables: &Tables| {
            let clock = match &clock {
                Ok(clock) => *clock,
                Err(e) => {
                    tracing::warn!("no flow is expired this time: {e}");
                    return Vec::new();
                }
            };
            let (over, end) = expire::find(&flows, tables, clock, next.load(Ordering::Relaxed));
            next.store(end, Ordering::Relaxed);
            over
        })
    }

    fn closer(&self) -> Closer {
        let closer = EbpfDataplane::closer(self);
        Arc::new(move |slots: &[u32]| closer.close(slots))
    }
}
