//! What Evenkeel aims for in this benchmark: no clock, no I/O.

use super::balancer::Balancer;
use super::row::{Better, Row};
use crate::report::{Aim, Report};

/// Compares Evenkeel with the others, row by row, where both were measured.
pub(super) fn judge(report: &mut Report) {
    for row in Row::ALL {
        for against in [Balancer::Forwarder, Balancer::Plain, Balancer::Nftables, Balancer::Haproxy] {
            report.compare(row.label(), Balancer::Native.label(), against.label(), aim(row, against));
        }
        report.compare(row.label(), Balancer::Generic.label(), Balancer::Native.label(), None);
    }
}

fn aim(row: Row, against: Balancer) -> Option<Aim> {
    match (against, row) {
        (Balancer::Forwarder, _) => of_forwarder(row),
        (Balancer::Haproxy, Row::NewConnections) => Some(Aim::AtLeast(1.6)),
        (Balancer::Nftables, Row::NewConnections) => Some(Aim::AtLeast(1.0)),
        (Balancer::Plain, Row::ExchangeP50 | Row::PingP50) => Some(Aim::AtMost(1.0)),
        (Balancer::Haproxy, Row::CpuPerConnection) => Some(Aim::AtMost(0.25)),
        _ => None,
    }
}

/// The smallest forwarder is what XDP on this stand allows.
fn of_forwarder(row: Row) -> Option<Aim> {
    let least = match row {
        Row::RateFew => 0.95,
        Row::RateMany | Row::RateSyns => 0.85,
        // The rates again, from another side: without the receiver.
        Row::TimeFew | Row::TimeMany | Row::TimeSyns => return None,
        Row::KeepAlive
        | Row::NewConnections
        | Row::ApartConnections
        | Row::ExchangeP50
        | Row::ExchangeP99
        | Row::PingP50
        | Row::PingP99
        | Row::BulkDown
        | Row::BulkUp
        | Row::CpuPerConnection => 0.97,
    };
    Some(match row.better() {
        Better::Higher => Aim::AtLeast(least),
        Better::Lower => Aim::AtMost(1.0 / least),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report;

    fn report(rows: &[(Row, Balancer, f64)]) -> Report {
        let mut report = Report::new("lab", 1);
        report.rows = rows
            .iter()
            .map(|(row, balancer, value)| report::Row {
                scenario: row.label().into(),
                program: balancer.label().into(),
                median: *value,
                min: *value,
                unit: row.unit(),
                net: None,
            })
            .collect();
        judge(&mut report);
        report
    }

    #[test]
    fn cpu_time_is_met_at_a_quarter() {
        for (native, met) in [(31.0, true), (32.0, false)] {
            let row = Row::CpuPerConnection;
            let report = report(&[(row, Balancer::Native, native), (row, Balancer::Haproxy, 124.0)]);
            assert_eq!(report.ratios.iter().map(|r| r.met).collect::<Vec<_>>(), [Some(met)]);
        }
    }

    /// A rate of 0.96 of the forwarder's is too little, and so is a latency that is 1/0.96 of it.
    #[test]
    fn aims_know_which_values_are_better() {
        for (row, missed, met) in [(Row::KeepAlive, 96.0, 98.0), (Row::PingP99, 104.2, 102.0)] {
            for (value, expected) in [(missed, false), (met, true)] {
                let report = report(&[(row, Balancer::Native, value), (row, Balancer::Forwarder, 100.0)]);
                assert_eq!(report.ratios[0].met, Some(expected), "{row:?} {value}");
            }
        }
    }
}
