//! Reading a full flow table.

use anyhow::{Context, Result};

use super::{add_times, timed};
use crate::packet::full_table;
use crate::report::{Report, progress};

/// A table of so many blocks, every slot in use.
pub(super) fn measure(blocks: u32, rounds: usize, report: &mut Report) -> Result<()> {
    progress("scan of a full flow table");
    let (flows, _program) = full_table(blocks)?;
    let (mut census, mut all, mut slots) = (Vec::new(), Vec::new(), 0);
    for _ in 0..rounds {
        census.push(timed(|| Ok(flows.census()))?.0);
        let (time, count) = timed(|| Ok(flows.iter().filter(|(_, slot)| slot.ctrl != 0).count()))?;
        all.push(time);
        slots = count;
    }
    let expected = flows.iter().count();
    (slots * 10 > expected * 9)
        .then_some(())
        .with_context(|| format!("{slots} of {expected} slots are in use"))?;
    add_times(report, format!("count states of {expected} slots"), &census);
    add_times(report, format!("read every flow of {expected} slots"), &all);
    Ok(())
}
