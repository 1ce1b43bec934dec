//! `cargo xtask test`: every test of the workspace, and a count.

use std::io::{BufRead, BufReader, pipe};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::build::{self, ObjectKind};
use crate::count::{Counter, Counts};
use crate::kernel;
use crate::needs::Purpose;
use crate::run::{checked, host_cargo, is_root};
use crate::setup;
use crate::toolchain::Toolchain;
use crate::vm;

/// Set up, build and run all tests: unit, property, data path, end to end
///
/// Ends with a line "N passed, N failed, N skipped". Tests that load programs or make network namespaces need
/// root; without it they are skipped, each with a line "SKIPPED: test: why". Exit status 1 when a test fails.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only tests whose name contains this
    name: Option<String>,
}

/// The command.
///
/// # Errors
/// When something does not compile; a test that fails is in the exit code.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let counts = run_all(args.name.as_deref())?;
    println!("{counts}");
    Ok(if counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Sets up, builds, runs the tests whose name contains `filter`, and counts them.
///
/// # Errors
/// When something does not compile or the tests cannot be started.
pub(crate) fn run_all(filter: Option<&str>) -> Result<Counts> {
    let object = prepare()?;
    for obstacle in kernel::obstacles() {
        eprintln!("note: {obstacle}");
    }
    let cargo = || {
        let mut cmd = host_cargo();
        if object == Object::Absent {
            cmd.env("EVENKEEL_BPF_OBJECT", "none");
        }
        cmd
    };
    // The programs that tests start and the tests themselves; apart from the tests' run, to show progress.
    checked(cargo().args(["build", "--workspace", "--all-targets"]))?;

    let mut tests = cargo();
    tests.args(["test", "--workspace", "--no-fail-fast", "--color", "never", "--"]).args(filter);
    tests.env("EVENKEEL_AGENT", build::program(build::AGENT.1, false));
    if vm::is_here() {
        tests.env("EVENKEEL_VM", vm::dir());
    }
    count(&mut tests)
}

/// Whether there is an XDP object to test.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Object {
    Built,
    Absent,
}

/// Sets up and builds the objects. Without root what is missing cannot be installed, and the pure tests run
/// all the same.
fn prepare() -> Result<Object> {
    if let Err(e) = setup::ensure(Purpose::Test) {
        if is_root() {
            return Err(e);
        }
        eprintln!("note: {e:#}");
        if Toolchain::find().is_none() {
            eprintln!("note: no eBPF toolchain: tests of the data path are skipped");
            return Ok(Object::Absent);
        }
    }
    build::objects(ObjectKind::Plain)?;
    Ok(Object::Built)
}

/// Runs the tests, shows their output as it comes, and counts.
fn count(tests: &mut Command) -> Result<Counts> {
    let (reader, writer) = pipe().context("cannot make a pipe")?;
    tests.stdout(writer.try_clone().context("cannot copy a pipe")?).stderr(writer);
    let mut child = tests.spawn().context("cannot start cargo test")?;
    // The command holds the pipe's writing end: without this the reading below never ends.
    tests.stdout(Stdio::null()).stderr(Stdio::null());

    let mut counter = Counter::default();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.context("cannot read the output of cargo test")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        counter.line(&line);
    }
    let status = child.wait().context("cannot wait for cargo test")?;
    let mut counts = counter.finish();
    if !status.success() && counts.failed == 0 {
        // A doc test that does not compile, for one.
        eprintln!("error: cargo test failed without a failed test ({status})");
        counts.failed = 1;
    }
    Ok(counts)
}
