//! Every metric family that the agent exports: one table, which the code, the reference page and the tests share.

/// What a family's samples mean to Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises while the agent lives.
    Counter,
    /// Goes both ways.
    Gauge,
    /// Cumulative buckets, a sum and a count.
    Histogram,
}

impl Kind {
    /// The word in the exposition format.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// Full name.
    pub name: &'static str,
    /// Type.
    pub kind: Kind,
    /// Label names in the order of their values.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

macro_rules! families {
    ($($ident:ident = $name:literal $kind:ident [$($label:literal),*] $help:literal;)+) => {
        $(#[doc = $help] pub const $ident: Family =
            Family { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)+

        /// Every family, in the order of the reference page.
        pub const ALL: &[Family] = &[$($ident),+];
    };
}

families! {
    BUILD_INFO = "lb_build_info" Gauge ["version", "abi"] "1, with the version of the agent and of the map layout.";
    READY = "lb_ready" Gauge [] "1 once the program is attached and every backend was checked.";
    CONFIG_RELOADS = "lb_config_reloads_total" Counter ["result"] "Reloads of the configuration, by what came of them; the start is none.";
    CONFIG_SUCCESSFUL = "lb_config_last_reload_successful" Gauge [] "1 while the last reload was successful, or there was none; 0 while an older configuration is in use.";
    CONFIG_LOADED = "lb_config_last_reload_success_timestamp_seconds" Gauge [] "Unix time at which the configuration in use was read.";
    XDP_MODE = "lb_xdp_mode" Gauge ["interface", "mode"] "1 for the mode in which the program is attached to the interface.";
    REDIRECT_TARGET = "lb_interface_redirect_target" Gauge ["interface"] "1 while frames that are redirected to the interface arrive, 0 while they are lost; absent when none are, or the kernel does not say.";

    SERVICE_FAIL_OPEN = "lb_service_fail_open" Gauge ["service"] "1 while every backend is unhealthy or draining, and new flows go to those that there are.";
    SERVICE_BELOW_FLOOR = "lb_service_below_floor" Gauge ["service"] "1 while suspect backends get new flows too, because less than `min_healthy` of the others are usable.";
    SERVICE_PRIORITY = "lb_service_priority" Gauge ["service"] "Priority number of the backends that get new flows; absent while no backend is usable.";
    SERVICE_BACKENDS = "lb_service_backends" Gauge ["service", "state"] "Backends by state.";
    SERVICE_PACKETS = "lb_service_packets_total" Counter ["service", "direction"] "Packets that were forwarded.";
    SERVICE_BYTES = "lb_service_bytes_total" Counter ["service", "direction"] "Bytes of forwarded IP packets, without Ethernet headers.";
    SERVICE_NEW_FLOWS = "lb_service_new_flows_total" Counter ["service"] "Flows that were created.";
    SERVICE_RECYCLED = "lb_service_recycled_embryonic_total" Counter ["service"] "New flows that took the place of one whose handshake was never completed.";
    SERVICE_UNRESTED = "lb_service_reused_unrested_total" Counter ["service"] "New flows that took a source port which had not rested for their backend.";
    SERVICE_TABLE_FULL = "lb_service_table_full_total" Counter ["service"] "SYNs dropped because no slot of the flow table could be claimed.";

    BACKEND_UP = "lb_backend_up" Gauge ["service", "backend"] "1 while the backend is healthy, drained or not.";
    BACKEND_STATE = "lb_backend_state" Gauge ["service", "backend", "state"] "1 for the state that the backend is in, 0 for the others.";
    BACKEND_RESOLVED = "lb_backend_resolved" Gauge ["service", "backend"] "1 while the next hop towards the backend is known.";
    BACKEND_WEIGHT = "lb_backend_weight" Gauge ["service", "backend"] "Configured weight.";
    BACKEND_SLOW_START = "lb_backend_slow_start_ratio" Gauge ["service", "backend"] "Part of its weight that counts: less than 1 while a newcomer's share of new flows grows.";
    BACKEND_NEAR = "lb_backend_near" Gauge ["service", "backend"] "1 while new flows rather go to this backend than elsewhere, because it is in the node's zone.";
    BACKEND_FLOWS = "lb_backend_flows" Gauge ["service", "backend"] "Flows that are open, unfinished handshakes included.";
    BACKEND_WAITING = "lb_backend_waiting_flows" Gauge ["service", "backend"] "Open flows whose client waits for an answer.";
    BACKEND_NEW_FLOWS = "lb_backend_new_flows_total" Counter ["service", "backend"] "Flows that were given to the backend.";
    BACKEND_REFUSED = "lb_backend_refused_flows_total" Counter ["service", "backend"] "Flows that the backend refused: a RST in answer to the SYN.";
    BACKEND_UNANSWERED = "lb_backend_unanswered_flows_total" Counter ["service", "backend"] "Flows whose SYN the backend did not answer before the client sent it again.";
    BACKEND_MOVED = "lb_backend_moved_flows_total" Counter ["service", "backend"] "Flows that another backend was tried for, because this one refused them or did not answer.";
    BACKEND_RESETS = "lb_backend_reset_flows_total" Counter ["service", "backend"] "Flows that the backend cut off: a RST when neither side had closed.";
    BACKEND_OLDEST = "lb_backend_oldest_waiting_seconds" Gauge ["service", "backend"] "How long the flow has waited that waits longest for its answer; 0 when none does.";
    BACKEND_PACKETS = "lb_backend_packets_total" Counter ["service", "backend", "direction"] "Packets that were forwarded.";
    BACKEND_BYTES = "lb_backend_bytes_total" Counter ["service", "backend", "direction"] "Bytes of forwarded IP packets, without Ethernet headers.";
    BACKEND_FIRST_BYTE = "lb_backend_first_byte_seconds" Histogram ["service", "backend"] "Time from a request to the first byte of its response, as seen on the wire.";
    UNRESOLVED = "lb_unresolved_backends" Gauge [] "Backends whose next hop is not known.";

    DRAINS = "lb_drains_total" Counter ["result"] "Drains that ended, by how.";

    HEALTH_CHECK = "lb_health_check_seconds" Histogram ["service", "backend"] "Duration of health checks, connection included.";
    HEALTH_CHECKS = "lb_health_checks_total" Counter ["service", "backend", "result"] "Health checks by result.";
    EARLY_CHECKS = "lb_health_early_checks_total" Counter ["service"] "Checks that became due at once, because SYNs of clients failed in a row.";
    SIGNALS = "lb_health_signals_total" Counter ["service", "signal", "result"] "Passive signals against a backend, by what became of them.";

    PACKETS = "lb_packets_total" Counter ["reason"] "Packets by what became of them: `forwarded`, or the reason why not.";
    SLOTS = "lb_flow_table_slots" Gauge ["state"] "Slots of the flow table by state.";
    CAPACITY = "lb_flow_table_capacity" Gauge [] "Slots of the flow table.";
    EXPIRED = "lb_flow_table_expired_total" Counter [] "Flows that the sweep closed: idle for too long, or their backend is dead or gone.";
    RESETS_SENT = "lb_resets_sent_total" Counter [] "Resets that the agent sent to clients of lost connections, which wait and send nothing that could be answered.";

    RING_REBUILD = "lb_ring_rebuild_seconds" Histogram [] "Time from a decision (health, next hop) to the change being in the kernel.";
    RING_MOVED = "lb_ring_moved_slots" Gauge ["service"] "Ring slots that the last change of the service's ring gave to another backend.";
    PENDING = "lb_dataplane_pending" Gauge [] "1 while something that was decided is not in the kernel yet.";
    ERRORS = "lb_dataplane_errors_total" Counter ["operation"] "Failed operations on the data path.";
    DRIFT = "lb_dataplane_drift_total" Counter [] "Map entries that were found changed by someone else, and were put right.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_follow_the_conventions() {
        let names: BTreeSet<_> = ALL.iter().map(|f| f.name).collect();
        assert_eq!(names.len(), ALL.len(), "a name occurs twice");
        for f in ALL {
            assert!(f.name.starts_with("lb_"), "{}", f.name);
            assert_eq!(f.kind == Kind::Counter, f.name.ends_with("_total"), "{}", f.name);
            assert!(f.help.ends_with('.'), "{}", f.name);
        }
    }

    /// The reference page has one row per family, in this order, with the same type, labels and help.
    #[test]
    fn reference_page_is_this_table() {
        let page = include_str!("../../../docs/reference/metrics.md");
        let (table, _) = page.split_once("## Labels").unwrap();
        let rows: Vec<Vec<String>> = table
            .lines()
            .filter(|l| l.starts_with("| `lb_"))
            .map(|l| l.trim_matches('|').split(" | ").map(|c| c.trim().to_owned()).collect())
            .collect();
        let want: Vec<Vec<String>> = ALL
            .iter()
            .map(|f| {
                let labels: Vec<_> = f.labels.iter().map(|l| format!("`{l}`")).collect();
                let labels = if labels.is_empty() { "–".to_owned() } else { labels.join(", ") };
                vec![
                    format!("`{}`", f.name),
                    f.kind.name().to_owned(),
                    labels,
                    unit(f).to_owned(),
                    f.help.to_owned(),
                ]
            })
            .collect();
        for (row, want) in rows.iter().zip(&want) {
            assert_eq!(row, want);
        }
        assert_eq!(rows.len(), want.len());
    }

    fn unit(f: &Family) -> &'static str {
        let base = f.name.trim_end_matches("_total");
        match base.rsplit('_').next().unwrap() {
            "seconds" => "seconds",
            "bytes" => "bytes",
            "packets" => "packets",
            "flows" => "flows",
            "slots" | "capacity" => "slots",
            "checks" => "checks",
            "backends" => "backends",
            _ if f.kind == Kind::Gauge => "–",
            _ => "events",
        }
    }
}
