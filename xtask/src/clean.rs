//! `cargo xtask clean-lab`: removes what a killed test, demo or benchmark left.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};

use crate::run::{checked, is_root, output};

/// Remove leftover labs: network namespaces "ek-…", the processes in them, and pins /sys/fs/bpf/evenkeel*
///
/// What a killed test or "cargo xtask demo --keep" left; labs whose test or demo still runs stay, without --all.
/// Pins are removed in any case, those of a balancer that runs on this very machine too. Harmless to repeat.
/// Needs root.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also labs that are in use
    #[arg(long)]
    all: bool,
}

/// How the names of all our network namespaces begin; the id of the process that made it follows.
const PREFIX: &str = "ek-";

/// How long a process may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(2);

/// The command.
///
/// # Errors
/// When something is left over.
pub(crate) fn run(args: &Args) -> Result<()> {
    if !is_root() {
        bail!("removing network namespaces needs root: run it as root");
    }
    let mut namespaces = namespaces()?;
    namespaces.retain(|name| args.all || owner(name).is_none_or(|pid| kill(pid, None).is_err()));
    for name in &namespaces {
        let processes = end_processes(name)?;
        checked(Command::new("ip").args(["netns", "delete", name]))?;
        println!("removed network namespace {name} ({processes} processes)");
    }
    let pins = remove_pins(Path::new("/sys/fs/bpf"))?;
    if namespaces.is_empty() && pins == 0 {
        println!("nothing to remove");
    }
    Ok(())
}

fn namespaces() -> Result<Vec<String>> {
    Ok(lab_names(&output(Command::new("ip").args(["netns", "list"]))?))
}

/// Our names in the output of `ip netns list`.
fn lab_names(list: &str) -> Vec<String> {
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|name| name.starts_with(PREFIX)).map(str::to_owned).collect()
}

/// The process that made a namespace, from its name.
fn owner(namespace: &str) -> Option<Pid> {
    let pid = namespace.strip_prefix(PREFIX)?.split('-').next()?;
    pid.parse().ok().map(Pid::from_raw)
}

/// Ends all processes in a namespace, politely first; gives how many there were.
fn end_processes(namespace: &str) -> Result<usize> {
    let found = processes(namespace)?.len();
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        for pid in processes(namespace)? {
            match kill(pid, signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(e) => bail!("cannot end process {pid} in {namespace}: {e}"),
            }
        }
        let start = Instant::now();
        while !processes(namespace)?.is_empty() && start.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(20));
        }
    }
    let left = processes(namespace)?.len();
    if left > 0 { bail!("{left} processes in {namespace} do not end") } else { Ok(found) }
}

/// Processes in a namespace, this one excepted.
fn processes(namespace: &str) -> Result<Vec<Pid>> {
    let pids = output(Command::new("ip").args(["netns", "pids", namespace]))?;
    let pids = pids.lines().filter_map(|line| line.trim().parse().ok().map(Pid::from_raw));
    Ok(pids.filter(|pid| *pid != getpid()).collect())
}

/// Removes our directories and files under a bpffs; gives how many.
fn remove_pins(bpffs: &Path) -> Result<usize> {
    let Ok(entries) = fs::read_dir(bpffs) else { return Ok(0) };
    let mut removed = 0;
    for entry in entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with("evenkeel")) {
        let path = entry.path();
        let result = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        result.with_context(|| format!("cannot remove {}", path.display()))?;
        println!("removed {}", path.display());
        removed += 1;
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_only_our_namespaces() {
        assert_eq!(lab_names("ek-lab-1 (id: 3)\nseek-1\nother\nek-2\n"), ["ek-lab-1", "ek-2"]);
        assert!(lab_names("").is_empty());
    }

    #[test]
    fn knows_who_made_a_namespace() {
        assert_eq!(owner("ek-1234-1-client"), Some(Pid::from_raw(1234)));
        assert_eq!(owner("ek-1234-hops0-pod"), Some(Pid::from_raw(1234)));
        assert_eq!(owner("ek-lab-1"), None, "nobody: left over");
        assert_eq!(owner("other-1234-x"), None);
    }
}
