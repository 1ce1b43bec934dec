//! The machine that something is measured on, and the source tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// What a figure depends on besides the program.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Machine {
    /// Kernel release.
    pub kernel: String,
    /// CPU model.
    pub cpu: String,
    /// CPUs that are online.
    pub cpus: usize,
    /// Commit of the source tree, with `-dirty` when it has changes.
    pub commit: String,
    /// Date of the run, UTC.
    pub date: String,
}

impl Machine {
    /// This machine now. What cannot be found out is `unknown`.
    #[must_use]
    pub fn here() -> Self {
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
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// A finished XDP object.
///
/// # Errors
/// When it was not built.
pub fn object(name: &str) -> Result<Vec<u8>> {
    let path: PathBuf = root().join("target/bpf").join(name);
    fs::read(&path).with_context(|| format!("{}: run \"cargo xtask build\"", path.display()))
}

fn output(program: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(program).args(args).current_dir(root()).output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    out.status.success().then(|| text.trim().to_owned())
}
