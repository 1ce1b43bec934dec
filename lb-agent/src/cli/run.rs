//! `lb-agent run`.

use tracing::{info, warn};

use super::{Failure, RunArgs, runtime};
use crate::agent::node::{self, Findings};
use crate::agent::run::run_agent;
use crate::{config, logging};

pub(super) fn run(args: &RunArgs) -> Result<(), Failure> {
    let config = config::load(&args.config).map_err(Failure::usage)?;
    let log = logging::init(args.log_format.unwrap_or(config.agent.log_format), args.log_level.as_deref())
        .map_err(|e| Failure::usage(format!("lb-agent: {e}")))?;
    // The command line goes before the configuration, also when that is read again.
    let log = Some(log).filter(|_| args.log_format.is_none());
    let runtime = runtime()?;
    let Findings { errors, warnings } =
        runtime.block_on(node::findings(&config)).map_err(|e| Failure::failed(format!("{e:#}")))?;
    for w in warnings {
        warn!("{w}");
    }
    if !errors.is_empty() {
        return Err(Failure::usage(errors.join("\n")));
    }
    info!(version = env!("CARGO_PKG_VERSION"), config = %args.config.display(), "starting");
    runtime.block_on(run_agent(config, &args.config, log)).map_err(|e| Failure::failed(format!("{e:#}")))
}
