//! What `cargo xtask superset` starts, once everything is built.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what was asked for, and the line that says why not"
)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use lb_tests::limits::allow_many_files;
use lb_tests::machine;
use lb_tests::superset::{self, Place, REPLICAS, Scenario, Stand};

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
    /// Carry out scenarios, all of them when none is named; brings the stand up first, and leaves it so.
    Prove {
        /// Which.
        scenarios: Vec<Scenario>,
        /// Directory for NAME.json.
        #[arg(long)]
        out: Option<PathBuf>,
    },
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
        Command::Prove { scenarios, out } => {
            let _lock = place.lock()?;
            let out = out.clone().unwrap_or_else(|| machine::root().join("target/superset"));
            let all = Scenario::value_variants();
            let mut stand = superset::up(&place, REPLICAS)?;
            prove(&mut stand, if scenarios.is_empty() { all } else { scenarios }, &out)?;
        }
    }
    Ok(())
}

/// Carries out scenarios, tells of each when it is over, and of all in the end.
fn prove(stand: &mut Stand, scenarios: &[Scenario], out: &Path) -> Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("make {}", out.display()))?;
    let (mut lines, mut failed) = (Vec::new(), 0);
    for scenario in scenarios {
        let saved = superset::prove(stand, *scenario, out).and_then(|report| {
            println!("\n{}{}\n", report.text(), report.save(out)?.display());
            Ok(report)
        });
        let line = match &saved {
            Ok(report) => report.line(),
            Err(e) => {
                format!("{:<12} FAILED  could not be carried out: {e:#}", scenario.text()).replace('\n', " ")
            }
        };
        println!("{line}");
        failed += usize::from(!saved.is_ok_and(|report| report.failure().is_none()));
        lines.push(line);
    }
    println!("\n{}", lines.join("\n"));
    ensure!(failed == 0, "{failed} of {} scenarios failed: see above", scenarios.len());
    Ok(())
}
