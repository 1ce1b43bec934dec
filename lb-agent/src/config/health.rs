//! `[service.health]`: its keys and their defaults.

use std::collections::BTreeMap;
use std::time::Duration;

use super::passive;
use super::reader::{Found, Reader};
use super::section::Section;
use super::values::{self, DAY};
use crate::model::{Header, HealthSpec, ProbeKind};

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// A request with more of them is no health check.
const MAX_HEADERS: usize = 32;

/// The section, or what it is when it is absent. `None` when something in it is wrong.
pub(super) fn read(reader: &mut Reader, mut health: Section<'_>) -> Option<HealthSpec> {
    let probe = read_probe(reader, &mut health);
    let interval = health.read(reader, "interval", values::duration(100 * MILLISECOND, HOUR)).or(2 * SECOND);
    let timeout = health.read(reader, "timeout", values::duration(10 * MILLISECOND, HOUR)).or(SECOND);
    let rise = health.read(reader, "rise", values::integer(1, 100)).or(2);
    let fall = health.read(reader, "fall", values::integer(1, 100)).or(3);
    let grace = health.read(reader, "grace", values::duration(Duration::ZERO, DAY)).or(60 * SECOND);
    let dead_after = health.read(reader, "dead_after", values::duration(SECOND, DAY)).or(30 * SECOND);
    let passive = {
        let section = health.table(reader, "passive");
        passive::read(reader, section)
    };
    health.finish(reader);
    Some(HealthSpec {
        probe: probe?,
        interval: interval?,
        timeout: timeout?,
        rise: rise?,
        fall: fall?,
        grace: grace?,
        dead_after: dead_after?,
        passive: passive?,
    })
}

fn read_probe(reader: &mut Reader, health: &mut Section<'_>) -> Option<ProbeKind> {
    let kinds = &[("http", true), ("tcp", false)];
    let http = health.read(reader, "type", values::choice(kinds, &[])).or(true);
    let path = health.read(reader, "path", values::path).optional();
    let host = health.read(reader, "host", values::host).optional();
    let headers = read_headers(reader, health).optional();
    let status = health.read(reader, "expect_status", values::status).optional();
    let body = health.read(reader, "expect_body", values::body).optional();
    if http? {
        return Some(ProbeKind::Http {
            path: path?.unwrap_or_else(|| "/health".to_owned()),
            host: host?,
            headers: headers?.unwrap_or_default(),
            status: status?.unwrap_or((200, 200)),
            body: body?,
        });
    }
    let given = |found: bool, key| found.then_some(key);
    let useless = [
        given(!matches!(path, Some(None)), "path"),
        given(!matches!(host, Some(None)), "host"),
        given(!matches!(headers, Some(None)), "headers"),
        given(!matches!(status, Some(None)), "expect_status"),
        given(!matches!(body, Some(None)), "expect_body"),
    ];
    for key in useless.into_iter().flatten() {
        let advice = "remove it, or set type = \"http\"";
        reader.error(&health.key(key), "has no meaning for checks of type \"tcp\"", advice);
    }
    Some(ProbeKind::Tcp)
}

fn read_headers(reader: &mut Reader, health: &mut Section<'_>) -> Found<Vec<Header>> {
    let entries = match health.entries(reader, "headers", values::header) {
        Found::Value(entries) => entries,
        Found::Absent => return Found::Absent,
        Found::Wrong => return Found::Wrong,
    };
    if entries.len() > MAX_HEADERS {
        let reason = format!("has {} headers", entries.len());
        reader.error(&health.key("headers"), reason, format!("{MAX_HEADERS} is the most"));
    }
    let mut first: BTreeMap<&str, &str> = BTreeMap::new();
    for entry in &entries {
        if let Some(other) = first.insert(&entry.value.name, &entry.key) {
            let reason = format!("is the header of {other}: upper and lower case are the same");
            reader.error(&entry.key, reason, "remove one of them");
        }
    }
    Found::Value(entries.into_iter().map(|entry| entry.value).collect())
}
