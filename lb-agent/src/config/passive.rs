//! `[service.health.passive]`: its keys and their defaults.

use std::time::Duration;

use super::reader::Reader;
use super::section::Section;
use super::values::{self, DAY};
use crate::model::PassiveSpec;

/// The most of any count; more than any backend can fail in a row before its checks do.
const MAX_COUNT: u32 = 10_000;

/// The section, or what it is when it is absent. `None` when something in it is wrong.
pub(super) fn read(reader: &mut Reader, mut passive: Section<'_>) -> Option<PassiveSpec> {
    let default = PassiveSpec::default();
    let mut count = |key, default| passive.read(reader, key, values::integer(0, MAX_COUNT)).or(default);
    let check_after = count("check_after", default.check_after);
    let refused = count("refused", default.refused);
    let unanswered = count("unanswered", default.unanswered);
    let resets = count("resets", default.resets);
    let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
    let resets_within =
        passive.read(reader, "resets_within", values::duration(second, hour)).or(default.resets_within);
    let oldest_waiting = passive
        .read(reader, "oldest_waiting", values::duration(Duration::ZERO, DAY))
        .or(default.oldest_waiting);
    passive.finish(reader);
    Some(PassiveSpec {
        check_after: check_after?,
        refused: refused?,
        unanswered: unanswered?,
        resets: resets?,
        resets_within: resets_within?,
        oldest_waiting: oldest_waiting?,
    })
}
