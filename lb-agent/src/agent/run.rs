//! From a configuration to a running agent, and to its end.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::future::Future;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use lb_common::flow::State;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::admin::access::Access;
use crate::admin::{self, AdminSocket, Heartbeat, ScanCache, View};
use crate::config::{Announce, Config};
use crate::dataplane::ebpf::{EbpfDataplane, LoadOptions};
use crate::dataplane::{Counters, Dataplane};
use crate::health::Checker;
use crate::metrics::Metrics;
use crate::model::{NodeFacts, PortFacts};
use crate::net::announce::announce;
use crate::net::hops::{HopWatcher, Hops};
use crate::net::raw::RawSocket;

use super::core::{Core, Tools};
use super::driver::{Events, drive};
use super::program::Program;
use super::report::{Origin, starting};
use super::sweep::Sender;
use super::world::World;

/// How long the start waits for next hops. A backend that is not resolved by then is left out until it is.
const SETTLE: Duration = Duration::from_secs(1);

/// Commands that wait for the loop.
const COMMANDS: usize = 16;

/// Loads the data path that is inside this program, and balances until SIGTERM or SIGINT.
///
/// # Errors
/// When the kernel refuses the data path, and see [`balance`].
pub async fn run_agent(config: &Config, path: &Path) -> anyhow::Result<()> {
    let signals = Signals::listen().context("cannot listen for signals")?;
    let (slots, blocks) = (config.nat.slots(), config.nat.blocks());
    let mut program = EbpfDataplane::load(&LoadOptions::embedded(slots, blocks, config.agent.xdp_mode)?)?;
    info!(slots, blocks, "data path loaded");
    if program.forward_log()? {
        warn!("this data path was built for development: it logs, and is slow");
    }
    let counters = program.counters();
    balance(config, path, program, counters, signals.stop()).await
}

/// Balances on `program` until `stop` is ready; `stop` says in a word why.
///
/// Nothing is attached when this returns.
///
/// # Errors
/// When something that is needed from the start is not to be had: the admin address or socket, netlink, the maps, the
/// interfaces. What fails later is tried again.
pub async fn balance<P: Program>(
    config: &Config,
    path: &Path,
    program: P,
    counters: Arc<dyn Counters>,
    stop: impl Future<Output = &'static str>,
) -> anyhow::Result<()> {
    let origin = Origin::now(path.to_owned());
    // First of all: when another agent runs here, this is where it shows, and nothing was touched yet.
    let listener = admin::bind(config.agent.admin).await?;
    let socket = AdminSocket::bind(&config.agent.socket)?;
    let watcher = HopWatcher::start(config.agent.interfaces.clone()).await?;
    let mut hops = watcher.subscribe();
    let world = world(config, &program, &watcher, &mut hops).await?;

    let (publish, published) = watch::channel(starting(&origin));
    let status = published.clone();
    let metrics = Metrics::new(Box::new(move || status.borrow().status.clone()), counters.clone())?;
    let metrics = Arc::new(metrics);
    let heartbeat = Arc::new(Heartbeat::default());
    let (commands, asked) = mpsc::channel(COMMANDS);
    let view = Arc::new(View {
        published,
        metrics: metrics.clone(),
        counters: counters.clone(),
        heartbeat: heartbeat.clone(),
        commands,
        scan: ScanCache::default(),
    });
    let access = config.agent.admin_token_file.clone().map_or(Access::ReadOnly, Access::Token);
    let _servers = [
        Task(tokio::spawn(admin::serve(listener, access, view.clone()))),
        Task(tokio::spawn(admin::serve(socket, Access::Full, view))),
    ];

    let (mut checker, checks) = Checker::new();
    checker.set_targets(&config.services)?;
    let tools = Tools { metrics, counters: counters.clone(), passive: checker.passive(), send: sender()? };
    let mut core = Core::new(world, program, tools, origin, publish)?;
    core.start()?;
    let _announcer = announcer(config);
    info!(admin = %config.agent.admin, services = config.services.len(), "running");

    let why = drive(&mut core, Events { checks, hops, commands: asked }, &heartbeat, stop).await;
    drop(checker);
    say_goodbye(why, &*counters);
    core.stop();
    info!("detached, stopped");
    Ok(())
}

/// SIGTERM and SIGINT stop the agent. SIGHUP does not, and changes nothing yet.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Listens from now on, within a tokio runtime. What these signals do otherwise is off.
    ///
    /// # Errors
    /// When the kernel refuses a handler.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Returns the name of the signal that stops the agent.
    pub async fn stop(mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => {
                    warn!("SIGHUP ignored: this release does not reload its configuration, restart it instead");
                }
            }
        }
    }
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
    let targets = world.targets();
    watcher.set_targets(targets.clone());
    let settled = timeout(SETTLE, hops.wait_for(|h| all_resolved(h, &targets))).await.is_ok();
    if !settled {
        warn!("not every next hop is known yet: see lb-agent status");
    }
    world.set_hops(&hops.borrow_and_update().clone());
    Ok(world)
}

fn all_resolved(hops: &Hops, targets: &BTreeSet<IpAddr>) -> bool {
    targets.iter().all(|t| matches!(hops.next.get(t), Some(Ok(_))))
}

fn ports(hops: &Hops) -> anyhow::Result<Vec<PortFacts>> {
    hops.ports.values().map(|p| Ok(p.as_ref().map_err(Clone::clone)?.facts.clone())).collect()
}

fn node_facts(config: &Config, ports: Vec<PortFacts>, hash_key: u64) -> NodeFacts {
    NodeFacts {
        ports,
        snat: config.nat.addresses.clone(),
        snat_ports: config.nat.ports,
        rest: config.nat.rest,
        idle: config.nat.idle_timeout,
        announce: config.agent.announce == Announce::Arp,
        hash_key,
        zone: config.agent.zone.clone(),
        reset_rate: config.agent.reset_rate,
    }
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

fn announcer(config: &Config) -> Option<Task> {
    if config.agent.announce != Announce::Arp {
        return None;
    }
    let vips: BTreeSet<IpAddr> = config.services.iter().map(|s| s.vip.ip()).collect();
    let (vips, interfaces) = (Vec::from_iter(vips), config.agent.interfaces.clone());
    Some(Task(tokio::spawn(async move {
        if let Err(e) = announce(&vips, &interfaces).await {
            warn!("agent.announce: the VIPs are not announced: {e}");
        }
    })))
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
