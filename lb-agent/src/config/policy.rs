//! The keys of a service that say where its new flows go, besides the scheduler.

use lb_common::service::MAX_RETRIES;

use super::reader::Reader;
use super::section::Section;
use super::values;
use crate::model::Policy;

/// `None` when a value was wrong and has been reported.
pub(super) fn read(reader: &mut Reader, service: &mut Section<'_>) -> Option<Policy> {
    let default = Policy::default();
    let retries =
        service.read(reader, "retries", values::integer(0, MAX_RETRIES.into())).or(default.retries.into());
    Some(Policy { retries: u8::try_from(retries?).ok()? })
}
