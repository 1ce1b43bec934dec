//! An agent on a data path in memory.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use lb_common::backend::Backend;
use lb_common::flow::{Ctrl, Slot, State};

use super::core::reload::NewConfig;
use super::core::{Core, Tools};
use super::driver::{Events, drive};
use super::program::{Attachment, Closer, Program, Scanner};
use super::reload::addresses;
use super::report::{Origin, starting};
use super::sweep::Sender;
use super::world::World;
use crate::admin::command::{Change, Command, Refusal, ask};
use crate::admin::{Heartbeat, Published};
use crate::config::Config;
use crate::dataplane::fake::Fake;
use crate::dataplane::{Dataplane, DataplaneError, Op, Tables};
use crate::health::fsm::{CheckResult, Transition, Why};
use crate::health::probe::Checked;
use crate::health::{CheckObservation, Checker};
use crate::metrics::Metrics;
use crate::metrics::testing::FakeCounters;
use crate::model::{
    BackendSpec, DrainSpec, Forwarding, HealthSpec, HealthState, NextHop, NodeFacts, PassiveSpec, Policy,
    PortFacts, ProbeKind, Scheduler, ServiceSpec,
};
use crate::net::hops::Hops;
use crate::net::links::{Port, PortError};
use crate::status::Status;
use crate::status::reload::ReloadReport;

/// A step a second.
const SLOW_START: Duration = Duration::from_secs(9);

/// The kernel of a test: maps, what is attached, and faults.
#[derive(Default)]
pub(super) struct Kernel {
    pub(super) maps: Fake,
    /// By interface name.
    pub(super) attached: BTreeMap<String, u32>,
    /// This many of the next writes fail.
    pub(super) refuse: usize,
    pub(super) refused: usize,
    /// Attaching fails.
    pub(super) no_attach: bool,
    /// When each ring was written.
    pub(super) rings: Vec<Instant>,
    /// Slots that were asked to be closed, each time.
    pub(super) closed: Vec<Vec<u32>>,
    /// When RSTs were sent.
    pub(super) resets: Vec<Instant>,
    /// Sending them fails.
    pub(super) no_resets: bool,
}

/// Shared with the test.
#[derive(Clone, Default)]
pub(super) struct SharedKernel(Arc<Mutex<Kernel>>);

impl SharedKernel {
    pub(super) fn lock(&self) -> MutexGuard<'_, Kernel> {
        self.0.lock().unwrap()
    }

    /// Backends in the ring of the only service.
    pub(super) fn ring(&self) -> Vec<u16> {
        let kernel = self.lock();
        let ring = kernel.maps.tables().rings.values().next().unwrap();
        let mut ids: Vec<u16> = ring.slots[..ring.length as usize].to_vec();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

fn fault(what: &str) -> DataplaneError {
    DataplaneError { what: what.to_owned(), source: anyhow::anyhow!("a fault that was asked for") }
}

impl Dataplane for SharedKernel {
    fn read(&self) -> Result<Tables, DataplaneError> {
        self.lock().maps.read()
    }

    fn apply(&mut self, op: &Op) -> Result<(), DataplaneError> {
        let mut kernel = self.lock();
        if kernel.refuse > 0 {
            kernel.refuse -= 1;
            kernel.refused += 1;
            return Err(fault("map RINGS"));
        }
        if matches!(op, Op::SetRing(..)) {
            kernel.rings.push(Instant::now());
        }
        kernel.maps.apply(op)
    }
}

impl Program for SharedKernel {
    fn attach(&mut self, port: &PortFacts) -> Result<Attachment, DataplaneError> {
        let mut kernel = self.lock();
        if kernel.no_attach {
            return Err(fault("attach"));
        }
        kernel.attached.insert(port.name.clone(), port.ifindex);
        Ok(Attachment { mode: "native", refused: None })
    }

    fn detach(&mut self) {
        self.lock().attached.clear();
    }

    fn scanner(&self) -> Scanner {
        // What is over does not matter to the loop; that the tables arrive does.
        Arc::new(|tables| tables.backends.keys().map(|id| u32::from(*id)).collect())
    }

    fn closer(&self) -> Closer {
        let kernel = self.clone();
        Arc::new(move |slots| {
            let mut kernel = kernel.lock();
            kernel.closed.push(slots.to_vec());
            let flow = |id: &u32| established(u16::try_from(*id).unwrap(), &kernel.maps.tables().backends);
            Ok(slots.iter().map(flow).collect())
        })
    }
}

/// A flow of the backend with this id.
fn established(id: u16, backends: &BTreeMap<u16, Backend>) -> Slot {
    let backend = backends[&id];
    let ctrl = Ctrl::new(State::Established, backend.service, id, backend.generation).0;
    Slot { ctrl, client: Ipv4Addr::new(10, 77, 0, 10).into(), ..Slot::EMPTY }
}

pub(super) fn port(ifindex: u32) -> PortFacts {
    PortFacts { name: "eth0".into(), ifindex, mac: [2, 0, 0, 0, 0, 0xaa], tx_by_redirect: false }
}

pub(super) fn service(backends: u8) -> ServiceSpec {
    let address = |i: u8| format!("10.77.0.{}:8088", 10 + i).parse().unwrap();
    let backend = |i: u8| BackendSpec::new(format!("superset-{i}"), address(i));
    ServiceSpec {
        name: "superset".into(),
        vip: "10.77.0.100:80".parse().unwrap(),
        forwarding: Forwarding::Nat,
        scheduler: Scheduler::LeastWaiting,
        policy: Policy { slow_start: SLOW_START, ..Policy::default() },
        requests: true,
        health: HealthSpec {
            probe: ProbeKind::Tcp,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
            grace: Duration::from_secs(60),
            dead_after: Duration::from_secs(30),
            passive: PassiveSpec::default(),
        },
        drain: DrainSpec::default(),
        backends: (1..=backends).map(backend).collect(),
    }
}

pub(super) fn node() -> NodeFacts {
    NodeFacts {
        ports: vec![port(2)],
        snat: vec!["10.77.0.1/32".parse().unwrap()],
        snat_ports: (1024, 32767),
        rest: Duration::from_secs(60),
        idle: Duration::from_secs(3600),
        announce: false,
        hash_key: 7,
        zone: None,
        reset_rate: 1000,
    }
}

/// Interface `eth0` with this index, or gone; every backend resolved.
pub(super) fn hops(ifindex: Option<u32>, services: &[ServiceSpec]) -> Hops {
    let facts = ifindex.map(|i| Port { facts: port(i), mtu: 1500, up: true });
    let hop = NextHop {
        ifindex: ifindex.unwrap_or(2),
        mac: [2, 0, 0, 0, 0, 1],
        vlan: lb_common::vlan::VlanTags::default(),
    };
    Hops {
        ports: BTreeMap::from([(
            "eth0".to_owned(),
            facts.ok_or_else(|| PortError::Missing { name: "eth0".into(), known: "lo".into() }),
        )]),
        next: addresses(services).into_iter().map(|address| (address, Ok(hop))).collect(),
        redirect: BTreeMap::new(),
    }
}

/// An agent that runs, and all that a test can do to it.
pub(super) struct Lab {
    pub(super) kernel: SharedKernel,
    pub(super) service: ServiceSpec,
    pub(super) metrics: Arc<Metrics>,
    pub(super) published: watch::Receiver<Published>,
    pub(super) hops: watch::Sender<Arc<Hops>>,
    pub(super) counters: Arc<FakeCounters>,
    pub(super) commands: mpsc::Sender<Command>,
    configs: mpsc::Sender<NewConfig>,
    checks: mpsc::Sender<CheckObservation>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Core<SharedKernel>>,
}

fn sender(kernel: SharedKernel) -> Sender {
    Arc::new(move |ifindex, frame| {
        assert_eq!((ifindex, frame[6..12].to_vec()), (2, port(2).mac.to_vec()));
        let mut kernel = kernel.lock();
        if kernel.no_resets {
            return Err(std::io::ErrorKind::NetworkDown.into());
        }
        kernel.resets.push(Instant::now());
        Ok(())
    })
}

/// A core that has not started, of a service whose backends nobody checks.
pub(super) fn core(
    kernel: SharedKernel,
    backends: u8,
) -> (Core<SharedKernel>, Arc<Metrics>, Arc<FakeCounters>, watch::Receiver<Published>) {
    core_of(kernel, config(vec![service(backends)]), Checker::new().0)
}

/// A configuration with these services, as of a file that says nothing else.
pub(super) fn config(services: Vec<ServiceSpec>) -> Arc<Config> {
    let text = "[agent]\ninterfaces = [\"eth0\"]\n[nat]\naddresses = [\"10.77.0.1\"]\n";
    Arc::new(Config { services, ..crate::config::parse("lb.toml", text).unwrap() })
}

fn core_of(
    kernel: SharedKernel,
    config: Arc<Config>,
    checker: Checker,
) -> (Core<SharedKernel>, Arc<Metrics>, Arc<FakeCounters>, watch::Receiver<Published>) {
    let origin = Origin::now("lb.toml".into());
    let (publish, published) = watch::channel(starting(&origin));
    let source = published.clone();
    let counters = Arc::new(FakeCounters::default());
    let metrics =
        Arc::new(Metrics::new(Box::new(move || source.borrow().status.clone()), counters.clone()).unwrap());
    let hops = hops(Some(2), &config.services);
    let mut world = World::new(node(), config.services.clone(), Instant::now());
    world.set_hops(&hops);
    let send = sender(kernel.clone());
    let tools = Tools { metrics: metrics.clone(), counters: counters.clone(), checker, send };
    let core = Core::new((config, world), kernel, tools, origin, publish).unwrap();
    (core, metrics, counters, published)
}

impl Lab {
    /// Checks end when the test says so, see [`Lab::check`].
    pub(super) fn start(backends: u8) -> Self {
        let (checks, checks_in) = mpsc::channel(64);
        Self::run(service(backends), Checker::new().0, checks, checks_in)
    }

    /// Backends are checked, and every check ends in a millisecond as `result` says.
    pub(super) fn checked(
        service: ServiceSpec,
        result: impl Fn(SocketAddr) -> CheckResult + Send + Sync + 'static,
    ) -> Self {
        let (mut checker, checks_in) = Checker::with_check(Arc::new(move |probe| {
            let result = result(probe.address());
            Box::pin(async move {
                let duration = Duration::from_millis(1);
                tokio::time::sleep(duration).await;
                Checked { result, duration }
            })
        }));
        checker.set_targets(std::slice::from_ref(&service)).unwrap();
        Self::run(service, checker, mpsc::channel(1).0, checks_in)
    }

    fn run(
        service: ServiceSpec,
        checker: Checker,
        checks: mpsc::Sender<CheckObservation>,
        checks_in: mpsc::Receiver<CheckObservation>,
    ) -> Self {
        let kernel = SharedKernel::default();
        let (mut core, metrics, counters, published) =
            core_of(kernel.clone(), config(vec![service.clone()]), checker);
        core.start().unwrap();
        let (hops, hops_in) = watch::channel(Arc::new(hops(Some(2), std::slice::from_ref(&service))));
        let ((commands, asked), (configs, read)) = (mpsc::channel(16), mpsc::channel(1));
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let events = Events { checks: checks_in, hops: hops_in, commands: asked, configs: read };
            let _ = drive(&mut core, events, &Heartbeat::default(), stopped).await;
            core
        });
        Self { kernel, service, metrics, published, hops, counters, commands, configs, checks, stop, task }
    }

    /// A check of backend `i` (from 0) ends now, and decides for `to` when that is given.
    pub(super) async fn check(&self, i: usize, result: CheckResult, change: Option<HealthState>) {
        let change = change.map(|to| Transition {
            from: HealthState::Starting,
            to,
            why: Why::Failed(3, result),
            at: Duration::ZERO,
        });
        let observation = CheckObservation {
            key: self.service.backend_key(&self.service.backends[i]),
            at: Instant::now(),
            result,
            duration: Duration::from_millis(2),
            change,
        };
        self.checks.send(observation).await.unwrap();
    }

    /// Somebody asks for a change of backend `i` (from 0), and is answered.
    pub(super) async fn ask(&self, change: fn(String, String) -> Change, i: usize) -> Result<(), Refusal> {
        let backend = self.service.backends[i].name.clone();
        ask(&self.commands, change(self.service.name.clone(), backend)).await
    }

    /// The configuration file is read again, and these services are in it; all next hops are known.
    pub(super) async fn reload(&self, services: Vec<ServiceSpec>) -> ReloadReport {
        let config = Config { services, ..Config::clone(&config(vec![])) };
        self.hops.send_replace(hops(Some(2), &config.services).into());
        self.read(Ok(config.into())).await
    }

    /// The configuration file is read again, and this is what came of that.
    pub(super) async fn read(&self, read: Result<Arc<Config>, Vec<String>>) -> ReloadReport {
        let (reply, answer) = oneshot::channel();
        let new = NewConfig { read, warnings: vec![], at: SystemTime::now(), reply };
        self.configs.send(new).await.unwrap();
        answer.await.unwrap()
    }

    /// Waits until the published status is as wanted; an hour of paused time is for ever.
    pub(super) async fn until(&mut self, wanted: impl Fn(&Status) -> bool) -> Arc<Status> {
        let wait = self.published.wait_for(|p| wanted(&p.status));
        let found = tokio::time::timeout(Duration::from_secs(3600), wait).await;
        found.expect("never published").unwrap().status.clone()
    }

    pub(super) async fn stop(self) -> Core<SharedKernel> {
        self.stop.send(()).unwrap();
        self.task.await.unwrap()
    }
}
