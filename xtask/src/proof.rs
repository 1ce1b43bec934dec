//! `cargo xtask proof`: the balancer's claims, put to the test.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::LazyLock;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::build::{self, ObjectKind};
use crate::needs::Purpose;
use crate::run::{is_root, root};
use crate::setup;

#[path = "../../tests/src/proof/name.rs"]
#[expect(unreachable_pub, reason = "shared with the program, to which it is public")]
mod name;
use name::Name;

/// Prove what is claimed about failures and fairness, beside HAProxy and nftables
///
/// Sets up and builds with optimization first. Works in network namespaces of this machine, with real servers and the
/// real agent; all of it is gone afterwards. Prints a table for each proof and writes target/proof/NAME.json. Exit status
/// 0 when every aim holds; otherwise the last lines say which does not. "all" takes about nine minutes. Needs root.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which proof; "list" says in a line each what they prove
    #[arg(value_enum)]
    what: What,
}

/// A proof, or all of them.
#[derive(Clone, Copy)]
enum What {
    All,
    List,
    One(Name),
}

impl ValueEnum for What {
    fn value_variants<'a>() -> &'a [Self] {
        static ALL: LazyLock<Vec<What>> = LazyLock::new(|| {
            let ones = Name::value_variants().iter().map(|name| What::One(*name));
            [What::All, What::List].into_iter().chain(ones).collect()
        });
        &ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        match self {
            Self::All => Some(clap::builder::PossibleValue::new("all").help("All of them")),
            Self::List => Some(clap::builder::PossibleValue::new("list").help("Say what there is")),
            Self::One(name) => name.to_possible_value(),
        }
    }
}

/// The command; replaces this process by the proofs' own program.
///
/// # Errors
/// When this user is not root, or something does not compile.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let names: Vec<Name> = match args.what {
        What::List => {
            list();
            return Ok(ExitCode::SUCCESS);
        }
        What::All => Name::value_variants().to_vec(),
        What::One(name) => vec![name],
    };
    if !is_root() {
        bail!("proofs need root, for XDP and network namespaces: run them as root");
    }
    setup::ensure(Purpose::Bench)?;
    build::objects(ObjectKind::Plain)?;
    // The program looks for the server beside itself.
    let [agent, proof, _] =
        build::programs([build::AGENT, ("lb-tests", "proof"), ("lb-tests", "lab-server")], true)?;
    let mut cmd = Command::new(&proof);
    cmd.args(names.iter().map(|name| name.text())).env("EVENKEEL_AGENT", agent).current_dir(root());
    Err(cmd.exec()).with_context(|| format!("cannot start {}", proof.display()))
}

fn list() {
    for value in Name::value_variants().iter().filter_map(ValueEnum::to_possible_value) {
        let help = value.get_help().map(ToString::to_string).unwrap_or_default();
        println!("{:<11} {help}", value.get_name());
    }
}
