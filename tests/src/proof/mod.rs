//! Proofs: what Evenkeel claims about failures and fairness, put to the test with real TCP stacks and real servers, beside
//! other balancers.
//!
//! Each makes its own labs, and gives a [`Report`] with a table and with aims that hold or not.

pub mod arena;
pub mod attempts;
mod name;
pub mod outage;
mod report;
pub mod survivors;

use std::io::Write;

use anyhow::Result;

pub use name::Name;
pub use report::{Aim, Report};

/// Carries out proofs, one after the other as they are asked for.
pub fn run_all(names: &[Name]) -> impl Iterator<Item = (Name, Result<Report>)> {
    names.iter().map(|name| (*name, run(*name)))
}

/// Carries out one proof.
///
/// # Errors
/// When it could not be carried out; an aim that does not hold is in the report.
pub fn run(name: Name) -> Result<Report> {
    match name {
        Name::Kill => outage::kill(),
        Name::Hang => outage::hang_or_cut(outage::Loss::Hang),
        Name::Cut => outage::hang_or_cut(outage::Loss::Cut),
    }
}

/// Says on stderr what is being done.
pub(crate) fn progress(text: &str) {
    // Nobody to tell when stderr is closed.
    let _ = writeln!(std::io::stderr(), "{text}");
}
