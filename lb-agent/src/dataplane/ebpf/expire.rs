//! Closing flows that are over, by the data path itself.

use std::sync::Arc;

use aya::programs::{ProgramFd, Xdp};
use lb_common::flow::{Ctrl, Slot};

use super::error::failure;
use super::flows::FlowTable;
use super::{Clock, EXPIRE, EbpfDataplane, sys};
use crate::agent::program::AT_ONCE;
use crate::dataplane::{DataplaneError, Tables};
use crate::flows::is_over;

/// Slot indexes that the program takes at once.
const BATCH: usize = 64;
/// A test run wants an Ethernet header in front.
const ETHERNET: [u8; 14] = [0; 14];
/// Where the list of slots begins: after the header and the count.
const LIST_AT: usize = ETHERNET.len() + size_of::<u16>();
/// What the program puts in the place of a slot that it did not close.
const NOT_CLOSED: u32 = u32::MAX;

/// Slots of flows that look as if they are over, from slot `start` on and around; at most [`AT_ONCE`], and first those
/// whose client waits for an answer. Also says where the next scan should start.
pub(super) fn find(flows: &FlowTable, tables: &Tables, clock: Clock, start: u32) -> (Vec<u32>, u32) {
    let now = clock.now();
    // What is over by the time of the start may have spoken since then, which would look like ages ago.
    let over = |slot: &Slot| is_over(slot, tables, now) && is_over(slot, tables, clock.now());
    let found = flows.iter_from(start).filter(|(_, slot)| over(slot));
    let mut found: Vec<(bool, u32)> =
        found.map(|(index, slot)| (!Ctrl(slot.ctrl).is_waiting(), index)).take(AT_ONCE).collect();
    let next = if found.len() < AT_ONCE { 0 } else { found.last().map_or(0, |(_, last)| last + 1) };
    found.sort_by_key(|(idle, _)| *idle);
    (found.into_iter().map(|(_, index)| index).collect(), next)
}

/// Closes flows. A handle of its own, for any thread.
#[derive(Debug)]
pub struct Closer {
    program: ProgramFd,
    flows: Arc<FlowTable>,
}

impl Closer {
    pub(super) fn new(program: &Xdp, flows: Arc<FlowTable>) -> Result<Self, DataplaneError> {
        let fd = program.fd().and_then(|fd| fd.try_clone().map_err(Into::into));
        let fd = fd.map_err(|e| failure(format!("program {EXPIRE}: copy the descriptor"), &e))?;
        Ok(Self { program: fd, flows })
    }

    /// Asks the data path to close the flows in these slots. It closes those that are over by its own lights and
    /// leaves the others. Returns the slots that it closed, as they were a moment before.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn close(&self, slots: &[u32]) -> Result<Vec<Slot>, DataplaneError> {
        let mut closed = Vec::new();
        for batch in slots.chunks(BATCH) {
            let before: Vec<_> = batch.iter().map(|index| self.flows.slot(*index)).collect();
            let mut packet = request(batch);
            sys::run(&self.program, &mut packet)
                .map_err(|e| failure(format!("program {EXPIRE}: run"), &e))?;
            let ours = before.into_iter().zip(list(&packet)).filter(|(_, index)| *index != NOT_CLOSED);
            closed.extend(ours.filter_map(|(slot, _)| slot));
        }
        Ok(closed)
    }
}

impl EbpfDataplane {
    /// What closes flows.
    #[must_use]
    pub fn closer(&self) -> Arc<Closer> {
        Arc::clone(&self.closer)
    }
}

/// The packet that the program reads: a count and indexes, little endian.
fn request(slots: &[u32]) -> Vec<u8> {
    let count = u16::try_from(slots.len()).unwrap_or(u16::MAX);
    let indexes = slots.iter().flat_map(|slot| slot.to_le_bytes());
    ETHERNET.into_iter().chain(count.to_le_bytes()).chain(indexes).collect()
}

/// The indexes in such a packet.
fn list(packet: &[u8]) -> impl Iterator<Item = u32> {
    let (indexes, _) = packet.get(LIST_AT..).unwrap_or_default().as_chunks();
    indexes.iter().map(|index| u32::from_le_bytes(*index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_is_header_count_and_indexes() {
        let bytes = request(&[1, 0x0102_0304]);
        assert_eq!(bytes[..14], [0; 14]);
        assert_eq!(bytes[14..], [2, 0, 1, 0, 0, 0, 4, 3, 2, 1]);
        assert_eq!(list(&bytes).collect::<Vec<_>>(), [1, 0x0102_0304]);
        assert_eq!(list(&request(&[])).count(), 0);
    }
}
