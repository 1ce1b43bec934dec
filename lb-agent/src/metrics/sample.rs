//! Small constructors for prometheus's plain data types.

use prometheus::core::Desc;
use prometheus::proto;

use super::catalog::{Family, Kind};

/// A sample of a counter or gauge.
pub(super) fn sample(family: &Family, labels: &[&str], value: f64) -> proto::Metric {
    let mut m = proto::Metric::from_label(pairs(family, labels));
    if family.kind == Kind::Counter {
        let mut c = proto::Counter::default();
        c.set_value(value);
        m.set_counter(c);
    } else {
        let mut g = proto::Gauge::default();
        g.set_value(value);
        m.set_gauge(g);
    }
    m
}

/// A sample of a histogram: upper bounds with cumulative counts, the sum, and the count.
pub(super) fn histogram(
    family: &Family,
    labels: &[&str],
    buckets: impl IntoIterator<Item = (f64, u64)>,
    sum: f64,
    count: u64,
) -> proto::Metric {
    let buckets = buckets.into_iter().map(|(bound, cumulative)| {
        let mut b = proto::Bucket::default();
        b.set_upper_bound(bound);
        b.set_cumulative_count(cumulative);
        b
    });
    let mut h = proto::Histogram::default();
    h.set_bucket(buckets.collect());
    h.set_sample_sum(sum);
    h.set_sample_count(count);
    let mut m = proto::Metric::from_label(pairs(family, labels));
    m.set_histogram(h);
    m
}

/// The samples of one family.
pub(super) fn family(f: &Family, samples: Vec<proto::Metric>) -> proto::MetricFamily {
    let mut out = proto::MetricFamily::default();
    out.set_name(f.name.to_owned());
    out.set_help(f.help.to_owned());
    out.set_field_type(match f.kind {
        Kind::Counter => proto::MetricType::COUNTER,
        Kind::Gauge => proto::MetricType::GAUGE,
        Kind::Histogram => proto::MetricType::HISTOGRAM,
    });
    out.set_metric(samples);
    out
}

/// What the registry wants to know of a family before it accepts a collector.
pub(super) fn desc(f: &Family) -> prometheus::Result<Desc> {
    let labels = f.labels.iter().map(|&l| l.to_owned()).collect();
    Desc::new(f.name.to_owned(), f.help.to_owned(), labels, std::collections::HashMap::new())
}

/// An integer as prometheus wants it. Exact up to 2^53; above that the low digits are rounded, monotonically.
#[expect(clippy::cast_precision_loss, reason = "the exposition format has no integers")]
pub(super) const fn float(n: u64) -> f64 {
    n as f64
}

fn pairs(family: &Family, values: &[&str]) -> Vec<proto::LabelPair> {
    debug_assert_eq!(family.labels.len(), values.len(), "{}", family.name);
    let pair = |(name, value): (&&str, &&str)| {
        let mut p = proto::LabelPair::default();
        p.set_name((*name).to_owned());
        p.set_value((*value).to_owned());
        p
    };
    let mut pairs: Vec<_> = family.labels.iter().zip(values).map(pair).collect();
    // As the registry's own vectors do, so that the same labels always read the same.
    pairs.sort_by(|a, b| a.name().cmp(b.name()));
    pairs
}
