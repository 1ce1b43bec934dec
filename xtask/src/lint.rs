//! `cargo xtask lint`: what a change must satisfy besides its tests.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::build::{crates, ebpf_target_dir};
use crate::needs::Purpose;
use crate::run::{checked, host_cargo, output, root};
use crate::setup::{self, DENY_VERSION};
use crate::toolchain::{Toolchain, installed};

/// Check format, clippy (host crates and XDP programs), rustdoc, and the dependencies' licences and sources
///
/// Runs all checks even when one fails. Known vulnerabilities are looked up where the advisory database can be
/// reached; where not, a line says that they were not.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// A check and its name.
type Check = (&'static str, fn() -> Result<()>);

/// The command.
///
/// # Errors
/// When a check fails; the message names all that did.
pub(crate) fn run(_args: &Args) -> Result<()> {
    setup::ensure(Purpose::Lint)?;
    let checks: [Check; 5] = [
        ("format", format),
        ("clippy", clippy),
        ("clippy for the XDP programs", ebpf_clippy),
        ("rustdoc", rustdoc),
        ("cargo deny", deny),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        println!("lint: {name}");
        if let Err(e) = check() {
            eprintln!("lint: {name}: {e:#}");
            failed.push(name);
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("lint failed: {}", failed.join(", ")) }
}

fn format() -> Result<()> {
    checked(host_cargo().args(["fmt", "--all", "--check"]))?;
    crates().iter().try_for_each(|krate| {
        checked(host_cargo().args(["fmt", "--check", "--manifest-path"]).arg(krate.dir.join("Cargo.toml")))
    })
}

fn clippy() -> Result<()> {
    checked(host_cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn ebpf_clippy() -> Result<()> {
    let toolchain = Toolchain::find().context("no eBPF toolchain: run \"cargo xtask setup\"")?;
    crates().iter().try_for_each(|krate| {
        let mut cmd = toolchain.clippy(&krate.dir)?;
        cmd.arg("--target-dir").arg(ebpf_target_dir()).args(["--", "-D", "warnings"]);
        checked(&mut cmd)
    })
}

fn rustdoc() -> Result<()> {
    checked(host_cargo().args(["doc", "--no-deps", "--workspace"]).env("RUSTDOCFLAGS", "-D warnings"))
}

/// All workspaces: the XDP programs have dependencies of their own.
fn deny() -> Result<()> {
    let cargo_deny = installed("cargo-deny", DENY_VERSION).context("cargo-deny is missing")?;
    let deny = || {
        let mut cmd = Command::new(&cargo_deny);
        cmd.current_dir(root());
        cmd
    };
    let advisories = match output(deny().args(["fetch", "db"])) {
        Ok(_) => Some("advisories"),
        Err(_) => {
            println!("note: advisories were NOT checked: the advisory database cannot be reached from here");
            None
        }
    };
    let mut manifests = vec![root().join("Cargo.toml")];
    manifests.extend(crates().iter().map(|krate| krate.dir.join("Cargo.toml")));
    manifests.iter().try_for_each(|manifest| {
        let mut cmd = deny();
        cmd.arg("--manifest-path").arg(manifest).arg("--config").arg(root().join("deny.toml"));
        checked(cmd.args(["check", "bans", "licenses", "sources"]).args(advisories))
    })
}
