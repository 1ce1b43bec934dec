//! [`Status`] as a table for people.

use std::fmt::{self, Write};
use std::time::{Duration, SystemTime};

use super::drain::{DrainProgress, DrainStatus};
use super::{BackendStatus, ServiceStatus, Status};

/// The status as text, as of `now`. Plain ASCII apart from names, no colours, lines end without blanks.
#[must_use]
pub fn render(status: &Status, now: SystemTime) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_all(&mut out, status, now);
    out
}

fn write_all(out: &mut String, s: &Status, now: SystemTime) -> fmt::Result {
    let ready =
        if s.is_ready() { "ready".to_owned() } else { format!("NOT READY: {}", s.not_ready.join("; ")) };
    writeln!(out, "lb-agent {}, up {}, {ready}", s.version, ago(s.started, now))?;
    writeln!(out, "config {}, loaded {} ago", s.config, ago(s.config_loaded, now))?;
    if let Some(refused) = &s.config_refused {
        writeln!(out, "RELOAD REFUSED {} ago, this configuration is still in use:", ago(refused.at, now))?;
        for error in &refused.errors {
            writeln!(out, "  {error}")?;
        }
    }
    if let Some(zone) = &s.zone {
        writeln!(out, "zone {zone}")?;
    }
    for i in &s.interfaces {
        let why = i.not_native.as_ref().map(|why| format!(", not native: {why}")).unwrap_or_default();
        let lost = if i.redirect_target == Some(false) { ", LOSES what is forwarded to it" } else { "" };
        writeln!(out, "interface {}: xdp {}, {}{lost}{why}", i.name, i.xdp_mode, i.mac)?;
    }
    write_table_use(out, s)?;
    write_dataplane(out, s)?;
    for service in &s.services {
        writeln!(out)?;
        write_service(out, service, now)?;
    }
    Ok(())
}

fn write_table_use(out: &mut String, s: &Status) -> fmt::Result {
    let Some(t) = &s.flow_table else {
        return writeln!(out, "flow table: cannot be read");
    };
    let live = t.embryonic + t.established;
    let percent = (live * 100).checked_div(t.capacity).unwrap_or(0);
    writeln!(
        out,
        "flow table: {live} of {} slots live ({percent} %): {} established, {} in handshake; {} closed, {} never used",
        t.capacity, t.established, t.embryonic, t.closed, t.free
    )
}

fn write_dataplane(out: &mut String, s: &Status) -> fmt::Result {
    let d = &s.dataplane;
    if d.pending {
        writeln!(out, "PENDING: the kernel does not have the latest state yet")?;
    }
    if let Some(e) = &d.last_error {
        writeln!(out, "errors on the data path: {}, the last: {e}", d.errors)?;
    }
    if d.drift > 0 {
        writeln!(out, "map entries changed by someone else and put right: {}", d.drift)?;
    }
    Ok(())
}

fn write_service(out: &mut String, s: &ServiceStatus, now: SystemTime) -> fmt::Result {
    let open = match (s.fail_open, s.standing.as_str()) {
        (_, "unresolved") => ", UNRESOLVED: no next hop is known, packets are dropped",
        (_, "empty") => ", EMPTY: no backend, packets are dropped",
        (_, "draining") => ", DRAINING: no other backend can be reached, draining ones get flows",
        (_, "below-floor") => ", BELOW FLOOR: too few backends are healthy, suspect ones get flows too",
        (true, _) => ", FAIL OPEN: no backend is healthy, all of them get flows",
        (false, _) => "",
    };
    writeln!(out, "service {} {} {} {}{open}", s.name, s.vip, s.forwarding, s.scheduler)?;
    let head = [
        "BACKEND", "ADDRESS", "STATE", "FOR", "WEIGHT", "RING", "FLOWS", "WAITING", "NEW", "NEXT HOP", "WHY",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(s.backends.iter().map(|b| row(b, ring(s, b), now)));
    write_columns(out, &rows)?;
    for b in &s.backends {
        if let Some(drain) = &b.drain {
            writeln!(out, "  {}: {}", b.name, drain_text(drain, b.in_ring, now))?;
        }
        if let Some(why) = &b.unresolved {
            writeln!(out, "  {}: next hop unresolved: {why}", b.name)?;
        }
    }
    Ok(())
}

/// How far a drain is, in one line.
#[must_use]
pub fn drain_line(p: &DrainProgress, now: SystemTime) -> String {
    let drain = p.drain.as_ref().map(|d| format!(", {}", drain_text(d, p.in_ring, now))).unwrap_or_default();
    let pending = if p.pending { ", PENDING: the kernel does not know yet" } else { "" };
    let (flows, waiting) = (number(p.flows), number(p.waiting));
    format!("{}/{}: {}, flows {flows}, waiting {waiting}{drain}{pending}", p.service, p.backend, p.state)
}

fn drain_text(d: &DrainStatus, in_ring: bool, now: SystemTime) -> String {
    let mut out = match (&d.result, d.ended) {
        (None, _) | (_, None) => {
            format!("draining for {}, deadline in {}", ago(d.since, now), ago(now, d.deadline))
        }
        (Some(result), Some(ended)) => {
            format!("drained {} ago after {} ({result})", ago(ended, now), ago(d.since, ended))
        }
    };
    if let Some(ms) = d.oldest_wait_ms {
        let _ = write!(out, ", oldest wait {}", humantime::format_duration(Duration::from_secs(ms / 1000)));
    }
    if in_ring {
        out.push_str(", GETS NEW FLOWS: there is no other backend");
    }
    out
}

fn row(b: &BackendStatus, ring: &str, now: SystemTime) -> [String; 11] {
    let hop = b.next_hop.as_ref().map_or_else(
        || "UNRESOLVED".to_owned(),
        |h| {
            let vlans: String = h.vlans.iter().map(|v| format!(" vlan {v}")).collect();
            format!("{} {}{vlans}", h.interface, h.mac)
        },
    );
    [
        b.name.clone(),
        b.address.to_string(),
        b.state.clone(),
        ago(b.since, now),
        b.slow_start.map_or_else(|| b.weight.to_string(), |percent| format!("{} ({percent} %)", b.weight)),
        ring.to_owned(),
        number(b.flows),
        number(b.waiting),
        number(b.new_flows),
        hop,
        b.why.clone(),
    ]
}

/// Whether it gets new flows.
fn ring(s: &ServiceStatus, b: &BackendStatus) -> &'static str {
    match (b.in_ring, b.near) {
        (true, true) => "near",
        (true, false) => "yes",
        (false, _) if s.is_standby(b) => "standby",
        (false, _) => "no",
    }
}

fn write_columns<const N: usize>(out: &mut String, rows: &[[String; N]]) -> fmt::Result {
    let width: [usize; N] =
        std::array::from_fn(|i| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0));
    for r in rows {
        let line: String = r.iter().zip(width).map(|(cell, w)| format!("  {cell:<w$}")).collect();
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn number(n: Option<u64>) -> String {
    n.map_or_else(|| "?".to_owned(), |n| n.to_string())
}

/// Time since `then` in at most two units; 0s when the clock was set back.
fn ago(then: SystemTime, now: SystemTime) -> String {
    let seconds = now.duration_since(then).unwrap_or_default().as_secs();
    let text = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::testing::sample_status;
    use crate::status::{DataplaneStatus, InterfaceStatus};

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
    }

    #[test]
    fn table() {
        insta::assert_snapshot!(render(&sample_status(at(0)), at(3700)), @r"
        lb-agent 0.1.0, up 1h 1m, ready
        config /etc/evenkeel/lb.toml, loaded 1h 1m ago
        interface eth0: xdp native, 02:00:00:00:00:aa
        flow table: 317 of 31744 slots live (0 %): 313 established, 4 in handshake; 427 closed, 31000 never used

        service superset 10.77.0.100:80 nat maglev
          BACKEND     ADDRESS          STATE    FOR    WEIGHT  RING  FLOWS  WAITING  NEW   NEXT HOP                        WHY
          superset-1  10.77.0.11:8088  healthy  1h 1m  100     yes   7      2        4711  eth0 02:00:00:00:00:01 vlan 12  2 good checks in a row
          superset-2  10.77.0.11:8088  dead     1h 1m  100     no    ?      ?        ?     UNRESOLVED                      connection refused (3 in a row)
          superset-2: next hop unresolved: no answer to ARP
        ");
    }

    #[test]
    fn trouble_is_loud() {
        let mut s = sample_status(at(0));
        s.not_ready = vec!["eth0: not attached".into(), "superset/superset-1: not checked yet".into()];
        s.services[0].fail_open = true;
        s.services.push(ServiceStatus { standing: "unresolved".into(), ..s.services[0].clone() });
        let mut few = s.services[0].clone();
        (few.standing, few.fail_open, few.priority) = ("below-floor".into(), false, Some(1));
        (few.backends[1].slow_start, few.backends[1].state) = (Some(30), "healthy".into());
        (few.backends[0].priority, few.backends[1].priority) = (1, 2);
        s.services.push(few);
        s.flow_table = None;
        s.zone = Some("rack-7".into());
        s.services[0].backends[0].near = true;
        s.interfaces[0].xdp_mode = "generic".into();
        s.interfaces[0].not_native = Some("the MTU is too large".into());
        let native = InterfaceStatus {
            name: "eth1".into(),
            xdp_mode: "native".into(),
            not_native: None,
            redirect_target: Some(false),
            ..s.interfaces[0].clone()
        };
        s.interfaces.push(native);
        s.dataplane = DataplaneStatus {
            pending: true,
            errors: 3,
            last_error: Some("RINGS[1]: set: No space left on device".into()),
            drift: 2,
        };
        let text = render(&s, at(0));
        for want in [
            "NOT READY: eth0: not attached; superset/superset-1: not checked yet",
            "nat maglev, FAIL OPEN: no backend is healthy",
            "nat maglev, UNRESOLVED: no next hop is known",
            "nat maglev, BELOW FLOOR: too few backends are healthy, suspect ones get flows too",
            "100 (30 %)  standby  ",
            "\nzone rack-7\n",
            "100     near  ",
            "flow table: cannot be read",
            "interface eth0: xdp generic, 02:00:00:00:00:aa, not native: the MTU is too large",
            "interface eth1: xdp native, 02:00:00:00:00:aa, LOSES what is forwarded to it\n",
            "PENDING",
            "errors on the data path: 3, the last: RINGS[1]: set: No space left on device",
            "changed by someone else and put right: 2",
        ] {
            assert!(text.contains(want), "{want}\n{text}");
        }
    }

    #[test]
    fn drains_in_the_table_and_on_a_line() {
        let mut s = sample_status(at(0));
        s.services[0].backends[0].state = "draining".into();
        s.services[0].backends[0].drain = Some(DrainStatus {
            since: at(3600),
            deadline: at(4200),
            ended: None,
            result: None,
            left_waiting: None,
            oldest_wait_ms: Some(95_999),
        });
        s.services[0].backends[1].drain = Some(DrainStatus {
            since: at(60),
            deadline: at(660),
            ended: Some(at(660)),
            result: Some("deadline".into()),
            left_waiting: Some(2),
            oldest_wait_ms: None,
        });
        let text = render(&s, at(3700));
        for want in [
            "  superset-1: draining for 1m 40s, deadline in 8m 20s, oldest wait 1m 35s, GETS NEW FLOWS: there is no other backend\n",
            "  superset-2: drained 50m 40s ago after 10m (deadline)\n",
        ] {
            assert!(text.contains(want), "{want}\n{text}");
        }
        let line = |backend| drain_line(&DrainProgress::of(&s, "superset", backend).unwrap(), at(3700));
        assert_eq!(
            line("superset-2"),
            "superset/superset-2: dead, flows ?, waiting ?, drained 50m 40s ago after 10m (deadline)"
        );
        s.services[0].backends[0].drain = None;
        s.dataplane.pending = true;
        let line = drain_line(&DrainProgress::of(&s, "superset", "superset-1").unwrap(), at(3700));
        assert_eq!(
            line,
            "superset/superset-1: draining, flows 7, waiting 2, PENDING: the kernel does not know yet"
        );
        let json = serde_json::to_value(&s).unwrap();
        assert_eq!(json["services"][0]["backends"][1]["drain"]["ended"], "2023-11-14T22:24:20.000Z");
        assert_eq!(serde_json::from_value::<Status>(json).unwrap(), s);
    }

    #[test]
    fn json_round_trip_and_times_are_text() {
        let json = serde_json::to_value(sample_status(at(0))).unwrap();
        assert_eq!(json["started"], "2023-11-14T22:13:20.000Z");
        assert_eq!(serde_json::from_value::<Status>(json).unwrap(), sample_status(at(0)));
    }
}
