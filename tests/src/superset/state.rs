//! What the next command must know of the stand: a file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::daemon::Daemon;
use super::place::Place;

/// The stand's namespaces and programs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// Namespaces by host.
    pub namespaces: BTreeMap<String, String>,
    /// How many replicas the balancer knows.
    pub replicas: u8,
    /// Programs by name, as `superset-1`.
    pub daemons: BTreeMap<String, Daemon>,
}

impl State {
    /// What was saved last; `None` when there is no stand.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn load(place: &Place) -> Result<Option<Self>> {
        let path = path(place);
        if !path.exists() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_str(&text).map(Some).with_context(|| format!("{}: remove it", path.display()))
    }

    /// Writes it down.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn save(&self, place: &Place) -> Result<()> {
        let path = path(place);
        let text = serde_json::to_string_pretty(self).context("the stand's state as JSON")?;
        // Renamed, so that whoever is interrupted leaves the old file or the new one.
        let beside = path.with_extension("new");
        std::fs::write(&beside, text)
            .and_then(|()| std::fs::rename(&beside, &path))
            .with_context(|| format!("write {}", path.display()))
    }

    /// Forgets the stand.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn remove(place: &Place) -> Result<()> {
        let path = path(place);
        if path.exists() {
            std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
        Ok(())
    }
}

fn path(place: &Place) -> PathBuf {
    place.run().join("state.json")
}
