//! The command line.

mod check;
mod doctor;
mod drain;
mod reload;
mod run;
mod status;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::admin::v1::parse_deadline;
use crate::admin::{DEFAULT_ADDRESS, DEFAULT_SOCKET};
use crate::logging::LogFormat;
use drain::BackendName;

/// Failure at run time.
const FAILED: u8 = 1;
/// The command line or the configuration is wrong; nothing was changed.
const USAGE: u8 = 2;
/// The configuration is right, and only a restart can bring it into use; nothing was changed.
const RESTART: u8 = 3;
/// A drain's deadline came before its end.
const DEADLINE: u8 = 4;

const EXIT_CODES: &str = "Exit status:\n  0  success\n  1  failure at run time\n  2  the command line or the configuration is wrong; nothing was changed";

const RELOAD_EXIT_CODES: &str = "Exit status:\n  0  success: the file is the configuration in use\n  1  no agent answers\n  2  the command line is wrong, or the configuration has errors; nothing was changed\n  3  the configuration needs a restart of the agent; nothing was changed";

/// As in the systemd unit.
const DEFAULT_CONFIG: &str = "/etc/evenkeel/lb.toml";

const DOCTOR_EXIT_CODES: &str = "Exit status:\n  0  nothing has failed; there may be warnings\n  1  something has failed, and standard output says what\n  2  the command line or the configuration is wrong";

const DRAIN_EXIT_CODES: &str = "Exit status:\n  0  success; with --wait: the backend may be stopped, no flow waits\n  1  no agent answers, or the backend was wanted back meanwhile\n  2  the command line is wrong, or there is no such backend; nothing was changed\n  4  with --wait: the deadline came first; the backend gets no new flows, but some may still wait";

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
    /// Let a running agent read its configuration file again.
    ///
    /// All of it is taken, or nothing: when the file has errors they are listed, and the old configuration stays in
    /// use. So it does when the file asks for what only a restart can do (agent.interfaces, agent.xdp_mode, agent.admin,
    /// agent.socket, nat.addresses, nat.ports). Flows of backends that stay go on; those of a backend that is removed are
    /// reset, so drain it first. SIGHUP does the same, without an answer.
    #[command(after_help = RELOAD_EXIT_CODES)]
    Reload(ReloadArgs),

    /// Look at everything that the balancer depends on, and say what is wrong and what to do.
    ///
    /// Kernel, interfaces, addresses, and of each backend the way there, its health check with and without a session
    /// cookie (which Superset looks up in Redis), and whether all replicas share their sessions and SECRET_KEY. One line each: ok, warn or fail. Works
    /// beside a running agent and without one. Changes nothing, but leaves an empty session in Redis for each visit to a login
    /// page: one for each backend that is compared, and one more for each service. Needs the rights that `run` needs.
    #[command(after_help = DOCTOR_EXIT_CODES)]
    Doctor(DoctorArgs),
    /// Give a backend no new flows, and say when it may be stopped.
    ///
    /// Existing flows go on. The drain is complete when no flow waits for an answer and no data has passed for the
    /// service's drain_idle (5s by default), which takes at least that long; connections that are kept open without
    /// a request do not count. After that, and after the deadline, the backend gets no new flows until `undrain`. The
    /// drain goes on when this command is interrupted. Draining a backend again begins anew. When no other backend
    /// can be reached, new flows go to draining ones all the same.
    #[command(after_help = DRAIN_EXIT_CODES)]
    Drain(DrainArgs),
    /// Give a backend that is draining or drained new flows again.
    #[command(after_help = EXIT_CODES)]
    Undrain(UndrainArgs),
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
struct DoctorArgs {
    /// TOML file.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Only this service and its backends.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Do not compare sessions and keys: no login page is visited.
    #[arg(long)]
    no_sessions: bool,
    /// As JSON: an array of objects with level, subject, text and advice.
    #[arg(long)]
    json: bool,
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

#[derive(Debug, Args)]
struct ReloadArgs {
    #[command(flatten)]
    at: SocketArgs,
}

#[derive(Debug, Args)]
struct DrainArgs {
    /// The backend, by the names in the configuration.
    #[arg(value_name = "SERVICE/BACKEND", value_parser = BackendName::parse)]
    backend: BackendName,
    /// Until when to watch at most: 1s to 24h, as 10m or 600s; the service's drain_deadline (10m) by default.
    #[arg(long, value_name = "DURATION", value_parser = parse_deadline)]
    deadline: Option<Duration>,
    /// Return at the end of the drain, and show how far it is on standard error until then.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    at: SocketArgs,
}

#[derive(Debug, Args)]
struct UndrainArgs {
    /// The backend, by the names in the configuration.
    #[arg(value_name = "SERVICE/BACKEND", value_parser = BackendName::parse)]
    backend: BackendName,
    #[command(flatten)]
    at: SocketArgs,
}

#[derive(Debug, Args)]
struct SocketArgs {
    /// Path of the agent's socket (agent.socket).
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// As JSON on standard output, one object a line; with --wait one for each change.
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
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Status(args) => status::status(&args),
        Command::Reload(args) => reload::reload(&args),
        Command::Drain(args) => drain::drain(&args),
        Command::Undrain(args) => drain::undrain(&args),
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
