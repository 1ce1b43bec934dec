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
mod build;
mod kernel;
mod needs;
mod run;
mod setup;
mod toolchain;

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
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(args) => setup::run(&args),
        Command::Build(args) => build::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}
