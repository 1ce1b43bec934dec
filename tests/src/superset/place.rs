//! Where the stand keeps its files, outside of the source tree, so that all clones of it share one installation.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::machine;
use crate::proof::progress;

/// The stand's directories.
#[derive(Clone, Debug)]
pub struct Place {
    cache: PathBuf,
}

/// PostgreSQL and Redis run as users of their own, to whom root's home is closed.
const DATA: &str = "/var/lib/evenkeel/superset";

impl Place {
    /// The directories of this user; they are made when they are not there.
    ///
    /// # Errors
    /// When there is no home, or they cannot be made.
    pub fn find() -> Result<Self> {
        let cache = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::home_dir().map(|home| home.join(".cache")))
            .context("no home directory: set XDG_CACHE_HOME")?;
        let place = Self { cache: cache.join("evenkeel/superset") };
        for dir in [&place.logs(), &place.run(), &place.data()] {
            std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        }
        Ok(place)
    }

    /// What is kept: virtual environments, logs, what runs.
    #[must_use]
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// One log for each program.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.cache.join("log")
    }

    /// What matters only while the stand is up: its state, configurations, sockets.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.cache.join("run")
    }

    /// What PostgreSQL and Redis keep.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        PathBuf::from(DATA)
    }

    /// Waits until no other command works on the stand, and keeps others waiting until the value is dropped.
    ///
    /// # Errors
    /// When the lock cannot be had.
    pub fn lock(&self) -> Result<Flock<File>> {
        let path = self.cache.join("lock");
        let file = File::create(&path).with_context(|| format!("write {}", path.display()))?;
        let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, Errno::EWOULDBLOCK)) => file,
            Err((_, e)) => bail!("lock {}: {e}", path.display()),
        };
        progress("another command works on the stand: waiting for its end");
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e).context("lock the stand")
    }
}

/// A file of the source tree that the stand uses.
#[must_use]
pub fn source(name: &str) -> PathBuf {
    machine::root().join("tests/superset").join(name)
}
