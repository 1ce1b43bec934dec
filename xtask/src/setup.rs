//! `cargo xtask setup`: says what is missing and what will be installed, installs it, says what was found.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt;
use crate::kernel;
use crate::needs::{Purpose, TOOLS, Tool, includes};
use crate::run::{cargo_home, checked, host_cargo, is_root, output};
use crate::toolchain::{
    Compiler, DEBIAN_LLVM, LINKER_VERSION, Linker, SYSTEM_CLIPPY, Toolchain, has_llvm, installed,
    llvm_prefix, private_root,
};
use crate::vm;

/// The version of cargo-deny that deny.toml is written for.
pub(crate) const DENY_VERSION: &str = "0.20.2";

/// Find or install what building, testing, linting and benchmarking need
///
/// The eBPF toolchain is a rustup nightly with rust-src where there is one; on Debian the packages rustc-web,
/// cargo-web and rust-web-src otherwise; and bpf-linker, which cargo compiles. Everything else is Debian packages.
/// Services of these packages (haproxy, nginx, PostgreSQL, Redis) are not started. What is here already is left as it is.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to set up for
    #[arg(long = "for", value_name = "PURPOSE", default_value = "all")]
    purpose: Purpose,
    /// Only say what is here and what is missing; exit status 1 when something is
    #[arg(long)]
    check: bool,
}

/// The command.
///
/// # Errors
/// When something is missing that was not (or, with `--check`, not to be) installed.
pub(crate) fn run(args: &Args) -> Result<()> {
    let missing = Missing::inspect(args.purpose);
    if args.check {
        report_found(args.purpose);
        missing.announce("missing");
        if missing.is_empty() { Ok(()) } else { bail!("not set up: see \"missing\" above") }
    } else {
        missing.install()?;
        verify(args.purpose)?;
        report_found(args.purpose);
        Ok(())
    }
}

/// The same for another command: silent when nothing is missing.
///
/// # Errors
/// When something is missing and cannot be installed.
pub(crate) fn ensure(purpose: Purpose) -> Result<()> {
    let missing = Missing::inspect(purpose);
    missing.install()?;
    if missing.is_empty() { Ok(()) } else { verify(purpose) }
}

/// What has to be installed.
#[derive(Default)]
struct Missing {
    /// Debian packages and what they are for.
    packages: Vec<(String, &'static str)>,
    /// The major LLVM version to build bpf-linker with.
    linker: Option<u32>,
    deny: bool,
    /// Components of the rustup toolchain that runs this program.
    components: Vec<&'static str>,
    /// bpffs is to be mounted.
    bpffs: bool,
    /// The kit for tests on another kernel, on machines that can have it.
    vm: bool,
}

impl Missing {
    fn inspect(purpose: Purpose) -> Self {
        let mut missing = Self::default();
        missing.add_toolchain();
        for tool in TOOLS.iter().filter(|t| includes(purpose, t.purpose) && !t.is_here()) {
            missing.packages.push((tool.package.to_owned(), tool.why));
        }
        if includes(purpose, Purpose::Lint) {
            missing.add_linters();
        }
        missing.bpffs = includes(purpose, Purpose::Demo) && is_root() && !kernel::has_bpffs();
        missing.vm = includes(purpose, Purpose::Test) && vm::is_possible() && !vm::is_here();
        missing
    }

    fn add_toolchain(&mut self) {
        if Toolchain::find().is_some() {
            return;
        }
        let linker = Linker::find();
        let compilers = Compiler::all();
        // A compiler whose LLVM is here, or the one that Debian has.
        let usable = compilers.iter().find(|c| has_llvm(c.llvm) || c.llvm == DEBIAN_LLVM);
        let llvm = usable.map_or(DEBIAN_LLVM, |c| c.llvm);
        if usable.is_none() {
            for package in ["rustc-web", "cargo-web", "rust-web-src"] {
                self.packages.push((package.to_owned(), "compiles the XDP program"));
            }
        }
        // Without any compiler a linker with the LLVM of Debian's will do.
        if usable.is_some() || !linker.is_some_and(|l| l.reads_llvm(DEBIAN_LLVM)) {
            self.linker = Some(llvm);
            if !has_llvm(llvm) {
                self.packages.push((format!("llvm-{llvm}-dev"), "bpf-linker is built with it"));
            }
        }
    }

    fn add_linters(&mut self) {
        let system_compiler = Toolchain::find().is_none_or(|t| t.is_system());
        if system_compiler && !Path::new(SYSTEM_CLIPPY).is_file() {
            self.packages.push(("rust-web-clippy".to_owned(), "lints the XDP program"));
        }
        for (component, subcommand) in [("clippy", "clippy"), ("rustfmt", "fmt")] {
            if output(host_cargo().args([subcommand, "--version"])).is_err() {
                self.components.push(component);
            }
        }
        self.deny = installed("cargo-deny", DENY_VERSION).is_none();
    }

    fn is_empty(&self) -> bool {
        self.packages.is_empty()
            && self.linker.is_none()
            && !self.deny
            && self.components.is_empty()
            && !self.bpffs
            && !self.vm
    }

    fn announce(&self, verb: &str) {
        for (package, why) in &self.packages {
            println!("{verb}: Debian package {package} ({why})");
        }
        if let Some(llvm) = self.linker {
            println!(
                "{verb}: bpf-linker {LINKER_VERSION} with LLVM {llvm}, compiled by cargo (a minute or two)"
            );
        }
        if self.deny {
            println!("{verb}: cargo-deny {DENY_VERSION}, compiled by cargo (two or three minutes)");
        }
        for component in &self.components {
            println!("{verb}: rustup component {component}");
        }
        if self.bpffs {
            println!("{verb}: a bpffs on /sys/fs/bpf");
        }
        if self.vm {
            println!(
                "{verb}: Debian's 6.1 kernel and qemu for tests, unpacked in {} (500 MB)",
                vm::dir().display()
            );
        }
    }

    fn install(&self) -> Result<()> {
        self.announce("will install");
        self.install_packages()?;
        for component in &self.components {
            install_with(Command::new("rustup").args(["component", "add", component]), component)?;
        }
        if let Some(llvm) = self.linker {
            let mut cmd = cargo_install("bpf-linker", LINKER_VERSION);
            let feature = format!("llvm-{llvm}");
            cmd.args(["--no-default-features", "--features", &feature]).env("LLVM_PREFIX", llvm_prefix(llvm));
            install_with(&mut cmd, "bpf-linker")?;
        }
        if self.deny {
            // Unoptimized: half the time to compile, and it has little to do.
            install_with(cargo_install("cargo-deny", DENY_VERSION).arg("--debug"), "cargo-deny")?;
        }
        if self.bpffs {
            kernel::mount_bpffs()?;
        }
        if self.vm
            && let Err(e) = vm::unpack()
        {
            eprintln!("note: tests on the 6.1 kernel will be skipped: {e:#}");
        }
        Ok(())
    }

    fn install_packages(&self) -> Result<()> {
        let mut names: Vec<&str> = self.packages.iter().map(|(name, _)| name.as_str()).collect();
        names.dedup();
        if names.is_empty() {
            return Ok(());
        }
        if !apt::available() {
            bail!(
                "this is no Debian: install what the packages above bring with your package manager (for the XDP \
                 program \"rustup toolchain install nightly --component rust-src\" and bpf-linker {LINKER_VERSION} do)"
            );
        }
        if !is_root() {
            bail!("not root: as root run \"{}\", then this again", apt::command_line(&names));
        }
        apt::install(&names)
    }
}

/// A `cargo install` of a pinned version. Another version that the user has stays where it is.
fn cargo_install(name: &str, version: &str) -> Command {
    let root = if cargo_home().join("bin").join(name).exists() { private_root() } else { cargo_home() };
    let mut cmd = host_cargo();
    cmd.args(["install", "--locked", name, "--version", version, "--root"]).arg(root);
    cmd
}

fn install_with(cmd: &mut Command, what: &str) -> Result<()> {
    checked(cmd)
        .with_context(|| format!("cannot install {what} (its own message is above; is the network up?)"))
}

fn verify(purpose: Purpose) -> Result<()> {
    let mut missing = Missing::inspect(purpose);
    // Its failure has been reported, and keeps nobody from working.
    missing.vm = false;
    if missing.is_empty() {
        return Ok(());
    }
    missing.announce("still missing");
    bail!("set-up is incomplete although every step succeeded: see \"still missing\" above")
}

fn report_found(purpose: Purpose) {
    if let Some(toolchain) = Toolchain::find() {
        println!("found: {}", toolchain.describe());
    }
    let here = |t: &&Tool| includes(purpose, t.purpose) && t.is_here();
    let tools: Vec<&str> = TOOLS.iter().filter(here).map(|t| t.package).collect();
    if !tools.is_empty() {
        println!("found: {}", tools.join(", "));
    }
    if includes(purpose, Purpose::Lint)
        && let Some(deny) = installed("cargo-deny", DENY_VERSION)
    {
        println!("found: cargo-deny {DENY_VERSION} ({})", deny.display());
    }
    if includes(purpose, Purpose::Test) && vm::is_here() {
        println!("found: Debian's 6.1 kernel and qemu for tests ({})", vm::dir().display());
    }
    if includes(purpose, Purpose::Demo) {
        for obstacle in kernel::obstacles() {
            println!("note: {obstacle}");
        }
    }
}
