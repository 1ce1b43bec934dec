use std::collections::BTreeMap;
use std::time::SystemTime;

use lb_common::reason::Reason;
use lb_common::stats::BackendStats;

use super::testing::FakeCounters;
use super::*;
use crate::status::testing::sample_status;
use catalog::Kind;

fn holder<K>(labels: K, id: u16, generation: u16) -> Holder<K> {
    Holder { labels, id, generation, adopted: false }
}

fn labels(backend: &str) -> BackendLabels {
    ("superset".into(), backend.into())
}

fn fixture() -> (Arc<FakeCounters>, Metrics) {
    let kernel = Arc::new(FakeCounters::default());
    let status = Arc::new(sample_status(SystemTime::UNIX_EPOCH));
    let metrics = Metrics::new(Box::new(move || status.clone()), kernel.clone()).unwrap();
    metrics.assign(
        [holder("superset".to_owned(), 1, 1)],
        [holder(labels("superset-1"), 1, 1), holder(labels("superset-2"), 2, 1)],
    );
    (kernel, metrics)
}

/// The value of a sample, by its exact name and labels.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|l| l.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn every_family_of_the_catalog_is_exported_with_its_type_and_labels_and_no_other() {
    let (_, m) = fixture();
    m.check(("superset", "superset-1"), "ok", &["ok", "refused"], Duration::from_millis(2));
    m.applied(Duration::from_millis(30));
    m.ring_moved("superset", 17);
    m.begin_signals("superset");
    let seen: BTreeMap<String, (String, Vec<String>)> = m
        .registry
        .gather()
        .iter()
        .map(|f| {
            let mut labels: Vec<_> =
                f.get_metric()[0].get_label().iter().map(|l| l.name().to_owned()).collect();
            labels.sort();
            (f.name().to_owned(), (format!("{:?}", f.get_field_type()).to_lowercase(), labels))
        })
        .collect();
    for f in catalog::ALL {
        let mut labels: Vec<String> = f.labels.iter().map(|&l| l.to_owned()).collect();
        labels.sort();
        assert_eq!(seen.get(f.name), Some(&(f.kind.name().to_owned(), labels)), "{}", f.name);
    }
    assert_eq!(seen.len(), catalog::ALL.len());
    assert!(catalog::ALL.iter().any(|f| f.kind == Kind::Histogram));
}

#[test]
fn every_reason_is_exported_from_zero_and_forwarded_is_the_sum_of_services() {
    let (kernel, m) = fixture();
    kernel.set(|v| {
        v.reasons.insert(Reason::TableFull as u32, 5);
    });
    kernel.set(|v| {
        v.backends.insert(1, BackendStats { packets: [30, 12], ..BackendStats::ZERO });
    });
    let text = m.text().unwrap();
    for r in Reason::ALL {
        let want = if *r == Reason::TableFull { 5.0 } else { 0.0 };
        assert_eq!(value(&text, &format!("lb_packets_total{{reason=\"{}\"}}", r.name())), Some(want));
    }
    assert_eq!(value(&text, "lb_packets_total{reason=\"forwarded\"}"), Some(42.0));
    assert_eq!(value(&text, "lb_flow_table_slots{state=\"established\"}"), Some(40.0));
    assert_eq!(value(&text, "lb_flow_table_capacity"), Some(152.0));
}

#[test]
fn a_reused_id_does_not_give_its_counts_to_the_next_backend() {
    let (kernel, m) = fixture();
    let series = |b: &str| format!("lb_backend_new_flows_total{{backend=\"{b}\",service=\"superset\"}}");
    kernel.set(|v| {
        v.backends.insert(2, BackendStats { new_flows: 500, ..BackendStats::ZERO });
    });
    assert_eq!(value(&m.text().unwrap(), &series("superset-2")), Some(500.0));
    m.assign(
        [holder("superset".to_owned(), 1, 1)],
        [holder(labels("superset-1"), 1, 1), holder(labels("superset-3"), 2, 2)],
    );
    kernel.set(|v| v.backends.get_mut(&2).unwrap().new_flows += 3);
    let text = m.text().unwrap();
    assert_eq!(value(&text, &series("superset-3")), Some(3.0));
    assert_eq!(value(&text, &series("superset-2")), None);
}

#[test]
fn a_removed_backend_stays_in_the_totals() {
    let (kernel, m) = fixture();
    kernel.set(|v| {
        v.backends.insert(1, BackendStats { packets: [30, 12], ..BackendStats::ZERO });
    });
    let of_service = "lb_service_packets_total{direction=\"from_client\",service=\"superset\"}";
    m.assign([holder("superset".to_owned(), 1, 1)], []);
    assert_eq!(value(&m.text().unwrap(), of_service), Some(30.0), "the backend's service is still there");
    m.assign([], []);
    let text = m.text().unwrap();
    assert_eq!(value(&text, of_service), None);
    assert_eq!(value(&text, "lb_packets_total{reason=\"forwarded\"}"), Some(42.0));
}

#[test]
fn unreadable_counters_are_counted_and_nothing_falls() {
    let (kernel, m) = fixture();
    kernel.set(|v| {
        v.backends.insert(1, BackendStats { packets: [30, 12], ..BackendStats::ZERO });
    });
    m.text().unwrap();
    kernel.set(|v| v.broken = true);
    let text = m.text().unwrap();
    assert_eq!(value(&text, "lb_packets_total{reason=\"forwarded\"}"), Some(42.0));
    assert_eq!(value(&text, "lb_flow_table_capacity"), None, "absent, not 0");
    assert!(m.errors() > 0);
}

#[test]
fn what_is_removed_leaves_no_series() {
    let (_, m) = fixture();
    m.check(("superset", "superset-1"), "ok", &["ok", "refused"], Duration::from_millis(2));
    m.check(("superset", "superset-2"), "ok", &["ok", "refused"], Duration::from_millis(2));
    m.begin_signals("superset");
    m.ring_moved("superset", 17);
    let text = m.text().unwrap();
    let refused = |b: &str| {
        format!("lb_health_checks_total{{backend=\"{b}\",result=\"refused\",service=\"superset\"}}")
    };
    assert_eq!(value(&text, &refused("superset-1")), Some(0.0));

    // One goes, and the other gets another id.
    m.assign([holder("superset".to_owned(), 1, 1)], [holder(labels("superset-2"), 7, 1)]);
    let text = m.text().unwrap();
    let own = |text: &str, label: &str| {
        let families = ["lb_health_check", "lb_health_early", "lb_health_signals", "lb_ring_moved"];
        text.lines().any(|l| l.contains(label) && families.iter().any(|f| l.starts_with(f)))
    };
    assert!(!own(&text, "\"superset-1\""), "{text}");
    assert_eq!(value(&text, &refused("superset-2")), Some(0.0));
    assert!(value(&text, "lb_ring_moved_slots{service=\"superset\"}").is_some());
    m.assign([], []);
    let text = m.text().unwrap();
    assert!(!own(&text, "\"superset\""), "{text}");
}

#[test]
fn how_long_a_flow_waits_is_its_backends_and_its_generations() {
    use lb_common::flow::{Ctrl, Slot, State};
    let (kernel, m) = fixture();
    let series =
        |b: &str| format!("lb_backend_oldest_waiting_seconds{{backend=\"{b}\",service=\"superset\"}}");
    let flow = |id, generation, since: u32| Slot {
        ctrl: Ctrl::new(State::Established, 1, id, generation).with_waiting(true).0,
        waiting_since: since,
        ..Slot::EMPTY
    };
    let now = 10_000_000;
    kernel.set(|v| (v.now, v.slots) = (now, vec![flow(1, 1, now - 30_518), flow(2, 7, now - 1_000_000)]));
    let text = m.text().unwrap();
    assert!((value(&text, &series("superset-1")).unwrap() - 2.0).abs() < 1e-3);
    assert_eq!(value(&text, &series("superset-2")), Some(0.0), "another generation's flow");
}

#[test]
fn what_becomes_of_syns_and_flows_is_counted_by_backend() {
    let (kernel, m) = fixture();
    kernel.set(|v| {
        let stats = BackendStats { refused: 5, unanswered: 4, moved: 3, resets: 2, ..BackendStats::ZERO };
        v.backends.insert(1, stats);
    });
    let text = m.text().unwrap();
    for (name, count) in [("refused", 5.0), ("unanswered", 4.0), ("moved", 3.0), ("reset", 2.0)] {
        let series = format!("lb_backend_{name}_flows_total{{backend=\"superset-1\",service=\"superset\"}}");
        assert_eq!(value(&text, &series), Some(count), "{name}");
    }
}
