//! `cargo xtask demo`: the balancer at work in a lab of network namespaces.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::build::{self, ObjectKind};
use crate::needs::Purpose;
use crate::run::{is_root, root};
use crate::setup;

/// Show the balancer at work: a lab, real HTTP, a backend that is killed and returns
///
/// Sets up and builds first. The lab is network namespaces of this machine: a client, the balancer and three
/// backends; nothing else of the machine is touched, and all of it is gone afterwards. Needs root.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave the lab up and say how to play with it ("cargo xtask clean-lab" removes it)
    #[arg(long)]
    keep: bool,
}

/// The command; replaces this process by the demo's own program.
///
/// # Errors
/// When this user is not root, or something does not compile.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if !is_root() {
        bail!("the demo needs root, for network namespaces and XDP: run it as root");
    }
    setup::ensure(Purpose::Demo)?;
    build::objects(ObjectKind::Plain)?;
    // The demo looks for the server beside itself.
    let [agent, demo, _] =
        build::programs([build::AGENT, ("lb-tests", "demo"), ("lb-tests", "lab-server")], false)?;
    let mut cmd = Command::new(&demo);
    cmd.env("EVENKEEL_AGENT", agent).current_dir(root());
    if args.keep {
        cmd.arg("--keep");
    }
    Err(cmd.exec()).with_context(|| format!("cannot start {}", demo.display()))
}
