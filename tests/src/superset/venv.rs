//! Superset and what else comes from PyPI: a virtual environment with pinned versions.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::place::{Place, source};
use crate::proof::progress;

/// The Python that the pins are for.
const PYTHON: &str = "/usr/bin/python3.11";
/// Marks an environment in which everything is installed.
const COMPLETE: &str = ".complete";

/// An installed environment.
#[derive(Clone, Debug)]
pub struct Venv {
    dir: PathBuf,
}

impl Venv {
    /// The environment of this source tree's pins; installed first when it is not there.
    ///
    /// # Errors
    /// When a package cannot be installed; pip's message is on stderr then.
    pub fn ensure(place: &Place) -> Result<Self> {
        let venv = Self { dir: place.cache().join(format!("venv-{}", pins()?)) };
        if venv.dir.join(COMPLETE).exists() {
            return Ok(venv);
        }
        progress(&format!("installing Apache Superset in {} (two minutes, 850 MB)", venv.dir.display()));
        let begun = Instant::now();
        checked(Command::new(PYTHON).args(["-m", "venv", "--clear"]).arg(&venv.dir)).with_context(|| {
            format!("make a virtual environment with {PYTHON}: \"cargo xtask setup --for superset\"")
        })?;
        checked(
            Command::new(venv.program("pip"))
                .args(["install", "--quiet", "--disable-pip-version-check", "--constraint"])
                .arg(source("constraints.txt"))
                .arg("--requirement")
                .arg(source("requirements.txt")),
        )
        .context("install Superset: see pip's message above (is the network up?)")?;
        let complete = venv.dir.join(COMPLETE);
        std::fs::write(&complete, "").with_context(|| format!("write {}", complete.display()))?;
        progress(&format!("installed in {:.0} s", begun.elapsed().as_secs_f64()));
        Ok(venv)
    }

    /// A program of the environment.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join("bin").join(name)
    }

    /// A name that changes with what is installed.
    #[must_use]
    pub fn name(&self) -> String {
        self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// A name for the pins. Another Rust may give another one; everything is then installed anew.
fn pins() -> Result<String> {
    let mut hasher = DefaultHasher::new();
    for path in [source("requirements.txt"), source("constraints.txt")] {
        read(&path)?.hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

fn checked(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start {}", command.get_program().display()))?;
    ensure!(status.success(), "{} failed ({status})", command.get_program().display());
    Ok(())
}
