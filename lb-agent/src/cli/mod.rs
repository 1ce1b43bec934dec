//! The command line.

mod check;
mod node;
mod run;
mod status;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::admin::DEFAULT_ADDRESS;
use crate::logging::LogFormat;

/// Failure at run time.
const FAILED: u8 = 1;
/// The command line or the configuration is wrong; nothing was changed.
const USAGE: u8 = 2;

const EXIT_CODES: &str = "Exit status:\n  0  success\n  1  failure at run time\n  2  the command line or the configuration is wrong; nothing was changed";

/// Evenkeel: an XDP load balancer for Apache Superset.
///
/// The agent checks the pods and steers the XDP program, which forwards the packets.
#[derive(Debug, Parser)]
#[command(name = "lb-agent", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Attach the XDP program and balance until SIGTERM or SIGINT.
    ///
    /// A configuration with errors changes nothing. Needs root, or CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW and
    /// CAP_PERFMON. At the end the program is detached, and the flows that it forwarded end.
    #[command(after_help = EXIT_CODES)]
    Run(RunArgs),
    /// Say what is wrong with a configuration, all of it, one error a line.
    ///
    /// What does not fit this machine (interfaces that it does not have, ports that its own connections use) is a
    /// warning, because a file is often checked elsewhere; with --node it is an error, as it is for `run`.
    #[command(after_help = EXIT_CODES)]
    Check(CheckArgs),
    /// Show services, backends and the flow table of a running agent.
    #[command(after_help = EXIT_CODES)]
    Status(StatusArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// TOML file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// `human` or `json`; agent.log_format of the configuration by default. Lines go to standard error.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// error, warn, info, debug, trace, or a filter as in RUST_LOG; RUST_LOG by default, or info.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// TOML file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// What does not fit this machine is an error.
    #[arg(long)]
    node: bool,
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// Address and port of the agent's admin server (agent.admin).
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_ADDRESS)]
    admin: SocketAddr,
    /// As JSON: times in RFC 3339, counts as numbers, absent numbers as null.
    #[arg(long)]
    json: bool,
}

/// The program. Everything that it prints goes to standard output, everything that is wrong to standard error.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are errors to clap, and go to standard output.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { USAGE } else { 0 });
        }
    };
    let outcome = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::check(&args),
        Command::Status(args) => status::status(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody listens on standard error: nothing can be done about it.
            let _ = writeln!(std::io::stderr(), "{}", failure.text);
            ExitCode::from(failure.status)
        }
    }
}

/// How a command ends when it does not succeed.
#[derive(Debug)]
struct Failure {
    status: u8,
    /// One line, or one line for each error.
    text: String,
}

impl Failure {
    fn failed(e: impl std::fmt::Display) -> Self {
        Self { status: FAILED, text: format!("lb-agent: {e}") }
    }

    fn usage(text: impl std::fmt::Display) -> Self {
        Self { status: USAGE, text: text.to_string() }
    }
}

/// Writes to standard output. A reader who has gone away (`| head`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::failed(format!("standard output: {e}")))
        }
        _ => Ok(()),
    }
}

/// The agent is single-threaded: what it does fits a fraction of a core, and state has one owner.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("cannot start the runtime: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_help_text_ends_with_the_exit_codes() {
        let mut command = Cli::command();
        for sub in command.get_subcommands_mut() {
            let help = sub.render_long_help().to_string();
            assert!(help.contains("Exit status:") && help.contains("  2  "), "{help}");
        }
    }

    #[test]
    fn a_wrong_log_format_is_a_usage_error() {
        let e = Cli::try_parse_from(["lb-agent", "run", "--config", "x", "--log-format", "xml"]).unwrap_err();
        assert!(e.to_string().contains("want human or json"), "{e}");
        assert!(e.use_stderr());
    }
}
