//! What `cargo xtask superset` starts, once everything is built.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what was asked for, and the line that says why not"
)]

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use lb_tests::limits::allow_many_files;
use lb_tests::superset::{self, Place, REPLICAS};

/// Real Apache Supersets behind the balancer; see "cargo xtask superset --help".
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring it up, or what is missing of it.
    Up {
        /// How many replicas.
        #[arg(long, default_value_t = REPLICAS)]
        replicas: u8,
    },
    /// End it.
    Down {
        /// Also remove what PostgreSQL and Redis kept.
        #[arg(long)]
        purge: bool,
    },
    /// Say what there is.
    Status,
}

fn main() -> ExitCode {
    match run(&Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {}", format!("{e:#}").replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "network namespaces and XDP need root: run it as root");
    allow_many_files();
    let place = Place::find()?;
    match command {
        Command::Up { replicas } => {
            let _lock = place.lock()?;
            superset::up(&place, *replicas)?;
            print!("{}", superset::status(&place)?);
        }
        Command::Down { purge } => {
            let _lock = place.lock()?;
            superset::down(&place, *purge)?;
        }
        Command::Status => print!("{}", superset::status(&place)?),
    }
    Ok(())
}
