//! Proofs: what Evenkeel claims about failures and fairness, put to the test with real TCP stacks and real servers, beside
//! other balancers.
//!
//! Each makes its own labs, and gives a [`Report`] with a table and with aims that hold or not.

pub mod accounting;
pub mod arena;
pub mod attempts;
pub mod draw;
mod name;
pub mod outage;
pub mod pods;
mod report;
pub mod rolling;
pub mod silence;
pub mod survivors;
pub mod uneven;

use std::io::Write;
use std::thread;
use std::time::Instant;

use anyhow::Result;

pub use name::Name;
pub use report::{Aim, Report};

impl From<Name> for &'static str {
    fn from(name: Name) -> Self {
        name.text()
    }
}

/// Carries out proofs, and hands on each outcome when it is there. `silence`, which takes five minutes and little work, runs beside the
/// others; what compares times has the machine for itself.
pub fn run_all(names: &[Name], mut done: impl FnMut(Name, Result<Report>)) {
    let (timed, others): (Vec<Name>, Vec<Name>) = names.iter().partition(|name| **name == Name::Uneven);
    thread::scope(|scope| {
        let silence = others.contains(&Name::Silence).then(|| scope.spawn(|| run(Name::Silence)));
        for name in others.into_iter().filter(|name| *name != Name::Silence) {
            done(name, run(name));
        }
        if let Some(thread) = silence {
            done(Name::Silence, thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
    });
    for name in timed {
        done(name, run(name));
    }
}

/// Carries out one proof.
///
/// # Errors
/// When it could not be carried out; an aim that does not hold is in the report.
pub fn run(name: Name) -> Result<Report> {
    let begun = Instant::now();
    let mut report = match name {
        Name::Kill => outage::kill(),
        Name::Hang => outage::hang_or_cut(outage::Loss::Hang),
        Name::Cut => outage::hang_or_cut(outage::Loss::Cut),
        Name::Uneven => uneven::prove(),
        Name::Accounting => accounting::prove(),
        Name::Rolling => rolling::prove(),
        Name::Silence => silence::prove(),
    };
    if let Ok(report) = &mut report {
        report.took = begun.elapsed();
    }
    report
}

/// Says on stderr what is being done.
pub(crate) fn progress(text: &str) {
    // Nobody to tell when stderr is closed.
    let _ = writeln!(std::io::stderr(), "{text}");
}
