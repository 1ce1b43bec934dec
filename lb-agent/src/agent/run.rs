//! From a configuration to a running agent, and to its end.
#![forbid(unsafe_code)]

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use lb_common::flow::State;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::admin::access::Access;
use crate::admin::{self, AdminSocket, Heartbeat, ScanCache, View};
use crate::config::Config;
use crate::dataplane::ebpf::{EbpfDataplane, LoadOptions};
use crate::dataplane::{Counters, Dataplane};
use crate::health::Checker;
use crate::logging::LogHandle;
use crate::metrics::Metrics;
use crate::model::PortFacts;
use crate::net::hops::{HopWatcher, Hops};
use crate::net::raw::RawSocket;

use super::core::{Core, Tools};
use super::driver::{Events, drive};
use super::program::Program;
use super::reload::{Around, Reloader, SETTLE, addresses, all_resolved, announced};
use super::report::{Origin, starting};
use super::signals::{Signals, hangups, stop};
use super::sweep::Sender;
use super::world::{World, node_facts};

/// Commands that wait for the loop.
const COMMANDS: usize = 16;

/// Loads the data path that is inside this program, and balances until SIGTERM or SIGINT. `path` is where `config` was read
/// from, and is read again on SIGHUP and on request; `log` goes by what it says then.
///
/// # Errors
/// When the kernel refuses the data path, or something else that is needed from the start is not to be had: the admin
/// address or socket, netlink, the maps, the interfaces. What fails later is tried again.
pub async fn run_agent(config: Config, path: &Path, log: Option<LogHandle>) -> anyhow::Result<()> {
    let signals = Signals::listen().context("cannot listen for signals")?;
    let (slots, blocks) = (config.nat.slots(), config.nat.blocks());
    let mut program = EbpfDataplane::load(&LoadOptions::embedded(slots, blocks, config.agent.xdp_mode)?)?;
    info!(slots, blocks, "data path loaded");
    if program.forward_log()? {
        warn!("this data path was built for development: it logs, and is slow");
    }
    let counters = program.counters();
    balance((Arc::new(config), path), program, counters, (signals, log)).await
}

/// Balances on `program` until a signal stops it.
///
/// Nothing is attached when this returns.
///
/// # Errors
/// See [`run_agent`].
async fn balance<P: Program>(
    (config, path): (Arc<Config>, &Path),
    program: P,
    counters: Arc<dyn Counters>,
    (signals, log): (Signals, Option<LogHandle>),
) -> anyhow::Result<()> {
    let origin = Origin::now(path.to_owned());
    // First of all: when another agent runs here, this is where it shows, and nothing was touched yet.
    let listener = admin::bind(config.agent.admin).await?;
    let socket = AdminSocket::bind(&config.agent.socket)?;
    let watcher = HopWatcher::start(config.agent.interfaces.clone()).await?;
    let mut hops = watcher.subscribe();
    let world = world(&config, &program, &watcher, &mut hops).await?;

    let (publish, published) = watch::channel(starting(&origin));
    let status = published.clone();
    let metrics = Metrics::new(Box::new(move || status.borrow().status.clone()), counters.clone())?;
    let metrics = Arc::new(metrics);
    let heartbeat = Arc::new(Heartbeat::default());
    let ((commands, asked), (reloads, wanted)) = (mpsc::channel(COMMANDS), mpsc::channel(COMMANDS));
    let view = Arc::new(View {
        published: published.clone(),
        metrics: metrics.clone(),
        counters: counters.clone(),
        heartbeat: heartbeat.clone(),
        commands,
        reloads: reloads.clone(),
        scan: ScanCache::default(),
    });
    let (access, may) = watch::channel(Access::of(&config.agent));
    let _servers = [
        Task(tokio::spawn(admin::serve(listener, may, view.clone()))),
        Task(tokio::spawn(admin::serve(socket, watch::channel(Access::Full).1, view))),
    ];

    let (mut checker, checks) = Checker::new();
    checker.set_targets(&config.services)?;
    let tools = Tools { metrics, counters: counters.clone(), checker, send: sender()? };
    let mut core = Core::new((config.clone(), world), program, tools, origin, publish)?;
    core.start()?;
    info!(admin = %config.agent.admin, services = config.services.len(), "running");

    let mut around = Around { watcher, access, published, log, announcements: JoinSet::new() };
    around.announce(announced(&config), &config);
    let (configs, read) = mpsc::channel(1);
    let reloader = Reloader::new(path.to_owned(), config, configs, around);
    let _reloads =
        [Task(tokio::spawn(reloader.serve(wanted))), Task(tokio::spawn(hangups(signals.hangup, reloads)))];
    let events = Events { checks, hops, commands: asked, configs: read };
    let why = drive(&mut core, events, &heartbeat, stop(signals.stop)).await;
    say_goodbye(why, &*counters);
    core.stop();
    info!("detached, stopped");
    Ok(())
}

/// Ends with its owner.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The world at the start, with the next hops that can be had at once.
async fn world<P: Program>(
    config: &Config,
    program: &P,
    watcher: &HopWatcher,
    hops: &mut watch::Receiver<Arc<Hops>>,
) -> anyhow::Result<World> {
    let ports = ports(&hops.borrow())?;
    let node = node_facts(config, ports, hash_key(program)?);
    let mut world = World::new(node, config.services.clone(), Instant::now());
    let targets = addresses(&config.services);
    watcher.set_targets(targets.clone());
    let settled = timeout(SETTLE, hops.wait_for(|h| all_resolved(h, &targets))).await.is_ok();
    if !settled {
        warn!("not every next hop is known yet: see lb-agent status");
    }
    world.set_hops(&hops.borrow_and_update().clone());
    Ok(world)
}

fn ports(hops: &Hops) -> anyhow::Result<Vec<PortFacts>> {
    hops.ports.values().map(|p| Ok(p.as_ref().map_err(Clone::clone)?.facts.clone())).collect()
}

/// The secret of the flow table's hash: the one that flows in the table were placed by, or a new one.
fn hash_key(dataplane: &impl Dataplane) -> anyhow::Result<u64> {
    let found = dataplane.read()?.node.hash_key;
    if found != 0 {
        return Ok(found);
    }
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut bytes))
        .context("/dev/urandom: cannot draw the flow table's secret")?;
    // 0 stands for a table that was never used.
    Ok(u64::from_ne_bytes(bytes).max(1))
}

/// What sends the RSTs that end lost connections.
fn sender() -> anyhow::Result<Sender> {
    let socket =
        RawSocket::open().context("cannot open a packet socket: run as root, or with CAP_NET_RAW")?;
    Ok(Arc::new(move |ifindex, frame: &[u8]| socket.send(ifindex, frame)))
}

/// What goes and what stays, for whoever reads the log.
fn say_goodbye(why: &str, counters: &dyn Counters) {
    let flows = counters.census().map_or(0, |c| c.count(State::Established));
    info!(
        flows,
        "{why}: stopping. The program is detached and its maps are freed: established flows end, the VIPs are \
         not answered any more. Backends, addresses and routes stay as they are"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::{Op, fake::Fake};

    #[test]
    fn the_secret_is_kept_while_the_maps_live_and_drawn_otherwise() {
        let mut maps = Fake::default();
        let drawn = hash_key(&maps).unwrap();
        assert_ne!(drawn, 0);
        assert_ne!(drawn, hash_key(&maps).unwrap());
        let node = lb_common::node::Node { hash_key: 42, ..lb_common::node::Node::EMPTY };
        maps.apply(&Op::SetNode(Box::new(node))).unwrap();
        assert_eq!(hash_key(&maps).unwrap(), 42);
    }
}
