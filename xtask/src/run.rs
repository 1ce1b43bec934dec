//! Starting other programs.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let here = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&here).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Where cargo puts what it builds for the host.
pub(crate) fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// The cargo that started this program, in the workspace's root.
pub(crate) fn host_cargo() -> Command {
    let mut cmd = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cmd.current_dir(root());
    // `cargo run` sets these for this program alone; a crate's build script must not see xtask's.
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|n| n.starts_with("CARGO_PKG_") || n.starts_with("CARGO_MANIFEST_")) {
            cmd.env_remove(name);
        }
    }
    cmd
}

/// Removes what cargo, rustup and the user's shell say about the host's toolchain, so that `cmd` may be a
/// cargo of another toolchain.
pub(crate) fn forget_host_toolchain(cmd: &mut Command) {
    const KEEP: [&str; 6] =
        ["CARGO_HOME", "CARGO_NET_", "CARGO_HTTP_", "CARGO_TERM_", "CARGO_REGISTR", "CARGO_SOURCE_"];
    for (name, _) in env::vars_os() {
        let Some(n) = name.to_str() else { continue };
        let about_toolchain = n == "CARGO"
            || n.starts_with("CARGO_")
            || n.starts_with("RUSTC")
            || n.starts_with("RUSTDOC")
            || ["RUSTFLAGS", "RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH"].contains(&n);
        if about_toolchain && !KEEP.iter().any(|keep| n.starts_with(keep)) {
            cmd.env_remove(name);
        }
    }
}

/// Runs `cmd` on this terminal until it ends.
///
/// # Errors
/// When it cannot be started or fails.
pub(crate) fn checked(cmd: &mut Command) -> Result<()> {
    let status = cmd.status().with_context(|| format!("cannot start {}", show(cmd)))?;
    if !status.success() {
        bail!("{} failed ({status})", show(cmd));
    }
    Ok(())
}

/// Runs `cmd` and gives what it wrote to its standard output, without the last line break.
///
/// # Errors
/// When it cannot be started or fails: the last line that it wrote to its standard error is in the message.
pub(crate) fn output(cmd: &mut Command) -> Result<String> {
    let out = cmd.stdin(Stdio::null()).output().with_context(|| format!("cannot start {}", show(cmd)))?;
    if !out.status.success() {
        let stderr = String::from_utf8_lossy(&out.stderr);
        bail!("{} failed ({}): {}", show(cmd), out.status, stderr.trim().lines().last().unwrap_or_default());
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim_end().to_owned())
}

/// The program `name` on `PATH` or where administrators' tools live, which ordinary users' `PATH` leaves out.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// `CARGO_HOME`, where cargo installs programs.
pub(crate) fn cargo_home() -> PathBuf {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")))
        .unwrap_or_else(|| PathBuf::from(".cargo"))
}

/// `PATH` with `dir` in front.
pub(crate) fn path_with(dir: &Path) -> OsString {
    let old = env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(dir.to_path_buf()).chain(env::split_paths(&old));
    env::join_paths(dirs).unwrap_or(old)
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A command as one would type it, for messages: program name and the first few arguments.
fn show(cmd: &Command) -> String {
    const SHOWN: usize = 6;
    let program = Path::new(cmd.get_program()).file_name().unwrap_or(cmd.get_program());
    let mut words = vec![program.to_string_lossy().into_owned()];
    words.extend(cmd.get_args().take(SHOWN).map(|a| a.to_string_lossy().into_owned()));
    if cmd.get_args().len() > SHOWN {
        words.push("…".to_owned());
    }
    format!("`{}`", words.join(" "))
}
