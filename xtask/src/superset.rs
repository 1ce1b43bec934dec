//! `cargo xtask superset`: real Apache Supersets behind the balancer.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::build::{self, ObjectKind};
use crate::needs::Purpose;
use crate::run::{is_root, root};
use crate::setup;

#[path = "../../tests/src/superset/name.rs"]
#[expect(unreachable_pub, reason = "shared with the program, to which it is public")]
mod name;
use name::Scenario;

/// Real Apache Supersets with PostgreSQL and Redis behind the balancer
///
/// Works in network namespaces of this machine: a client, the balancer, three replicas and a host for the databases. What is
/// started stays between commands, until "down". Superset is installed from PyPI with pinned versions, in
/// ~/.cache/evenkeel/superset (850 MB, two minutes, once). Needs root.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Step,
}

#[derive(clap::Subcommand)]
enum Step {
    /// Install what is missing and bring everything up; what runs already stays as it is
    Up {
        /// How many replicas, 3 to 5
        #[arg(long, default_value_t = 3)]
        replicas: u8,
    },
    /// End everything and remove the network; the installation and the databases stay
    Down {
        /// Also remove what PostgreSQL and Redis kept, in /var/lib/evenkeel/superset
        #[arg(long)]
        purge: bool,
    },
    /// Say what runs, and how to play with it
    Status,
    /// Bring it up, and carry out scenarios: what users do while something happens to the replicas
    ///
    /// Beside HAProxy and nginx in front of the same replicas where that says something. Prints figures for each, a line for
    /// each in the end, and writes target/superset/NAME.json. Exit status 0 when everything holds. The stand stays up.
    Prove {
        /// Which; all of them, which takes about half an hour, when none is named
        scenarios: Vec<Scenario>,
    },
}

impl Step {
    /// One scenario alone needs a browser.
    fn purpose(&self) -> Purpose {
        match self {
            Self::Prove { scenarios } if scenarios.is_empty() || scenarios.contains(&Scenario::Dashboard) => {
                Purpose::Browser
            }
            Self::Prove { .. } | Self::Up { .. } | Self::Down { .. } | Self::Status => Purpose::Superset,
        }
    }
}

/// The command; replaces this process by the stand's own program.
///
/// # Errors
/// When this user is not root, or something does not compile.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if !is_root() {
        bail!("the stand needs root, for network namespaces and XDP: run it as root");
    }
    setup::ensure(args.command.purpose())?;
    build::objects(ObjectKind::Plain)?;
    let [agent, superset] = build::programs([build::AGENT, ("lb-tests", "superset")], true)?;
    let mut cmd = Command::new(&superset);
    cmd.env("EVENKEEL_AGENT", agent).current_dir(root());
    match &args.command {
        Step::Up { replicas } => cmd.args(["up", "--replicas", &replicas.to_string()]),
        Step::Down { purge } => cmd.arg("down").args(purge.then_some("--purge")),
        Step::Status => cmd.arg("status"),
        Step::Prove { scenarios } => cmd.arg("prove").args(scenarios.iter().map(|scenario| scenario.text())),
    };
    Err(cmd.exec()).with_context(|| format!("cannot start {}", superset.display()))
}
