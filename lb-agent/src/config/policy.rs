//! The keys of a service that say where its new flows go, besides the scheduler.

use std::time::Duration;

use lb_common::service::MAX_RETRIES;
use toml::de::DeValue;

use super::reader::{Bad, Reader};
use super::section::Section;
use super::values;
use crate::model::Policy;

const HOUR: Duration = Duration::from_secs(3600);

/// `None` when a value was wrong and has been reported.
pub(super) fn read(reader: &mut Reader, service: &mut Section<'_>) -> Option<Policy> {
    let default = Policy::default();
    let retries =
        service.read(reader, "retries", values::integer(0, MAX_RETRIES.into())).or(default.retries.into());
    let min_healthy = service.read(reader, "min_healthy", percent).or(default.min_healthy);
    let slow_start =
        service.read(reader, "slow_start", values::duration(Duration::ZERO, HOUR)).or(default.slow_start);
    Some(Policy { retries: u8::try_from(retries?).ok()?, min_healthy: min_healthy?, slow_start: slow_start? })
}

/// `"50%"`.
fn percent(value: &DeValue<'_>) -> Result<u8, Bad> {
    let text = values::text(value, "\"50%\"")?;
    let number = text.strip_suffix('%').and_then(|n| n.trim().parse().ok()).filter(|n| *n <= 100);
    let advice = "give a whole number of percent, \"0%\" to \"100%\"";
    number.ok_or_else(|| Bad::new(format!("{text:?} is not a share"), advice))
}
