//! What was read of the packet at hand, for the parts that come next: one that opens a flow is parsed once and not by each
//! of them.

use crate::maps;
use crate::parse::{Frame, Segment};

/// A client's packet that belongs to no flow yet.
pub(crate) struct Arrival {
    pub(crate) frame: Frame,
    pub(crate) segment: Segment,
}

/// Keeps it for the next part.
#[inline(always)]
pub(crate) fn keep(frame: Frame, segment: Segment) {
    if let Some(arrival) = maps::ARRIVAL.get_ptr_mut(0) {
        // SAFETY: this CPU's own value, and an XDP program is not interrupted by another on the same CPU.
        unsafe { arrival.write(Arrival { frame, segment }) };
    }
}

/// The one that was kept a moment ago, for the same packet.
#[inline(always)]
pub(crate) fn get() -> Option<&'static Arrival> {
    maps::ARRIVAL.get(0)
}
