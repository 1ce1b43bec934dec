//! The keys of a service that say where its new flows go, besides the scheduler.

use std::time::Duration;

use lb_common::service::{MAX_RETRIES, SPILL_ONE};
use toml::de::DeValue;

use super::reader::{Bad, Reader};
use super::section::Section;
use super::values;
use crate::model::{Policy, Scheduler};

const HOUR: Duration = Duration::from_secs(3600);

/// `None` when a value was wrong and has been reported.
pub(super) fn read(
    reader: &mut Reader,
    service: &mut Section<'_>,
    scheduler: Option<Scheduler>,
) -> Option<Policy> {
    let default = Policy::default();
    let retries =
        service.read(reader, "retries", values::integer(0, MAX_RETRIES.into())).or(default.retries.into());
    let min_healthy = service.read(reader, "min_healthy", percent).or(default.min_healthy);
    let slow_start =
        service.read(reader, "slow_start", values::duration(Duration::ZERO, HOUR)).or(default.slow_start);
    let preferences = &[("prefer", true), ("none", false)];
    let prefer_zone = service.read(reader, "zone_preference", values::choice(preferences, &[])).optional();
    let zone_spill = service.read(reader, "zone_spill", spill).optional();
    if scheduler == Some(Scheduler::RoundRobin) {
        let prefers = prefer_zone == Some(Some(true));
        let useless = [("zone_preference", prefers), ("zone_spill", zone_spill != Some(None))];
        for (key, _) in useless.iter().filter(|(_, given)| *given) {
            let advice = "remove it, or use another scheduler";
            reader.error(&service.key(key), "has no meaning with scheduler \"round-robin\"", advice);
        }
    }
    Some(Policy {
        retries: u8::try_from(retries?).ok()?,
        min_healthy: min_healthy?,
        slow_start: slow_start?,
        prefer_zone: prefer_zone?.unwrap_or(default.prefer_zone),
        zone_spill: zone_spill?.unwrap_or(default.zone_spill),
    })
}

/// A number of 1 to 100, in units of 1/256.
fn spill(value: &DeValue<'_>) -> Result<u16, Bad> {
    let wanted = "a number of 1 to 100, as 2.0";
    let text = match value {
        DeValue::Integer(number) => number.as_str(),
        DeValue::Float(number) => number.as_str(),
        DeValue::String(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => return Err(Bad::type_of(value, wanted)),
    };
    let number = text.parse::<f64>().ok().filter(|n| (1.0..=100.0).contains(n));
    let number =
        number.ok_or_else(|| Bad::new(format!("{text} is out of range"), format!("give {wanted}")))?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "256 to 25,600")]
    let units = (number * f64::from(SPILL_ONE)).round() as u16;
    Ok(units)
}

/// `"50%"`.
fn percent(value: &DeValue<'_>) -> Result<u8, Bad> {
    let text = values::text(value, "\"50%\"")?;
    let number = text.strip_suffix('%').and_then(|n| n.trim().parse().ok()).filter(|n| *n <= 100);
    let advice = "give a whole number of percent, \"0%\" to \"100%\"";
    number.ok_or_else(|| Bad::new(format!("{text:?} is not a share"), advice))
}
