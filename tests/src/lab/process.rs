//! A child process of a lab.

use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{cleanup, wait_until};

/// A running program in one of a lab's hosts; killed when dropped.
#[derive(Debug)]
#[must_use = "it ends when dropped"]
pub struct Process {
    child: Child,
}

impl Process {
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        // Returns when the program runs, and is in its namespace.
        let child = cleanup::undisturbed(|| command.spawn()).with_context(|| format!("start {command:?}"))?;
        Ok(Self { child })
    }

    /// The process id, which is the program's own: nothing stands between.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its standard input, when the command asked for a pipe and nobody took it before.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Its standard output, when the command asked for a pipe and nobody took it before.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Its standard error, when the command asked for a pipe and nobody took it before.
    pub fn stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.id(), signal).with_context(|| format!("send {signal} to {}", self.pid()))
    }

    /// Kills it at once, as a crash would, and waits until it is gone.
    pub fn kill(&mut self) {
        // Either fails only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end and waits.
    ///
    /// # Errors
    /// When it still runs after `limit`; it is killed then.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        let ended = self.wait(limit);
        if ended.is_err() {
            self.kill();
        }
        ended
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let mut status = None;
        wait_until(&format!("process {} ends", self.pid()), limit, || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        })?;
        status.context("a process without a status")
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Lets it run on after this value and this process are gone.
    #[expect(clippy::mem_forget, reason = "dropping is what would kill it")]
    pub fn keep(self) -> u32 {
        let pid = self.pid();
        std::mem::forget(self);
        pid
    }

    fn id(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
