//! A second kernel: Debian's 6.1 under an emulator, with nothing but what a test needs in its initial file system.
//!
//! The kit (kernel, emulator, busybox) is unpacked by `cargo xtask test`, which says in `EVENKEEL_VM` where it is.
//!
//! Emulated in software also where there is `/dev/kvm`: in a machine that is a guest itself, it may take every request and
//! never run the firmware.

mod image;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub use image::Image;

/// How long the machine may run. A quiet host is done within two minutes, one that is busy with other things takes
/// several times as long.
const DEADLINE: Duration = Duration::from_secs(900);
/// What is shown of the console when it runs for longer, in lines.
const LAST_LINES: usize = 20;

/// Where the kernel, the emulator and busybox are.
#[derive(Clone, Debug)]
pub struct Kit {
    root: PathBuf,
}

impl Kit {
    /// The kit that the runner named.
    ///
    /// # Errors
    /// When there is none: says what to run.
    pub fn find() -> Result<Self> {
        let root = env::var_os("EVENKEEL_VM").map(PathBuf::from).context("run \"cargo xtask test\"")?;
        if !root.join("bin/busybox").exists() {
            bail!("no 6.1 kernel in {}: run \"cargo xtask test\" on Debian 12", root.display());
        }
        Ok(Self { root })
    }

    fn kernel(&self) -> Result<PathBuf> {
        let boot = self.root.join("boot");
        let entries = fs::read_dir(&boot).with_context(|| format!("cannot read {}", boot.display()))?;
        let mut kernels = entries.flatten().map(|e| e.path());
        kernels
            .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz-")))
            .with_context(|| format!("no kernel in {}", boot.display()))
    }

    fn libraries(&self) -> OsString {
        let at = |place: &str| self.root.join(place).into_os_string();
        let mut path = at("usr/lib/x86_64-linux-gnu");
        path.push(":");
        path.push(at("lib/x86_64-linux-gnu"));
        path
    }

    /// Boots an image and returns what it wrote to its console until it switched itself off.
    ///
    /// # Errors
    /// When the emulator cannot be started, or the machine runs for longer than it may.
    pub fn boot(&self, image: &Path) -> Result<String> {
        let mut machine = Command::new(self.root.join("usr/bin/qemu-system-x86_64"));
        machine.env("LD_LIBRARY_PATH", self.libraries());
        for firmware in ["usr/share/qemu", "usr/share/seabios"] {
            machine.arg("-L").arg(self.root.join(firmware));
        }
        machine
            .args(["-nographic", "-no-reboot", "-net", "none", "-m", "3072", "-smp", "2"])
            .arg("-kernel")
            .arg(self.kernel()?)
            .arg("-initrd")
            .arg(image)
            .args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = machine.spawn().context("cannot start the emulator")?;
        let mut console = child.stdout.take().context("the emulator has no console")?;
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = console.read_to_end(&mut bytes).map(|_| bytes);
            // The receiver is gone only when the machine ran for too long.
            let _ = sender.send(read);
        });
        let in_time = receiver.recv_timeout(DEADLINE);
        let is_late = in_time.is_err();
        if is_late {
            child.kill().context("cannot end the emulator")?;
        }
        child.wait().context("cannot wait for the emulator")?;
        // Its end closes the console.
        let bytes = in_time.or_else(|_| receiver.recv()).context("nobody reads the machine's console")?;
        let bytes = bytes.context("cannot read the machine's console")?;
        let console = String::from_utf8_lossy(&bytes).replace('\r', "");
        if is_late {
            let last: Vec<&str> = console.lines().rev().take(LAST_LINES).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            bail!(
                "the machine did not switch itself off within {DEADLINE:?}; its last words:\n{}",
                last.join("\n")
            );
        }
        Ok(console)
    }
}
