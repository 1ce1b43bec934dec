//! Closing flows that are over, by the data path itself.

use aya::programs::{TestRun, TestRunOptions};
use lb_common::flow::Slot;

use super::error::failure;
use super::flows::FlowTable;
use super::{Clock, EXPIRE, EbpfDataplane};
use crate::dataplane::{DataplaneError, Tables};
use crate::flows::is_over;

/// Slot indexes that the program takes at once.
const BATCH: usize = 64;
/// A test run wants an Ethernet header in front.
const ETHERNET: [u8; 14] = [0; 14];

/// Flows that one scan returns at most, so that closing them (a system call for 64) takes milliseconds.
const AT_ONCE: usize = 1 << 16;

/// Slots of flows that look as if they are over, from slot `start` on and around; at most [`AT_ONCE`]. Also says
/// where the next scan should start.
pub(super) fn find(flows: &FlowTable, tables: &Tables, clock: Clock, start: u32) -> (Vec<u32>, u32) {
    let now = clock.now();
    // What is over by the time of the start may have spoken since then, which would look like ages ago.
    let over = |slot: &Slot| is_over(slot, tables, now) && is_over(slot, tables, clock.now());
    let found = flows.iter_from(start).filter(|(_, slot)| over(slot)).map(|(index, _)| index);
    let found: Vec<u32> = found.take(AT_ONCE).collect();
    let next = if found.len() < AT_ONCE { 0 } else { found.last().map_or(0, |last| last + 1) };
    (found, next)
}

impl EbpfDataplane {
    /// Asks the data path to close the flows in these slots. It closes those that are over by its own lights and
    /// leaves the others. Returns how many it closed.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn expire(&self, slots: &[u32]) -> Result<u32, DataplaneError> {
        let program = self.program(EXPIRE)?;
        let mut closed = 0;
        for batch in slots.chunks(BATCH) {
            let options = TestRunOptions { data_in: Some(&request(batch)), ..TestRunOptions::new() };
            let run = program.test_run(options);
            closed += run.map_err(|e| failure(format!("program {EXPIRE}: run"), &e))?.return_value;
        }
        Ok(closed)
    }
}

/// The packet that the program reads: a count and indexes, little endian.
fn request(slots: &[u32]) -> Vec<u8> {
    let count = u16::try_from(slots.len()).unwrap_or(u16::MAX);
    let indexes = slots.iter().flat_map(|slot| slot.to_le_bytes());
    ETHERNET.into_iter().chain(count.to_le_bytes()).chain(indexes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_is_header_count_and_indexes() {
        let bytes = request(&[1, 0x0102_0304]);
        assert_eq!(bytes[..14], [0; 14]);
        assert_eq!(bytes[14..], [2, 0, 1, 0, 0, 0, 4, 3, 2, 1]);
    }
}
