//! The machine that is measured on: what it is, and one CPU of it for ourselves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// What a figure depends on besides the program.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Machine {
    /// Kernel release.
    pub(crate) kernel: String,
    /// CPU model.
    pub(crate) cpu: String,
    /// CPUs that are online.
    pub(crate) cpus: usize,
    /// Commit of the source tree, with `-dirty` when it has changes.
    pub(crate) commit: String,
    /// Date of the run, UTC.
    pub(crate) date: String,
}

impl Machine {
    /// This machine now. What cannot be found out is `unknown`.
    pub(crate) fn here() -> Self {
        let unknown = || "unknown".to_owned();
        let read = |path: &str| fs::read_to_string(path).ok();
        let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": "));
        Self {
            kernel: read("/proc/sys/kernel/osrelease").map_or_else(unknown, |s| s.trim().to_owned()),
            cpu: model.map_or_else(unknown, |(_, name)| name.to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            commit: output("git", &["describe", "--always", "--dirty", "--abbrev=9"]).unwrap_or_else(unknown),
            date: output("date", &["-u", "+%Y-%m-%d"]).unwrap_or_else(unknown),
        }
    }
}

/// The source tree.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// A finished XDP object of the benchmarks.
///
/// # Errors
/// When it was not built.
pub(crate) fn object(name: &str) -> Result<Vec<u8>> {
    let path: PathBuf = root().join("target/bpf").join(name);
    fs::read(&path).with_context(|| format!("{}: run \"cargo xtask build\"", path.display()))
}

/// Keeps this thread on one CPU: the last of those that it may run on, where the fewest interrupts go.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn pin() -> Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).context("cannot read the CPUs that this process may run on")?;
    let Some(cpu) = (0..CpuSet::count()).rev().find(|&cpu| allowed.is_set(cpu).unwrap_or(false)) else {
        bail!("this process may run on no CPU")
    };
    let mut one = CpuSet::new();
    one.set(cpu).with_context(|| format!("CPU {cpu}"))?;
    sched_setaffinity(this, &one).with_context(|| format!("cannot stay on CPU {cpu}"))
}

/// CPU time of this thread: what other processes take from the CPU meanwhile is not in it.
///
/// # Errors
/// When the clock cannot be read.
pub(crate) fn cpu_time() -> Result<Duration> {
    let time =
        clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("cannot read the thread's CPU time")?;
    Ok(Duration::from(time))
}

fn output(program: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(program).args(args).current_dir(root()).output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    out.status.success().then(|| text.trim().to_owned())
}
