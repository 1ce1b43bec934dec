//! A program that outlives the command that started it, and is found again by its process id.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::lab::{Lab, wait_until};

/// A started program and the processes that it makes: one process group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    pid: i32,
    /// When it was started, in clock ticks since the machine was: ids are used again.
    born: u64,
}

/// What matters of `/proc/PID/stat`.
struct Stat {
    state: char,
    group: i32,
    born: u64,
}

impl Daemon {
    /// Starts a prepared command in a host of the lab. What it prints goes to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(lab: &Lab, host: &str, log: &Path, command: &mut Command) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("write {}", log.display()))?;
        let copy = file.try_clone().context("duplicate a log's handle")?;
        command.process_group(0).stdin(Stdio::null()).stdout(file).stderr(copy);
        let pid = lab.spawn(host, command)?.keep().cast_signed();
        let born = stat(pid).with_context(|| format!("no process {pid} any more"))?.born;
        Ok(Self { pid, born })
    }

    /// Its process id.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether the program itself runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.born == self.born && stat.is_alive())
    }

    /// Sends a signal to the program alone. That it has ended already is no error.
    ///
    /// # Errors
    /// When this user may not.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if !self.is_running() {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(e) => Err(e).with_context(|| format!("send {signal} to process {}", self.pid)),
        }
    }

    /// Sends a signal to all of its processes, as to a container.
    ///
    /// # Errors
    /// When this user may not.
    pub fn signal_all(&self, signal: Signal) -> Result<()> {
        if self.processes() == 0 {
            return Ok(());
        }
        match killpg(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(e) => Err(e).with_context(|| format!("send {signal} to process group {}", self.pid)),
        }
    }

    /// Kills all of its processes at once, and waits until they are gone.
    ///
    /// # Errors
    /// When one does not end.
    pub fn kill(&self) -> Result<()> {
        self.signal_all(Signal::SIGKILL)?;
        self.wait(Duration::from_secs(10))
    }

    /// Waits until all of its processes are gone.
    ///
    /// # Errors
    /// When one still runs after `limit`.
    pub fn wait(&self, limit: Duration) -> Result<()> {
        wait_until(&format!("process {} ends", self.pid), limit, || self.processes() == 0).map(drop)
    }

    /// Asks it to end by `signal`, waits, and kills what is left after `limit`.
    ///
    /// # Errors
    /// When even that does not help.
    pub fn end(&self, signal: Signal, limit: Duration) -> Result<()> {
        // One that was stopped would not hear it.
        self.signal_all(Signal::SIGCONT)?;
        self.signal(signal)?;
        if self.wait(limit).is_err() {
            self.kill()?;
        }
        ensure!(self.processes() == 0, "process {} does not end", self.pid);
        Ok(())
    }

    /// How many of its processes there are. None when the id is another's by now.
    fn processes(&self) -> usize {
        // The group's id is not given away while a member lives, so the leader is this one or gone.
        if stat(self.pid).is_some_and(|stat| stat.born != self.born) {
            return 0;
        }
        let Ok(entries) = std::fs::read_dir("/proc") else { return 0 };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter_map(stat).filter(|stat| stat.group == self.pid && stat.is_alive()).count()
    }
}

impl Stat {
    /// Whether it is more than an entry that waits for its parent.
    const fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }
}

fn stat(pid: i32) -> Option<Stat> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Fields 3, 5 and 22 of proc_pid_stat(5). The second is the program's name in parentheses, which may hold anything.
fn parse(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        group: fields.get(2)?.parse().ok()?,
        born: fields.get(19)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_line_of_a_process_with_an_awkward_name() {
        let line = "12 (a ) b) S 1 77 77 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4321 0 0";
        let stat = parse(line).unwrap();
        assert_eq!((stat.state, stat.group, stat.born), ('S', 77, 4321));
        assert!(stat.is_alive());
    }

    #[test]
    fn another_process_of_the_same_id_is_not_it() {
        let pid = std::process::id().cast_signed();
        let born = stat(pid).unwrap().born;
        assert!(Daemon { pid, born }.is_running());
        let other = Daemon { pid, born: born + 1 };
        assert!(!other.is_running());
        assert_eq!(other.processes(), 0);
    }
}
