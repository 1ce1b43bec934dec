//! What an agent has in the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::lab::Lab;

/// Kernel ids of BPF maps and programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelObjects {
    /// Of maps.
    pub maps: BTreeSet<u32>,
    /// Of programs.
    pub programs: BTreeSet<u32>,
}

impl KernelObjects {
    /// Those that a process has open.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn of(pid: u32) -> Result<Self> {
        let mut found = Self::default();
        let directory = format!("/proc/{pid}/fdinfo");
        for entry in std::fs::read_dir(&directory).with_context(|| directory.clone())? {
            // It may close one meanwhile.
            let text = std::fs::read_to_string(entry?.path()).unwrap_or_default();
            for line in text.lines() {
                let (set, id) = match line.split_once(':') {
                    Some(("map_id", id)) => (&mut found.maps, id),
                    Some(("prog_id", id)) => (&mut found.programs, id),
                    Some(_) | None => continue,
                };
                set.insert(id.trim().parse().context("an id")?);
            }
        }
        Ok(found)
    }

    /// Those of them that the kernel still has.
    ///
    /// # Errors
    /// When `bpftool` is not here.
    pub fn left(&self) -> Result<Self> {
        let left = |kind: &str, ids: &BTreeSet<u32>| -> Result<BTreeSet<u32>> {
            let mut left = BTreeSet::new();
            for id in ids {
                let mut command = Command::new("bpftool");
                command
                    .args([kind, "show", "id", &id.to_string()])
                    .stdout(Stdio::null())
                    .stderr(Stdio::null());
                if command.status().context("start bpftool")?.success() {
                    left.insert(*id);
                }
            }
            Ok(left)
        };
        Ok(Self { maps: left("map", &self.maps)?, programs: left("prog", &self.programs)? })
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.maps.is_empty() && self.programs.is_empty()
    }
}

/// How XDP programs are attached on a host: `driver` or `generic`, by interface, as `bpftool net` says.
///
/// # Errors
/// When `bpftool` fails.
pub fn xdp_modes(lab: &Lab, host: &str) -> Result<BTreeMap<String, String>> {
    let text = lab.exec(host, &["bpftool", "--json", "net"])?;
    let value: Value = serde_json::from_str(&text).with_context(|| format!("bpftool net: {text:?}"))?;
    let attached = value[0]["xdp"].as_array().context("bpftool net: no list of XDP programs")?;
    let field = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    Ok(attached.iter().map(|entry| (field(entry, "devname"), field(entry, "mode"))).collect())
}
