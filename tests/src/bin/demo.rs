//! What `cargo xtask demo` starts, once everything is built.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the last line, good or bad")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lb_tests::demo::{Options, play};
use lb_tests::lab::programs;
use lb_tests::limits::allow_many_files;

/// The balancer at work in a lab; see "cargo xtask demo --help".
#[derive(Parser)]
struct Arguments {
    /// Leave everything up at the end, and say how to play with it.
    #[arg(long)]
    keep: bool,
    /// Where the configuration and the agent's log are written; "demo" beside this program's directory otherwise.
    #[arg(long)]
    directory: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(line) => {
            println!("\n{line}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("\nFAILED: {}", format!("{e:#}").replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<String> {
    ensure!(nix::unistd::geteuid().is_root(), "network namespaces and XDP need root: run it as root");
    allow_many_files();
    let server = programs::beside("lab-server")?;
    let beside = server.ancestors().nth(2).context("a program without a directory")?.join("demo");
    play(&Options {
        agent: programs::agent()?,
        server,
        directory: shortened(arguments.directory.unwrap_or(beside)),
        keep: arguments.keep,
    })
}

/// A path as somebody in this directory would write it.
fn shortened(path: PathBuf) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).map(Path::to_owned).unwrap_or(path)
}
