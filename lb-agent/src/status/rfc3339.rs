//! Times as people and other programs read them.

use std::time::SystemTime;

use serde::{Deserialize, Deserializer, Serializer};

pub(super) fn serialize<S: Serializer>(t: &SystemTime, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(&humantime::format_rfc3339_millis(*t))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<SystemTime, D::Error> {
    let text = String::deserialize(d)?;
    humantime::parse_rfc3339(&text).map_err(serde::de::Error::custom)
}

/// For times that may be absent.
pub(super) mod option {
    use super::*;
    use serde::Serialize;

    #[derive(Serialize, Deserialize)]
    struct Time(#[serde(with = "super")] SystemTime);

    #[expect(clippy::ref_option, reason = "serde asks for it")]
    pub(in crate::status) fn serialize<S: Serializer>(
        t: &Option<SystemTime>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        t.map(Time).serialize(s)
    }

    pub(in crate::status) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<SystemTime>, D::Error> {
        Ok(Option::<Time>::deserialize(d)?.map(|Time(t)| t))
    }
}
