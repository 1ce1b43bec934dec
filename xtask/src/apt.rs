//! Debian packages.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::run::{checked, output, which};

/// Whether this machine has Debian's package manager.
pub(crate) fn available() -> bool {
    which("apt-get").is_some()
}

/// What a person would type to install `packages`.
pub(crate) fn command_line(packages: &[&str]) -> String {
    format!("apt-get update && apt-get install -y --no-install-recommends {}", packages.join(" "))
}

/// Installs `packages`, removes nothing, and leaves no service of theirs running.
///
/// # Errors
/// When apt fails; the message says which packages.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let _quiet = NoServices::begin()?;
    update();
    if checked(apt().args(["install", "-y", "-qq", "--no-install-recommends", "--no-remove"]).args(packages))
        .is_err()
    {
        bail!(
            "cannot install {}: see apt's message above (no network, or another package is in the way)",
            packages.join(" ")
        );
    }
    for (_, service) in SERVICES.iter().filter(|(package, _)| packages.contains(package)) {
        disable(service)?;
    }
    Ok(())
}

/// Fetches the package lists. That some cannot be had is no error: what is needed may be in the others.
pub(crate) fn update() {
    if let Err(e) = checked(apt().args(["update", "-qq"])) {
        eprintln!("warning: {e:#}; trying with the package lists that are here");
    }
}

/// Packages that bring a service, and what that is called.
const SERVICES: [(&str, &str); 4] = [
    ("haproxy", "haproxy"),
    ("libnginx-mod-stream", "nginx"),
    ("postgresql-15", "postgresql"),
    ("redis-server", "redis-server"),
];

fn apt() -> Command {
    let mut cmd = Command::new("apt-get");
    cmd.env("DEBIAN_FRONTEND", "noninteractive").args([
        "-o",
        "Dpkg::Use-Pty=0",
        "-o",
        "DPkg::Lock::Timeout=120",
    ]);
    cmd
}

/// Keeps a service that was just installed from starting at the next boot, and makes sure it is not running.
fn disable(name: &str) -> Result<()> {
    if Path::new("/run/systemd/system").is_dir() {
        checked(Command::new("systemctl").args(["--quiet", "disable", "--now", name]))?;
    } else if which("update-rc.d").is_some() {
        output(Command::new("update-rc.d").args([name, "disable"]))?;
    }
    if is_running(name) {
        bail!(
            "{name} is running although it was installed without its service: stop it (it may hold port 80)"
        );
    }
    Ok(())
}

/// Whether a process of this name exists.
fn is_running(name: &str) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    processes
        .flatten()
        .any(|p| fs::read_to_string(p.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name))
}

/// While this lives, packages do not start their services: Debian's maintainer scripts ask `policy-rc.d`.
struct NoServices {
    ours: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn begin() -> Result<Self> {
        survive_interrupts()?;
        // A policy that is there already (containers have one) is the administrator's.
        let created = fs::OpenOptions::new().write(true).create_new(true).open(POLICY);
        let Ok(mut file) = created else { return Ok(Self { ours: false }) };
        let guard = Self { ours: true };
        file.write_all(b"#!/bin/sh\n# Temporary, by `cargo xtask setup`: no service starts while it installs.\nexit 101\n")
            .and_then(|()| file.set_permissions(fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot write {POLICY}"))?;
        Ok(guard)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours && fs::remove_file(POLICY).is_err() {
            eprintln!(
                "warning: cannot remove {POLICY}: remove it, or no service starts when it is installed"
            );
        }
    }
}

/// Ctrl-C stops apt-get, which shares the terminal; this process lives on to remove [`POLICY`].
fn survive_interrupts() -> Result<()> {
    extern "C" fn nothing(_: nix::libc::c_int) {}
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler does nothing at all, so it is safe at any point of the program.
        unsafe { sigaction(signal, &action) }.context("cannot set a signal handler")?;
    }
    Ok(())
}
