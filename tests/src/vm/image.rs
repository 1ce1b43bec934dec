//! The initial file system of the machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Kit;

/// Modules in the order in which they need each other: VLAN devices and veth pairs.
const MODULES: [&str; 6] = [
    "net/llc/llc.ko",
    "net/802/stp.ko",
    "net/802/garp.ko",
    "net/802/mrp.ko",
    "net/8021q/8021q.ko",
    "drivers/net/veth.ko",
];

/// A file tree that becomes an image.
pub struct Image {
    tree: tempfile::TempDir,
    script: String,
}

impl Image {
    /// A tree with busybox and a script that mounts what programs expect and loads the modules.
    ///
    /// # Errors
    /// When a file cannot be copied.
    pub fn new(kit: &Kit) -> Result<Self> {
        let tree = tempfile::tempdir().context("cannot make a temporary directory")?;
        let mut image = Self { tree, script: String::new() };
        image.copy(&kit.root.join("bin/busybox"), "bin/busybox")?;
        for directory in ["proc", "sys", "dev", "tmp", "run"] {
            fs::create_dir_all(image.tree.path().join(directory))?;
        }
        image.line("#!/bin/busybox sh");
        for mount in [
            "proc proc /proc",
            "sysfs sys /sys",
            "bpf bpf /sys/fs/bpf",
            "devtmpfs dev /dev",
            "tmpfs tmp /tmp",
        ] {
            image.line(&format!("/bin/busybox mount -t {mount}"));
        }
        image.line("/bin/busybox mkdir -p /var && /bin/busybox ln -s /run /var/run");
        image.line("/bin/busybox ip link set lo up");
        image.line("export PATH=/bin:/sbin:/usr/sbin EVENKEEL_IN_VM=1 RUST_BACKTRACE=0");
        for module in MODULES {
            let name = image.module(kit, module)?;
            image.line(&format!("/bin/busybox insmod /modules/{name}"));
        }
        Ok(image)
    }

    fn module(&self, kit: &Kit, module: &str) -> Result<String> {
        let root = kit.root.join("lib/modules");
        let releases = fs::read_dir(&root).with_context(|| format!("cannot read {}", root.display()))?;
        let release =
            releases.flatten().next().with_context(|| format!("no modules in {}", root.display()))?;
        let name = module.rsplit('/').next().unwrap_or(module).to_owned();
        self.copy(&release.path().join("kernel").join(module), &format!("modules/{name}"))?;
        Ok(name)
    }

    /// Adds a program with the shared libraries that it needs, as `/bin/NAME`; without what is there for debuggers,
    /// which is most of a test program and takes the machine seconds to unpack.
    ///
    /// # Errors
    /// When a file cannot be copied, `ldd` cannot tell, or `strip` cannot read it.
    pub fn program(&self, path: &Path, name: &str) -> Result<()> {
        let bin = self.tree.path().join("bin");
        let strip = Command::new("strip").arg("-o").arg(bin.join(name)).arg(path).status();
        if !strip.context("cannot run strip (binutils)")?.success() {
            bail!("cannot strip {}", path.display());
        }
        let libraries = Command::new("ldd").arg(path).output().context("cannot run ldd")?;
        for word in
            String::from_utf8_lossy(&libraries.stdout).split_whitespace().filter(|w| w.starts_with('/'))
        {
            self.copy(Path::new(word), word.trim_start_matches('/'))?;
        }
        Ok(())
    }

    /// Adds a line to the script that the machine runs.
    pub fn line(&mut self, line: &str) {
        self.script.push_str(line);
        self.script.push('\n');
    }

    fn copy(&self, from: &Path, to: &str) -> Result<()> {
        let to = self.tree.path().join(to);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        Ok(())
    }

    /// Packs the tree; the machine switches itself off after the script.
    ///
    /// # Errors
    /// When busybox cannot pack it.
    pub fn pack(mut self) -> Result<(tempfile::TempDir, PathBuf)> {
        self.line("/bin/busybox poweroff -f");
        let init = self.tree.path().join("init");
        fs::write(&init, &self.script)?;
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
        let out = tempfile::tempdir().context("cannot make a temporary directory")?;
        let image = out.path().join("image");
        let packed = Command::new("sh")
            .args(["-c", "find . | bin/busybox cpio -o -H newc"])
            .current_dir(self.tree.path())
            .stdout(fs::File::create(&image)?)
            .stderr(Stdio::null())
            .status()
            .context("cannot run busybox")?;
        if !packed.success() {
            bail!("busybox cpio failed: {packed}");
        }
        Ok((out, image))
    }
}
