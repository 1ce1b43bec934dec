//! What `cargo xtask proof` starts, once everything is built.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "tables, and the line that says why not")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use lb_tests::lab::is_ending;
use lb_tests::limits::allow_many_files;
use lb_tests::machine;
use lb_tests::proof::{self, Name};

/// Claims of the balancer put to the test; see "cargo xtask proof --help".
#[derive(Parser)]
struct Arguments {
    /// Which.
    #[arg(required = true)]
    names: Vec<Name>,
    /// Directory for NAME.json.
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(failures) if failures.is_empty() => ExitCode::SUCCESS,
        Ok(failures) => {
            failures.iter().for_each(|failure| eprintln!("FAILED: {failure}"));
            ExitCode::FAILURE
        }
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns a line for each proof that failed.
fn run(arguments: &Arguments) -> Result<Vec<String>> {
    ensure!(nix::unistd::geteuid().is_root(), "network namespaces and XDP need root: run it as root");
    allow_many_files();
    let out = arguments.out.clone().unwrap_or_else(|| machine::root().join("target/proof"));
    let mut failures = Vec::new();
    proof::run_all(&arguments.names, |name, outcome| {
        while is_ending() {
            // The process ends from another thread, which removes the labs first.
            std::thread::park();
        }
        let saved = outcome.and_then(|report| {
            println!("{}", report.text());
            println!("{}\n", report.save(&out)?.display());
            Ok(report.failure())
        });
        match saved {
            Ok(failure) => failures.extend(failure),
            Err(e) => failures.push(format!("{}: {}", name.text(), format!("{e:#}").replace('\n', " "))),
        }
    });
    Ok(failures)
}
