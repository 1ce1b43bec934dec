//! Keeps the next hop of every backend current.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use crate::model::NextHop;
use crate::net::NetError;
use crate::net::decode::Event;
use crate::net::links::{Port, PortError};
use crate::net::netdev::{Change, Netdev, Targets};
use crate::net::netlink::{Events, Netlink};
use crate::net::resolve::{Facts, HopError, NeighbourKey, NeighbourState, resolve};
use crate::net::warm::Warm;

/// Events come in bursts: one recomputation for all that arrive within this time.
const SETTLE: Duration = Duration::from_millis(20);
/// Everything is read anew this often, in case that an event was missed.
const RESYNC: Duration = Duration::from_secs(30);
/// How often to look whether a neighbour has to be asked for.
const WARM: Duration = Duration::from_millis(500);
/// Pause before netlink is tried again after it failed.
const RECONNECT: Duration = Duration::from_secs(1);

/// What is known of the network, all of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hops {
    /// The configured interfaces by name. Index and MAC change when the interface is replaced or reconfigured.
    pub ports: BTreeMap<String, Result<Port, PortError>>,
    /// The next hop of each target. A target that was set a moment ago is absent until it is looked up.
    pub next: BTreeMap<IpAddr, Result<NextHop, HopError>>,
    /// Whether each configured interface takes frames that are redirected to it, by name. One that the kernel says
    /// nothing of is absent; before Linux 6.3 all of them are.
    pub redirect: BTreeMap<String, bool>,
}

/// A task that follows the kernel's routes, neighbours and interfaces. It ends when this is dropped.
#[derive(Debug)]
pub struct HopWatcher {
    targets: watch::Sender<Arc<BTreeSet<IpAddr>>>,
    hops: watch::Receiver<Arc<Hops>>,
    task: JoinHandle<()>,
}

impl HopWatcher {
    /// Starts on the current tokio runtime, in the network namespace of the calling thread. The ports are known when
    /// this returns; a port that does not exist is an entry that says so, and it may turn up later.
    ///
    /// # Errors
    /// When netlink cannot be used. Later failures are logged, and netlink is opened anew.
    pub async fn start(interfaces: Vec<String>) -> Result<Self, NetError> {
        let (targets, wanted) = watch::channel(Arc::default());
        let mut session = Session::open(interfaces).await?;
        let (out, hops) = watch::channel(Arc::new(session.hops()));
        let task = tokio::spawn(async move { follow(&mut session, wanted, &out).await });
        Ok(Self { targets, hops, task })
    }

    /// Replaces the set of addresses whose next hop is wanted.
    pub fn set_targets(&self, targets: BTreeSet<IpAddr>) {
        self.targets.send_if_modified(|old| {
            let changed = **old != targets;
            if changed {
                *old = Arc::new(targets);
            }
            changed
        });
    }

    /// The latest state; it changes only when something in it is different.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Hops>> {
        self.hops.clone()
    }
}

impl Drop for HopWatcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(
    session: &mut Session,
    mut wanted: watch::Receiver<Arc<BTreeSet<IpAddr>>>,
    out: &watch::Sender<Arc<Hops>>,
) {
    while let Err(error) = session.run(&mut wanted, out).await {
        tracing::warn!(%error, "next hops are not followed; trying again");
        loop {
            sleep(RECONNECT).await;
            match Session::open(session.interfaces.clone()).await {
                Ok(new) => break *session = new,
                Err(error) => tracing::warn!(%error, "next hops are not followed; trying again"),
            }
        }
    }
}

/// What has to be done before the next publication. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    Nothing,
    Resolve,
    LookUp,
    ReadAll,
    Resubscribe,
}

struct Session {
    interfaces: Vec<String>,
    netlink: Netlink,
    events: Events,
    netdev: Option<Netdev>,
    targets: Arc<BTreeSet<IpAddr>>,
    facts: Facts,
    redirect: Targets,
    warm: Warm,
    /// Neighbours that next hops depend on.
    needed: BTreeMap<NeighbourKey, NeighbourState>,
}

impl Session {
    async fn open(interfaces: Vec<String>) -> Result<Self, NetError> {
        // Subscribed first: what changes while the tables are read comes as an event afterwards.
        let events = Events::subscribe()?;
        let netlink = Netlink::connect()?;
        let mut session = Self {
            interfaces,
            netlink,
            events,
            netdev: open_netdev().await,
            targets: Arc::default(),
            facts: Facts::default(),
            redirect: Targets::new(),
            warm: Warm::default(),
            needed: BTreeMap::new(),
        };
        session.read_tables().await?;
        Ok(session)
    }

    /// Returns when nobody wants to know any more.
    async fn run(
        &mut self,
        wanted: &mut watch::Receiver<Arc<BTreeSet<IpAddr>>>,
        out: &watch::Sender<Arc<Hops>>,
    ) -> Result<(), NetError> {
        let mut resync = interval(RESYNC);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        resync.reset();
        let mut warm = interval(WARM);
        warm.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.targets = wanted.borrow_and_update().clone();
        let mut work = Work::LookUp;
        let mut due = Instant::now();
        loop {
            let more = tokio::select! {
                event = self.events.next() => self.note(event?),
                change = next_change(&mut self.netdev) => self.note_redirect(change?),
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.targets = wanted.borrow_and_update().clone();
                    Work::LookUp
                }
                _ = resync.tick() => Work::ReadAll,
                _ = warm.tick() => {
                    self.ask_neighbours().await?;
                    Work::Nothing
                }
                () = sleep_until(due), if work != Work::Nothing => {
                    self.perform(work).await?;
                    publish(out, self.hops());
                    self.ask_neighbours().await?;
                    work = Work::Nothing;
                    continue;
                }
            };
            if work == Work::Nothing {
                due = Instant::now() + SETTLE;
            }
            work = work.max(more);
        }
    }

    /// Takes an event into the facts.
    fn note(&mut self, event: Event) -> Work {
        let facts = &mut self.facts;
        let (changed, work) = match event {
            Event::Link(link) => (facts.links.set(link), Work::LookUp),
            Event::LinkGone(ifindex) => {
                facts.neighbours.retain(|(on, _), _| *on != ifindex);
                (facts.links.remove(ifindex), Work::LookUp)
            }
            Event::Neighbour(key, entry) => {
                (facts.neighbours.insert(key, entry) != Some(entry), Work::Resolve)
            }
            Event::NeighbourGone(key) => (facts.neighbours.remove(&key).is_some(), Work::Resolve),
            Event::Routes => (true, Work::LookUp),
            Event::Overrun => {
                tracing::warn!("netlink events were lost: reading everything anew");
                (true, Work::Resubscribe)
            }
        };
        if changed { work } else { Work::Nothing }
    }

    fn note_redirect(&mut self, change: Change) -> Work {
        let changed = match change {
            Change::Device(ifindex, takes) => self.redirect.insert(ifindex, takes) != Some(takes),
            Change::Gone(ifindex) => self.redirect.remove(&ifindex).is_some(),
            Change::Overrun => return Work::Resubscribe,
        };
        if changed { Work::Resolve } else { Work::Nothing }
    }

    async fn perform(&mut self, work: Work) -> Result<(), NetError> {
        if work >= Work::Resubscribe {
            // A socket that overflowed drops all that follows, without another word, until it has been read empty
            // (`NETLINK_S_CONGESTED`). A new one misses nothing.
            self.events = Events::subscribe()?;
            self.netdev = open_netdev().await;
        }
        if work >= Work::ReadAll {
            self.read_tables().await?;
        }
        if work >= Work::LookUp {
            self.look_up().await?;
        }
        Ok(())
    }

    async fn read_tables(&mut self) -> Result<(), NetError> {
        self.facts.links = self.netlink.links().await?;
        self.facts.neighbours = self.netlink.neighbours().await?;
        self.redirect = match &mut self.netdev {
            Some(netdev) => netdev.targets().await?,
            None => Targets::new(),
        };
        Ok(())
    }

    async fn look_up(&mut self) -> Result<(), NetError> {
        let mut routes = BTreeMap::new();
        for target in self.targets.iter() {
            routes.insert(*target, self.netlink.route(*target).await?);
        }
        self.facts.routes = routes;
        Ok(())
    }

    /// Draws the conclusions from the facts, and notes which neighbours they rest on.
    fn hops(&mut self) -> Hops {
        let links = &self.facts.links;
        let ports: BTreeMap<_, _> =
            self.interfaces.iter().map(|name| (name.clone(), links.port(name))).collect();
        let attached = ports.values().flatten().map(|port| port.facts.ifindex).collect();
        let mut next = BTreeMap::new();
        self.needed.clear();
        for (target, route) in &self.facts.routes {
            let resolution = resolve(&self.facts, &attached, *target, route);
            self.needed.extend(resolution.neighbour);
            next.insert(*target, resolution.hop);
        }
        let redirect = ports.iter().filter_map(|(name, port)| {
            let ifindex = port.as_ref().ok()?.facts.ifindex;
            Some((name.clone(), *self.redirect.get(&ifindex)?))
        });
        Hops { redirect: redirect.collect(), ports, next }
    }

    async fn ask_neighbours(&mut self) -> Result<(), NetError> {
        for (key, ask) in self.warm.due(&self.needed, std::time::Instant::now()) {
            match self.netlink.ask(key, ask).await {
                Ok(()) => {}
                // Refused, for example because the entry is gone since: its next hop says what is wrong.
                Err(error @ NetError::Request { .. }) => {
                    tracing::debug!(%error, neighbour = %key.1, ifindex = key.0, "not asked for");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What the kernel does not say is not known; nothing else depends on it.
async fn open_netdev() -> Option<Netdev> {
    match Netdev::open().await {
        Ok(Some(netdev)) => Some(netdev),
        Ok(None) => {
            tracing::debug!(
                "this kernel does not say which interfaces frames can be redirected to (Linux 6.3 does)"
            );
            None
        }
        Err(error) => {
            tracing::warn!(%error, "not known which interfaces frames can be redirected to");
            None
        }
    }
}

async fn next_change(netdev: &mut Option<Netdev>) -> Result<Change, NetError> {
    match netdev {
        Some(netdev) => netdev.next().await,
        None => pending().await,
    }
}

fn publish(out: &watch::Sender<Arc<Hops>>, new: Hops) {
    out.send_if_modified(|old| {
        let changed = **old != new;
        if changed {
            *old = Arc::new(new);
        }
        changed
    });
}
