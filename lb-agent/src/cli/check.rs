//! `lb-agent check`.

use std::io::Write;

use super::{CheckArgs, Failure, print, runtime};
use crate::agent::node::{self, Findings};
use crate::config::{self, Config};

pub(super) fn check(args: &CheckArgs) -> Result<(), Failure> {
    let config = config::load(&args.config).map_err(Failure::usage)?;
    let Findings { errors, warnings } =
        runtime()?.block_on(node::findings(&config)).map_err(|e| Failure::failed(format!("{e:#}")))?;
    let (errors, warnings) =
        if args.node { (errors, warnings) } else { (vec![], [errors, warnings].concat()) };
    for w in &warnings {
        // As in `main`.
        let _ = writeln!(std::io::stderr(), "warning: {w}");
    }
    if !errors.is_empty() {
        return Err(Failure::usage(errors.join("\n")));
    }
    print(&format!("{}: {}\n", args.config.display(), summary(&config)))
}

fn summary(c: &Config) -> String {
    let backends: usize = c.services.iter().map(|s| s.backends.len()).sum();
    format!(
        "ok: {}, {}, {}, {} SNAT {} with {} flow slots",
        count(c.agent.interfaces.len(), "interface", "interfaces"),
        count(c.services.len(), "service", "services"),
        count(backends, "backend", "backends"),
        c.nat.blocks(),
        if c.nat.blocks() == 1 { "address" } else { "addresses" },
        c.nat.slots(),
    )
}

fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}
