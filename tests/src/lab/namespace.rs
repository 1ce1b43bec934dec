//! One network namespace: made by name, entered by thread or by child process, removed on drop.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};

use super::cleanup;

/// A network namespace under `/run/netns`, removed with everything that runs in it when dropped, unless it is kept.
#[derive(Debug)]
pub(super) struct Namespace {
    name: String,
    handle: File,
    /// Stays when this value is dropped.
    kept: bool,
}

impl Namespace {
    /// Makes the namespace and brings its loopback up.
    pub(super) fn create(name: &str) -> Result<Self> {
        cleanup::remember(name);
        cleanup::undisturbed(|| run(Command::new("ip").args(["netns", "add", name]), ""))?;
        let mut namespace = Self::open(name)?;
        namespace.kept = false;
        namespace.ip("link set lo up\n")?;
        Ok(namespace)
    }

    /// A namespace that is there, and stays.
    pub(super) fn open(name: &str) -> Result<Self> {
        let path = format!("/run/netns/{name}");
        let handle = File::open(&path).with_context(|| format!("open {path}"))?;
        Ok(Self { name: name.to_owned(), handle, kept: true })
    }

    /// Lets it stay.
    pub(super) fn keep(mut self) {
        cleanup::forget(&self.name);
        self.kept = true;
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Makes `command` start inside. Only the network is another; files and `/sys` stay the same.
    pub(super) fn place(&self, command: &mut Command) -> Result<()> {
        let handle = self.handle.try_clone().context("duplicate a namespace handle")?;
        // SAFETY: the closure runs between fork and exec and makes one system call, which is
        // async-signal-safe, on a descriptor that it owns.
        unsafe {
            command.pre_exec(move || Ok(setns(handle.as_fd(), CloneFlags::CLONE_NEWNET)?));
        }
        Ok(())
    }

    /// Runs a command inside and waits for it.
    pub(super) fn output(&self, command: &mut Command) -> Result<Output> {
        self.place(command)?;
        command.output().with_context(|| format!("run {command:?}"))
    }

    /// Runs `f` inside, on a thread of its own, so that the caller's thread never changes its namespace.
    pub(super) fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(self.handle.as_fd(), CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("enter {} ({})", self.name, self.handle.as_raw_fd()))?;
                Ok(f())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A batch of `ip` commands, one a line.
    pub(super) fn ip(&self, batch: &str) -> Result<()> {
        run(Command::new("ip").args(["-n", &self.name, "-batch", "-"]), batch)
    }

    /// A batch of `tc` commands, one a line.
    pub(super) fn tc(&self, batch: &str) -> Result<()> {
        run(Command::new("tc").args(["-n", &self.name, "-batch", "-"]), batch)
    }

    /// `ethtool -K device features…`
    pub(super) fn offloads(&self, device: &str, features: &[&str]) -> Result<()> {
        let mut command = Command::new("ethtool");
        command.args(["-K", device]).args(features);
        self.place(&mut command)?;
        run(&mut command, "")
    }

    /// Writes keys below `/proc/sys/net`, which is the namespace's own when it is opened inside.
    pub(super) fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            for (key, value) in settings {
                std::fs::write(format!("/proc/sys/net/{key}"), value)
                    .with_context(|| format!("write net/{key} in {}", self.name))?;
            }
            Ok(())
        })?
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if !self.kept {
            cleanup::remove(&self.name);
        }
    }
}

/// Runs a command with `input` on stdin; what it printed is in the error when it fails.
fn run(command: &mut Command, input: &str) -> Result<()> {
    let program = command.get_program().to_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {} (is it installed?)", program.display()))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).with_context(|| format!("write to {}", program.display()))?;
    }
    let output = child.wait_with_output().context("wait for a child")?;
    let arguments: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    ensure!(
        output.status.success(),
        "{} {} {input:?}: {}",
        program.display(),
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
