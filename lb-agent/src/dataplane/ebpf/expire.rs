//! Closing flows that are over, by the data path itself.

use aya::programs::{TestRun, TestRunOptions};

use super::error::failure;
use super::{EXPIRE, EbpfDataplane};
use crate::dataplane::{DataplaneError, Tables};
use crate::flows::is_over;

/// Slot indexes that the program takes at once.
const BATCH: usize = 64;
/// A test run wants an Ethernet header in front.
const ETHERNET: [u8; 14] = [0; 14];

/// What one [`EbpfDataplane::sweep`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Flows that looked as if they were over.
    pub found: u32,
    /// Flows that the data path agreed to close; the others have spoken in between.
    pub closed: u32,
}

impl EbpfDataplane {
    /// Closes the flows that are idle for longer than `tables.node.idle_ticks` and wait for nothing, and those whose
    /// backend is gone from `tables`. Scans the whole table: milliseconds per million slots.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn sweep(&self, tables: &Tables, now: u32) -> Result<Sweep, DataplaneError> {
        let over = self.flows.iter().filter(|(_, slot)| is_over(slot, tables, now));
        let over: Vec<u32> = over.map(|(index, _)| index).collect();
        let found = u32::try_from(over.len()).unwrap_or(u32::MAX);
        Ok(Sweep { found, closed: self.expire(&over)? })
    }

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
