//! What the running kernel and this user's rights allow.

use std::fs;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::run::is_root;

/// Where bpffs belongs.
const BPFFS: &str = "/sys/fs/bpf";

/// What keeps privileged tests from running here: one line each, with what to do. Changes nothing.
pub(crate) fn obstacles() -> Vec<String> {
    if !is_root() {
        return vec![
            "not root: tests that load programs or make network namespaces are skipped (run as root to have them)"
                .to_owned(),
        ];
    }
    let mut found = Vec::new();
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        found.push(
            "/sys/kernel/btf/vmlinux is missing: use a kernel built with CONFIG_DEBUG_INFO_BTF=y".to_owned(),
        );
    }
    if !has_bpffs() {
        found.push(format!("{BPFFS} is no bpffs: run \"mount -t bpf bpf {BPFFS}\""));
    }
    // In a thread of its own: the namespace goes away with it.
    let netns = thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join();
    if !matches!(netns, Ok(Ok(()))) {
        found.push(
            "network namespaces cannot be made: root lacks CAP_SYS_ADMIN here (in a container?)".to_owned(),
        );
    }
    found
}

/// Mounts bpffs where it is missing and this user may.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn mount_bpffs() -> Result<()> {
    if !is_root() || has_bpffs() {
        return Ok(());
    }
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("cannot mount a bpffs on {BPFFS}"))?;
    println!("mounted a bpffs on {BPFFS}");
    Ok(())
}

/// Whether bpffs is mounted where it belongs.
pub(crate) fn has_bpffs() -> bool {
    lists_bpffs(&fs::read_to_string("/proc/self/mounts").unwrap_or_default())
}

fn lists_bpffs(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(BPFFS) && fields.next() == Some("bpf")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_bpffs_from_others() {
        assert!(lists_bpffs("sysfs /sys sysfs rw 0 0\nnone /sys/fs/bpf bpf rw,nosuid 0 0\n"));
        assert!(!lists_bpffs("none /sys/fs/bpf tmpfs rw 0 0\nnone /mnt bpf rw 0 0\n"));
        assert!(!lists_bpffs(""));
    }
}
