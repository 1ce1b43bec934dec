//! Carrying out scenarios, one after the other, on the stand.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;

use super::name::Scenario;
use super::scenario::{
    busy, dashboard, databases, doctor, login, long_query, loss, rolling, scale, tls, websocket,
};
use super::stand::Stand;
use crate::proof::{Report, progress};

impl From<Scenario> for &'static str {
    fn from(scenario: Scenario) -> Self {
        scenario.text()
    }
}

/// Carries out one scenario, on a stand on which everything is well first. What it makes besides a report goes to `out`.
///
/// # Errors
/// When it could not be carried out; an aim that does not hold is in the report.
pub fn prove(stand: &mut Stand, scenario: Scenario, out: &Path) -> Result<Report> {
    stand.ensure()?;
    progress(&format!("{}: begins", scenario.text()));
    let begun = Instant::now();
    let mut report = match scenario {
        Scenario::Login => login::prove(stand),
        Scenario::LongQuery => long_query::prove(stand, long_query::SILENCE),
        Scenario::Kill => loss::prove(stand, loss::Loss::Kill),
        Scenario::Rolling => rolling::prove(stand, rolling::QUERY),
        Scenario::Busy => busy::prove(stand),
        Scenario::Hang => loss::prove(stand, loss::Loss::Hang),
        Scenario::Cut => loss::prove(stand, loss::Loss::Cut),
        Scenario::Graceful => loss::prove(stand, loss::Loss::Graceful),
        Scenario::Databases => databases::prove(stand),
        Scenario::Tls => tls::prove(stand),
        Scenario::Dashboard => dashboard::prove(stand, out),
        Scenario::Websocket => websocket::prove(stand),
        Scenario::Scale => scale::prove(stand),
        Scenario::Doctor => doctor::prove(stand),
    }?;
    report.took = begun.elapsed();
    Ok(report)
}
