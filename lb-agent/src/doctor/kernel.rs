//! Whether this kernel can do what the data path needs.

use std::fs;

use super::Finding;
use crate::config::Config;
use crate::dataplane::ebpf::{EbpfDataplane, LoadOptions};

const SUBJECT: &str = "kernel";
/// First version that every test runs on.
const OLDEST: (u32, u32) = (6, 1);
const RELEASE: &str = "/proc/sys/kernel/osrelease";
/// Only in the first network namespace.
const JIT: &str = "/proc/sys/net/core/bpf_jit_enable";
/// A frame for nobody: the shortest that the kernel runs a program over.
const FRAME: [u8; 14] = [0; 14];

pub(super) fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = vec![version()];
    if fs::read_to_string(JIT).is_ok_and(|on| on.trim() == "0") {
        findings.push(Finding::warn(
            SUBJECT,
            "BPF programs are interpreted, which is many times slower",
            "set net.core.bpf_jit_enable = 1",
        ));
    }
    findings.push(program(config));
    findings
}

fn version() -> Finding {
    let Ok(release) = fs::read_to_string(RELEASE) else {
        return Finding::warn(SUBJECT, format!("{RELEASE} cannot be read"), "mount /proc");
    };
    let release = release.trim();
    match parse(release) {
        Some(version) if version < OLDEST => Finding::fail(
            SUBJECT,
            format!("Linux {release} is too old"),
            format!("use Linux {}.{} or newer", OLDEST.0, OLDEST.1),
        ),
        Some(_) => Finding::ok(SUBJECT, format!("Linux {release}")),
        None => {
            Finding::warn(SUBJECT, format!("Linux {release:?} is no version"), "see that it is 6.1 or newer")
        }
    }
}

fn parse(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Makes the maps in their configured sizes, loads the program, and runs it once; all of it ends with this function.
fn program(config: &Config) -> Finding {
    let (slots, blocks) = (config.nat.slots(), config.nat.blocks());
    let loaded = LoadOptions::embedded(slots, blocks, config.agent.xdp_mode);
    let loaded = loaded.map_err(|e| (e.to_string(), "use an agent that was built with `cargo xtask build`"));
    let run = loaded.and_then(|options| {
        let run = EbpfDataplane::load(&options).and_then(|dataplane| dataplane.trial(&FRAME));
        run.map_err(|e| (e.to_string(), "run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"))
    });
    match run {
        Ok(_) => Finding::ok(SUBJECT, format!("takes the XDP program, with a table of {slots} flows")),
        Err((error, advice)) => Finding::fail(SUBJECT, error, advice),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, version) in [
            ("6.18.44-fc-v657", Some((6, 18))),
            ("6.1.0-28-amd64", Some((6, 1))),
            ("5.15.0", Some((5, 15))),
            ("7.0-rc1", Some((7, 0))),
            ("", None),
            ("linux", None),
        ] {
            assert_eq!(parse(text), version, "{text}");
        }
        assert!((5, 15) < OLDEST && OLDEST < (6, 18));
    }
}
