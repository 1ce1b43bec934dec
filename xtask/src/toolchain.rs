//! Finding what compiles and links eBPF.
//!
//! Two compilers will do: a rustup nightly with `rust-src`, or the `rustc-web` packages of Debian, whose stable
//! compiler is told to accept unstable features. `bpf-linker` finishes the object and must be built with the
//! compiler's LLVM or a newer one, since it reads the compiler's bitcode.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::run::{cargo_home, forget_host_toolchain, output, path_with, which};

/// The version of `bpf-linker` that objects are built with everywhere.
pub(crate) const LINKER_VERSION: &str = "0.13.0";
/// The LLVM of Debian's `rustc-web`.
pub(crate) const DEBIAN_LLVM: u32 = 22;
/// The oldest compiler: what `rust-version` in Cargo.toml says, because `lb-common` is shared.
const OLDEST_RUSTC: (u32, u32) = (1, 95);
/// The oldest LLVM that can load a packet's unaligned fields as words on BPF.
const OLDEST_LLVM: u32 = 22;

/// Where a compiler comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    /// A rustup toolchain by name.
    Rustup(String),
    /// `/usr/bin/rustc` and `/usr/bin/cargo`.
    System,
}

/// A compiler that has the source of `core`.
#[derive(Clone, Debug)]
pub(crate) struct Compiler {
    origin: Origin,
    version: String,
    /// Major version of its LLVM.
    pub(crate) llvm: u32,
}

/// A `bpf-linker` of the right version.
#[derive(Clone, Debug)]
pub(crate) struct Linker {
    path: PathBuf,
    /// Major version of its LLVM, where it can be found out.
    llvm: Option<u32>,
}

/// A compiler and a linker that fit together.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    compiler: Compiler,
    linker: Linker,
}

impl Toolchain {
    /// The first pair that fits; nightly is preferred.
    pub(crate) fn find() -> Option<Self> {
        let linker = Linker::find()?;
        let compiler = Compiler::all().into_iter().find(|c| linker.reads(c))?;
        Some(Self { compiler, linker })
    }

    /// One line for people.
    pub(crate) fn describe(&self) -> String {
        let llvm = self.linker.llvm.map_or_else(String::new, |v| format!(" (LLVM {v})"));
        format!("{}, bpf-linker {LINKER_VERSION}{llvm}", self.compiler.describe())
    }

    /// Whether the compiler is the system's own and not rustup's.
    pub(crate) fn is_system(&self) -> bool {
        self.compiler.origin == Origin::System
    }

    /// A `cargo SUBCOMMAND` for the BPF target in `dir`, a crate of its own workspace.
    pub(crate) fn cargo(&self, subcommand: &str, dir: &Path) -> Command {
        let mut cmd = match &self.compiler.origin {
            Origin::Rustup(name) => {
                let mut cmd = Command::new("rustup");
                cmd.args(["run", name, "cargo"]);
                cmd
            }
            Origin::System => Command::new("/usr/bin/cargo"),
        };
        forget_host_toolchain(&mut cmd);
        if self.compiler.origin == Origin::System {
            cmd.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
        }
        let linker_dir = self.linker.path.parent().unwrap_or(Path::new("/usr/bin"));
        cmd.env("PATH", path_with(linker_dir))
            .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\x1f"))
            .current_dir(dir)
            .arg(subcommand)
            .args(["--release", "-Zbuild-std=core", "--target", "bpfel-unknown-none"]);
        cmd
    }

    /// The same with clippy as the compiler's driver, or why that is not possible.
    ///
    /// # Errors
    /// When the toolchain has no clippy.
    pub(crate) fn clippy(&self, dir: &Path) -> Result<Command> {
        match &self.compiler.origin {
            Origin::Rustup(_) => Ok(self.cargo("clippy", dir)),
            Origin::System if !Path::new(SYSTEM_CLIPPY).is_file() => {
                bail!("{SYSTEM_CLIPPY} is missing: run \"cargo xtask setup --for lint\"")
            }
            Origin::System => {
                // cargo-clippy finds `clippy-driver` beside itself; cargo looks for subcommands in ~/.cargo/bin first,
                // where rustup's is, so it is called by its path.
                let cargo = self.cargo("clippy", dir);
                let mut cmd = Command::new(SYSTEM_CLIPPY);
                cmd.args(cargo.get_args()).current_dir(dir).env("CARGO", "/usr/bin/cargo");
                for (name, value) in cargo.get_envs() {
                    match value {
                        Some(value) => cmd.env(name, value),
                        None if name == OsStr::new("CARGO") => &mut cmd,
                        None => cmd.env_remove(name),
                    };
                }
                Ok(cmd)
            }
        }
    }
}

/// Debian's clippy (package `rust-web-clippy`).
pub(crate) const SYSTEM_CLIPPY: &str = "/usr/bin/cargo-clippy";

/// Flags of every eBPF compilation.
const RUSTFLAGS: [&str; 4] = [
    "-Cdebuginfo=2",
    // BTF: map definitions, and source lines in `bpftool prog dump xlated`.
    "-Clink-arg=--btf",
    // Compare-and-swap and 32-bit jumps; every kernel since 5.12 has them.
    "-Ctarget-cpu=v3",
    // Header fields are unaligned in a packet; without this they are put together from single bytes. The kernel
    // allows such loads where the CPU does (x86-64 and arm64 do).
    "-Clink-arg=--cpu-features=+allows-misaligned-mem-access",
];

impl Compiler {
    /// All compilers on this machine that have `core`'s source and are new enough, the preferred one first.
    pub(crate) fn all() -> Vec<Self> {
        let nightlies =
            output(Command::new("rustup").args(["toolchain", "list", "--quiet"])).unwrap_or_default();
        let mut found: Vec<Self> = nightlies
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .filter(|name| name.starts_with("nightly"))
            .filter_map(|name| Self::inspect(Origin::Rustup(name.to_owned())))
            .collect();
        found.extend(Self::inspect(Origin::System));
        found
    }

    fn inspect(origin: Origin) -> Option<Self> {
        let rustc = |args: &[&str]| {
            let mut cmd = match &origin {
                Origin::Rustup(name) => {
                    let mut cmd = Command::new("rustup");
                    cmd.args(["run", name, "rustc"]);
                    cmd
                }
                Origin::System => Command::new("/usr/bin/rustc"),
            };
            forget_host_toolchain(&mut cmd);
            output(cmd.args(args)).ok()
        };
        if origin == Origin::System && !Path::new("/usr/bin/cargo").is_file() {
            return None;
        }
        let sysroot = rustc(&["--print", "sysroot"])?;
        if !Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file() {
            return None;
        }
        let text = rustc(&["-vV"])?;
        let (version, llvm) = parse_version(&text)?;
        let new_enough = numbers(&version).is_some_and(|v| v >= OLDEST_RUSTC) && llvm >= OLDEST_LLVM;
        new_enough.then_some(Self { origin, version, llvm })
    }

    fn describe(&self) -> String {
        let from = match &self.origin {
            Origin::Rustup(name) => format!("rustup {name}"),
            Origin::System => "/usr/bin/rustc".to_owned(),
        };
        format!("rustc {} ({from}, LLVM {})", self.version, self.llvm)
    }
}

impl Linker {
    /// The first `bpf-linker` of the right version.
    pub(crate) fn find() -> Option<Self> {
        let path = installed("bpf-linker", LINKER_VERSION)?;
        let llvm = output(Command::new("ldd").arg(&path)).ok().and_then(|libs| linked_llvm(&libs));
        Some(Self { path, llvm })
    }

    /// Whether it understands what the compiler writes. A linker that hides its LLVM (the project's own static
    /// binaries) is believed to.
    pub(crate) fn reads(&self, compiler: &Compiler) -> bool {
        self.reads_llvm(compiler.llvm)
    }

    /// Whether it understands the bitcode of this major version of LLVM.
    pub(crate) fn reads_llvm(&self, major: u32) -> bool {
        self.llvm.is_none_or(|llvm| llvm >= major)
    }
}

/// Where programs of a pinned version go when the user already has another version in `CARGO_HOME`.
pub(crate) fn private_root() -> PathBuf {
    cargo_home().join("evenkeel")
}

/// The program `name` whose `--version` says `version`, wherever it is.
pub(crate) fn installed(name: &str, version: &str) -> Option<PathBuf> {
    let places = [private_root().join("bin").join(name), cargo_home().join("bin").join(name)];
    places.into_iter().filter(|p| p.is_file()).chain(which(name)).find(|path| {
        let says = output(Command::new(path).arg("--version")).unwrap_or_default();
        says.split_whitespace().nth(1) == Some(version)
    })
}

/// Whether LLVM's development files of this major version are installed where Debian puts them.
pub(crate) fn has_llvm(major: u32) -> bool {
    fs::exists(llvm_prefix(major).join("bin/llvm-config")).unwrap_or(false)
}

/// Where Debian puts an LLVM.
pub(crate) fn llvm_prefix(major: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{major}"))
}

/// Version and LLVM major of `rustc -vV`.
fn parse_version(text: &str) -> Option<(String, u32)> {
    let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
    let llvm = field("LLVM version:")?.split('.').next()?.parse().ok()?;
    Some((field("release:")?.to_owned(), llvm))
}

/// Major and minor of a version.
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// LLVM major in the output of `ldd`.
fn linked_llvm(libs: &str) -> Option<u32> {
    let rest = libs.lines().find_map(|l| l.trim().strip_prefix("libLLVM"))?;
    let digits = rest.trim_start_matches(['-', '.']).trim_start_matches("so.");
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions() {
        let text = "rustc 1.97.0-nightly (e5 2026-05-19)\nbinary: rustc\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4";
        assert_eq!(parse_version(text), Some(("1.97.0-nightly".to_owned(), 22)));
        assert_eq!(parse_version("rustc 1.97.0"), None);
        assert_eq!(numbers("1.97.0-nightly"), Some((1, 97)));
        assert_eq!(numbers("soon"), None);
    }

    #[test]
    fn reads_the_linkers_llvm() {
        assert_eq!(linked_llvm("\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x7f)"), Some(22));
        assert_eq!(linked_llvm("\tlibLLVM-18.so.1 => /x (0x7f)\n"), Some(18));
        assert_eq!(linked_llvm("\tstatically linked"), None);
    }
}
