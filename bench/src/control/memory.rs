//! What the whole takes of the machine's memory.
//!
//! Measured in a process of its own, because memory that was once used by another measurement stays resident.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::process::Command;

use anyhow::{Context, Result, bail};
use lb_agent::config::XdpMode;
use lb_agent::dataplane::ebpf::{EbpfDataplane, LoadOptions};

use super::add;
use crate::report::{Report, progress};

const MEBIBYTE: f64 = 1024.0 * 1024.0;
/// Ports of a SNAT address by default.
const PORTS: u32 = 31_744;

/// Adds the rows for a table of so many blocks.
pub(super) fn measure(blocks: u32, report: &mut Report) -> Result<()> {
    let slots = blocks * PORTS;
    progress(&format!("memory with {slots} slots"));
    let program = std::env::current_exe().context("cannot find this program")?;
    let out = Command::new(program).args(["control", "--measure-memory", &blocks.to_string()]).output();
    let out = out.context("cannot start this program again")?;
    let text = String::from_utf8_lossy(&out.stdout);
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [maps, resident] = numbers[..] else {
        bail!("memory with {slots} slots: {}", String::from_utf8_lossy(&out.stderr))
    };
    add(report, format!("maps of {slots} slots"), "MiB", &[maps / MEBIBYTE]);
    add(report, format!("resident, {slots} slots, without the table"), "MiB", &[resident / MEBIBYTE]);
    Ok(())
}

/// The process that is measured: the data path is loaded, and the whole table was read once. Prints the bytes of the
/// maps, and the bytes that are resident in memory and not the table's.
pub(super) fn child(blocks: u32) -> Result<()> {
    let dataplane = EbpfDataplane::load(&LoadOptions::embedded(blocks * PORTS, blocks, XdpMode::Auto)?)?;
    let table = dataplane.flows().iter().count() as u64 * size_of::<lb_common::flow::Slot>() as u64;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{} {}", map_bytes()?, resident()?.saturating_sub(mapped_of(table))).context("stdout")
}

/// The table's pages count as resident where the kernel maps them page by page.
fn mapped_of(table: u64) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let shared = |name| kilobytes(&status, name).unwrap_or(0);
    (shared("RssFile:") + shared("RssShmem:")).min(table)
}

fn resident() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    kilobytes(&status, "VmRSS:").context("/proc/self/status: no VmRSS")
}

/// A line of `/proc/PID/status` in bytes.
fn kilobytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kb| kb * 1024)
}

/// Bytes of every map that this process has open, by what the kernel says of their descriptors.
fn map_bytes() -> Result<u64> {
    let mut maps = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fdinfo").context("/proc/self/fdinfo")?.flatten() {
        // The descriptor of this very directory is gone by now.
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)).and_then(|v| v.trim().parse::<u64>().ok())
        };
        if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:")) {
            maps.insert(id, bytes);
        }
    }
    Ok(maps.values().sum())
}
