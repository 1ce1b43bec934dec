//! Where the workspace's programs are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The agent to test: `EVENKEEL_AGENT`, or the one that was built last beside the running program.
///
/// # Errors
/// When there is none.
pub fn agent() -> Result<PathBuf> {
    match std::env::var_os("EVENKEEL_AGENT") {
        Some(path) => Ok(path.into()),
        None => beside("lb-agent"),
    }
}

/// A program of the same build as the running one, which may be a test.
///
/// # Errors
/// When it was not built.
pub fn beside(name: &str) -> Result<PathBuf> {
    let here = std::env::current_exe().context("cannot tell where this program is")?;
    // Tests are in a directory below that of the programs.
    let found = here.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| is_file(path));
    found.with_context(|| format!("no {name} beside {}: run \"cargo xtask build\"", here.display()))
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file())
}
