//! `cargo xtask ci`: what must be green before a change lands.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::build::{self, ObjectKind};
use crate::lint;
use crate::needs::Purpose;
use crate::setup;
use crate::test;

/// Everything that continuous integration runs: set-up, objects, lint, test
///
/// Works on a clean clone. Prints how long each stage took and, last, the count of tests.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// The command. Tests run even when lint fails, so that one run tells everything.
///
/// # Errors
/// When a stage cannot be carried out at all.
pub(crate) fn run(_args: &Args) -> Result<ExitCode> {
    let mut stages = Stages::default();
    stages.time("set-up", || setup::ensure(Purpose::Lint).and_then(|()| setup::ensure(Purpose::Test)))?;
    stages.time("XDP objects", || build::objects(ObjectKind::Plain))?;
    let lint = stages.time("lint", || lint::run(&lint::Args {}));
    let counts = stages.time("test", || test::run_all(None));
    stages.print();
    if let Err(e) = &lint {
        eprintln!("error: {e:#}");
    }
    let counts = counts?;
    println!("{counts}");
    Ok(if lint.is_ok() && counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How long each stage took.
#[derive(Default)]
struct Stages {
    done: Vec<(&'static str, Duration)>,
}

impl Stages {
    fn time<T>(&mut self, name: &'static str, stage: impl FnOnce() -> T) -> T {
        println!("ci: {name}");
        let start = Instant::now();
        let result = stage();
        self.done.push((name, start.elapsed()));
        result
    }

    fn print(&self) {
        for (name, took) in &self.done {
            println!("ci: {name:<12} {:>6.1} s", took.as_secs_f64());
        }
    }
}
