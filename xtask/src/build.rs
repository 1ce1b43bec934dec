//! `cargo xtask build`: the XDP objects, then everything for the host, with the object inside of the agent.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::needs::Purpose;
use crate::run::{checked, host_cargo, root, target_dir};
use crate::setup;
use crate::toolchain::Toolchain;

/// Build the XDP program and the agent that carries it
///
/// Leaves target/debug/lb-agent, or with --release one self-contained target/release/lb-agent, and the objects
/// under target/bpf. The XDP program itself is always optimized.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Optimize the agent
    #[arg(long)]
    release: bool,
    /// Compile the XDP program with its development log (slow: never in a release)
    #[arg(long, conflicts_with = "release")]
    log: bool,
}

/// The command.
///
/// # Errors
/// When the toolchain is missing or a compilation fails.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(Purpose::Build)?;
    objects(if args.log { ObjectKind::Log } else { ObjectKind::Plain })?;
    let [agent] = programs([AGENT], args.release)?;
    println!("built {}", agent.display());
    Ok(())
}

/// Whether the XDP program writes its development log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ObjectKind {
    /// No log.
    Plain,
    /// With aya-log.
    Log,
}

/// Builds every XDP object into `target/bpf`.
///
/// # Errors
/// When a compilation fails.
pub(crate) fn objects(kind: ObjectKind) -> Result<()> {
    let toolchain = Toolchain::find().context("no eBPF toolchain: run \"cargo xtask setup\"")?;
    fs::create_dir_all(object_dir()).with_context(|| format!("cannot make {}", object_dir().display()))?;
    for krate in crates() {
        let mut cmd = toolchain.cargo("build", &krate.dir);
        cmd.arg("--target-dir").arg(ebpf_target_dir());
        if kind == ObjectKind::Log && krate.has_log {
            cmd.args(["--features", "log"]);
        }
        checked(&mut cmd)?;
        for bin in &krate.bins {
            publish(bin)?;
        }
    }
    Ok(())
}

/// The agent: package and program.
pub(crate) const AGENT: (&str, &str) = ("lb-agent", "lb-agent");

/// Builds programs of the host workspace, each a package and a program; gives their paths.
///
/// # Errors
/// When the compilation fails.
pub(crate) fn programs<const N: usize>(wanted: [(&str, &str); N], release: bool) -> Result<[PathBuf; N]> {
    let mut cmd = host_cargo();
    cmd.arg("build");
    // In one go: cargo then compiles their common dependencies once, with the features of all.
    for (package, bin) in wanted {
        cmd.args(["--package", package, "--bin", bin]);
    }
    if release {
        cmd.arg("--release");
    }
    checked(&mut cmd)?;
    Ok(wanted.map(|(_, bin)| program(bin, release)))
}

/// Where a program of the host workspace is after its build.
pub(crate) fn program(bin: &str, release: bool) -> PathBuf {
    target_dir().join(if release { "release" } else { "debug" }).join(bin)
}

/// Where finished objects are: `lb.o`, and `bench-*.o` for the benchmarks.
pub(crate) fn object_dir() -> PathBuf {
    root().join("target/bpf")
}

/// A crate of XDP programs, in a workspace of its own.
pub(crate) struct EbpfCrate {
    /// Its directory.
    pub(crate) dir: PathBuf,
    /// Its programs: file names under the target directory.
    bins: Vec<String>,
    has_log: bool,
}

/// The crates of XDP programs that exist.
pub(crate) fn crates() -> Vec<EbpfCrate> {
    let product = EbpfCrate { dir: root().join("lb-ebpf"), bins: vec!["lb".to_owned()], has_log: true };
    let bench_dir = root().join("bench/ebpf");
    let bench = EbpfCrate { bins: bin_names(&bench_dir), dir: bench_dir, has_log: false };
    [product, bench].into_iter().filter(|c| c.dir.join("Cargo.toml").is_file()).collect()
}

/// Names of the programs under `src/bin`.
fn bin_names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir.join("src/bin")) else { return Vec::new() };
    let stem = |e: fs::DirEntry| e.path().file_stem().map(|s| s.to_string_lossy().into_owned());
    let mut names: Vec<String> = entries.flatten().filter_map(stem).collect();
    names.sort();
    names
}

/// Where the eBPF crates are compiled; shared, so that `core` is compiled once.
pub(crate) fn ebpf_target_dir() -> PathBuf {
    root().join("target/ebpf")
}

/// Copies a program to `target/bpf`, unless the same bytes are there: the agent is compiled again whenever
/// that file's time changes.
fn publish(bin: &str) -> Result<()> {
    let from = ebpf_target_dir().join("bpfel-unknown-none/release").join(bin);
    let to = object_dir().join(format!("{bin}.o"));
    let new = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(&to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    // Written beside and renamed: a build that runs meanwhile sees the old file or the new one.
    let beside = to.with_extension("new");
    fs::write(&beside, new)
        .and_then(|()| fs::rename(&beside, &to))
        .with_context(|| format!("cannot write {}", to.display()))
}
