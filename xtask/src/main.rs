//! Evenkeel's developer commands: everything that is more than one call of cargo.
//!
//! One file per command. [`toolchain`] finds what compiles eBPF, [`needs`] lists what else a machine must have,
//! [`apt`] installs it, [`run`] starts programs.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program talks on its terminal"
)]

mod apt;
mod bench;
mod build;
mod ci;
mod clean;
mod count;
mod demo;
mod kernel;
mod lint;
mod needs;
mod proof;
mod run;
mod setup;
mod superset;
mod test;
mod toolchain;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Evenkeel's developer commands. Each sets up what it needs first.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Setup(setup::Args),
    Build(build::Args),
    Test(test::Args),
    Demo(demo::Args),
    Lint(lint::Args),
    Bench(bench::Args),
    Proof(proof::Args),
    Superset(superset::Args),
    Ci(ci::Args),
    CleanLab(clean::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(args) => setup::run(&args).map(done),
        Command::Build(args) => build::run(&args).map(done),
        Command::Test(args) => test::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Lint(args) => lint::run(&args).map(done),
        Command::Bench(args) => bench::run(&args),
        Command::Proof(args) => proof::run(&args),
        Command::Superset(args) => superset::run(&args),
        Command::Ci(args) => ci::run(&args),
        Command::CleanLab(args) => clean::run(&args).map(done),
    };
    match result {
        Ok(code) => code,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// What a command that has no exit code of its own ends with.
fn done((): ()) -> ExitCode {
    ExitCode::SUCCESS
}
