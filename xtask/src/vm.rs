//! The kit for testing on Debian's 6.1 kernel: that kernel, an emulator and busybox, unpacked beside each other.
//!
//! Unpacked and not installed: the host keeps its kernel and its packages as they are, and root is not needed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt;
use crate::run::{checked, is_root, output};

/// Where the kit is: a file tree like `/` with `boot/vmlinuz-6.1.*`, `lib/modules`, `usr/bin/qemu-system-x86_64` and
/// `bin/busybox`. Kept over clones of the repository.
pub(crate) fn dir() -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cache")))
        .unwrap_or_else(env::temp_dir);
    cache.join("evenkeel/vm-6.1")
}

/// Whether the kit is complete.
pub(crate) fn is_here() -> bool {
    dir().join(COMPLETE).exists()
}

/// Whether this machine can have it: Debian 12 on x86-64.
pub(crate) fn is_possible() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    cfg!(target_arch = "x86_64") && release.lines().any(|l| l == "VERSION_CODENAME=bookworm")
}

/// Marks a kit whose packages are all unpacked.
const COMPLETE: &str = ".complete";

/// Downloads the packages (about 85 MB) and unpacks them (about 500 MB).
///
/// # Errors
/// When apt knows no 6.1 kernel, or a download fails.
pub(crate) fn unpack() -> Result<()> {
    match download_and_unpack() {
        Err(_) if is_root() => {
            // Most likely there are no package lists, or ones from before the last security update.
            apt::update();
            download_and_unpack()
        }
        result => result,
    }
}

fn download_and_unpack() -> Result<()> {
    let packages = packages()?;
    let beside = dir().with_extension("new");
    let debs = beside.join(".debs");
    if beside.exists() {
        fs::remove_dir_all(&beside).with_context(|| format!("cannot remove {}", beside.display()))?;
    }
    fs::create_dir_all(&debs).with_context(|| format!("cannot make {}", debs.display()))?;
    checked(
        Command::new("apt-get")
            // The user that apt downloads as may not write to root's cache.
            .args(["-o", "APT::Sandbox::User=root", "-qq", "download"])
            .args(&packages)
            .current_dir(&debs),
    )
    .context("cannot download the 6.1 kernel and its emulator (is the network up?)")?;
    for deb in fs::read_dir(&debs).with_context(|| format!("cannot read {}", debs.display()))?.flatten() {
        checked(Command::new("dpkg").arg("-x").arg(deb.path()).arg(&beside))?;
    }
    finish(&beside, &debs).with_context(|| format!("cannot write {}", dir().display()))
}

fn finish(beside: &Path, debs: &Path) -> std::io::Result<()> {
    fs::remove_dir_all(debs)?;
    fs::write(beside.join(COMPLETE), "")?;
    if dir().exists() {
        fs::remove_dir_all(dir())?;
    }
    fs::rename(beside, dir())
}

/// The kernel, busybox, and the emulator with every library of it that the host lacks.
fn packages() -> Result<Vec<String>> {
    let meta = output(Command::new("apt-cache").args(["depends", "linux-image-amd64"]))?;
    let Some(kernel) = kernel_image(&meta) else {
        bail!("apt offers no 6.1 kernel: the tests on it need the package lists of Debian 12")
    };
    let plan = output(Command::new("apt-get").args([
        "install",
        "--simulate",
        "--no-install-recommends",
        "qemu-system-x86",
    ]))?;
    let mut packages = new_packages(&plan);
    packages.extend(["busybox-static".to_owned(), kernel]);
    // Where it is installed already, apt would bring nothing.
    if !packages.iter().any(|p| p == "qemu-system-x86") {
        packages.extend(["qemu-system-x86", "qemu-system-data", "seabios"].map(str::to_owned));
    }
    Ok(packages)
}

/// The 6.1 image in the output of `apt-cache depends linux-image-amd64`.
fn kernel_image(depends: &str) -> Option<String> {
    let mut names = depends.lines().filter_map(|l| l.trim().strip_prefix("Depends: "));
    names.find(|name| name.starts_with("linux-image-6.1.")).map(str::to_owned)
}

/// What `apt-get install --simulate` would install.
fn new_packages(plan: &str) -> Vec<String> {
    let names = plan.lines().filter_map(|l| l.strip_prefix("Inst ")?.split(' ').next());
    names.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_apt_says() {
        let depends = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n  Suggests: x\n";
        assert_eq!(kernel_image(depends).as_deref(), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(kernel_image("linux-image-amd64\n  Depends: linux-image-6.12.1-amd64\n"), None);
        let plan =
            "Remv old [1]\nInst seabios (1.16 Debian:12 [all])\nInst a [1] (2 Debian [amd64])\nConf a (2)\n";
        assert_eq!(new_packages(plan), ["seabios", "a"]);
    }
}
