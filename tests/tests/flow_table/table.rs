//! A flow table of a chosen size, and what tests do to it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use lb_agent::dataplane::Counters;
use lb_agent::model::{BackendKey, HealthState, Scheduler};
use lb_common::addr::Addr;
use lb_common::flow::{Ctrl, Slot, State};
use lb_common::reason::{Reason, Verdict};
use lb_common::service::ServiceKey;
use lb_common::stats::{BackendLoad, BackendStats, ServiceStats};
use lb_tests::harness::{Harness, World};
use lb_tests::packet::world::{BACKENDS, CLIENT, Endpoint, Family, SNAT, VIP};
use lb_tests::packet::{Packet, describe, tcp};

/// The client's first sequence number.
pub(crate) const CLIENT_ISN: u32 = 1000;
/// The backend's first sequence number.
pub(crate) const BACKEND_ISN: u32 = 5000;
/// Longer than any test.
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
/// The coarse clock of the data path lags behind by up to a jiffy (10 ms at 100 Hz).
const LAG: u32 = 200;

/// Three backends behind one VIP, and a table of `slots` ports (a multiple of 8) per family.
pub(crate) struct Table {
    pub(crate) lb: Harness,
}

/// A flow as both ends see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conn {
    pub(crate) client: Endpoint,
    pub(crate) family: Family,
    /// The client as the backend sees it.
    pub(crate) snat: SocketAddr,
    pub(crate) backend: Endpoint,
}

/// Client number `n`, on a port of its own at one of 16 k addresses.
pub(crate) fn client(n: u32) -> Endpoint {
    let host = u16::try_from(n / 4).expect("few clients");
    let [high, low] = host.to_be_bytes();
    Endpoint {
        v4: Ipv4Addr::new(100, 64, high, low),
        v6: Ipv6Addr::new(0x2001, 0xdb8, 0x64, 0, 0, 0, 0, host),
        port: 40_000 + u16::try_from(n % 4).unwrap_or(0) * 7,
        ..CLIENT
    }
}

impl Table {
    /// A table where nothing rests long enough and nothing idles long enough within a test, and a refused SYN is not
    /// tried elsewhere.
    pub(crate) fn new(slots: u16) -> Self {
        Self::with(slots, |_| {})
    }

    /// The same, of a changed world.
    pub(crate) fn with(slots: u16, change: impl FnOnce(&mut World)) -> Self {
        let mut world = World::default();
        world.node.snat_ports = (1024, 1023 + slots);
        world.node.rest = HOUR;
        world.node.idle = HOUR;
        for service in &mut world.services {
            service.policy.retries = 0;
        }
        change(&mut world);
        Self { lb: Harness::new(world) }
    }

    /// Time that a closed slot rests, and after which a silent flow may be reused.
    pub(crate) fn set_times(&mut self, rest: Duration, idle: Duration) {
        self.lb.change(|world| (world.node.rest, world.node.idle) = (rest, idle));
    }

    /// New flows go to these backends alone.
    pub(crate) fn serve_by(&mut self, chosen: &[Endpoint]) {
        let addresses: Vec<_> = chosen.iter().flat_map(|b| Family::BOTH.map(|f| b.socket(f))).collect();
        self.lb.change(|world| {
            for (key, health) in &mut world.health {
                let up = addresses.contains(&key.address);
                *health = if up { HealthState::Healthy } else { HealthState::Suspect };
            }
        });
    }

    /// What the checks say of a backend.
    pub(crate) fn declare(&mut self, backend: Endpoint, state: HealthState) {
        let addresses = Family::BOTH.map(|family| backend.socket(family));
        self.lb.change(|world| {
            let its = world.health.iter_mut().filter(|(key, _)| addresses.contains(&key.address));
            its.for_each(|(_, now)| *now = state);
        });
    }

    /// Chooses the scheduler of all services.
    pub(crate) fn schedule(&mut self, scheduler: Scheduler) {
        self.lb.change(|world| world.services.iter_mut().for_each(|s| s.scheduler = scheduler));
    }

    /// Runs a packet; what left, if it was forwarded.
    #[track_caller]
    pub(crate) fn pass(&self, packet: &Packet) -> Option<Vec<u8>> {
        let trial = self.lb.dataplane().trial(&packet.build()).unwrap_or_else(|e| panic!("{e}"));
        // XDP_TX: every interface of these tests is the one that the packet came by.
        (trial.verdict == 3).then_some(trial.frame)
    }

    /// Sends a SYN; the flow that it opened or belongs to.
    #[track_caller]
    pub(crate) fn syn(&self, client: Endpoint) -> Option<Conn> {
        self.syn_of(client, Family::V4)
    }

    #[track_caller]
    pub(crate) fn syn_of(&self, client: Endpoint, family: Family) -> Option<Conn> {
        let syn = tcp(family).from(client).to(VIP).syn().seq(CLIENT_ISN).syn_options();
        let frame = self.pass(&syn)?;
        let (snat, backend) = ends(&frame);
        let backend = BACKENDS.into_iter().find(|b| b.socket(family) == backend);
        let backend = backend.unwrap_or_else(|| panic!("to no backend: {}", describe(&frame)));
        Some(Conn { client, family, snat, backend })
    }

    /// SYN and SYN+ACK.
    #[track_caller]
    pub(crate) fn answered(&self, client: Endpoint) -> Conn {
        let conn = self.syn(client).unwrap_or_else(|| panic!("SYN of {} dropped", client.socket(Family::V4)));
        self.answer(&conn);
        conn
    }

    #[track_caller]
    pub(crate) fn answer(&self, conn: &Conn) {
        self.reply(conn, conn.of_backend().syn().seq(BACKEND_ISN).ack(CLIENT_ISN + 1));
    }

    /// SYN, SYN+ACK and ACK.
    #[track_caller]
    pub(crate) fn establish(&self, client: Endpoint) -> Conn {
        let conn = self.answered(client);
        self.send(&conn, conn.of_client());
        assert_eq!(self.state(&conn), State::Established);
        conn
    }

    /// An established flow that was reset.
    #[track_caller]
    pub(crate) fn closed(&self, client: Endpoint) -> Conn {
        let conn = self.establish(client);
        self.close(&conn);
        conn
    }

    #[track_caller]
    pub(crate) fn close(&self, conn: &Conn) {
        self.send(conn, conn.of_client().rst());
        assert_eq!(self.state(conn), State::Closed);
    }

    /// Sends a packet of the client, which must arrive at the flow's backend from the flow's port.
    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "a packet is made for one call")]
    pub(crate) fn send(&self, conn: &Conn, packet: Packet) {
        let frame = self.pass(&packet).unwrap_or_else(|| panic!("dropped: {conn:?}"));
        assert_eq!(ends(&frame), (conn.snat, conn.backend.socket(conn.family)), "{conn:?}");
    }

    /// Sends a packet of the backend, which must arrive at the client from the VIP.
    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "a packet is made for one call")]
    pub(crate) fn reply(&self, conn: &Conn, packet: Packet) {
        let frame = self.pass(&packet).unwrap_or_else(|| panic!("dropped: {conn:?}"));
        let wanted = (VIP.socket(conn.family), conn.client.socket(conn.family));
        assert_eq!(ends(&frame), wanted, "{conn:?}");
    }

    /// Whether a bare ACK of the client is dropped, and for this reason.
    #[track_caller]
    pub(crate) fn refuses(&self, conn: &Conn, reason: Reason) -> bool {
        let before = self.counted(reason);
        let answer = self.pass(&conn.of_client());
        let told = answer.is_none_or(|frame| frame[..6] == conn.client.mac);
        told && self.counted(reason) == before + 1
    }

    /// How often packets met this reason.
    pub(crate) fn counted(&self, reason: Reason) -> u64 {
        self.lb.dataplane().counters().reasons().expect("map REASON_STATS")[reason as usize]
    }

    /// How many packets were dropped for a reason.
    pub(crate) fn drops(&self) -> u64 {
        let counted = self.lb.dataplane().counters().reasons().expect("map REASON_STATS");
        let drops = Reason::ALL.iter().filter(|reason| reason.verdict() == Verdict::Drop);
        drops.map(|reason| counted[*reason as usize]).sum()
    }

    /// Counters of the service of a family.
    pub(crate) fn service(&self, family: Family) -> ServiceStats {
        self.lb.dataplane().counters().service(self.service_id(family)).expect("map SERVICE_STATS")
    }

    pub(crate) fn service_id(&self, family: Family) -> u16 {
        let key = service_key(family);
        self.lb.plan().tables.service_ids[&key]
    }

    /// Counters of a backend.
    pub(crate) fn backend(&self, backend: Endpoint, family: Family) -> BackendStats {
        self.lb.dataplane().counters().backend(self.backend_id(backend, family)).expect("map BACKEND_STATS")
    }

    /// Live load of a backend.
    pub(crate) fn load(&self, backend: Endpoint, family: Family) -> BackendLoad {
        self.lb.dataplane().counters().load(self.backend_id(backend, family)).expect("map LOAD")
    }

    /// Id of the live backend at this address.
    pub(crate) fn backend_id(&self, backend: Endpoint, family: Family) -> u16 {
        let address = Addr::from(backend.ip(family));
        let found = self.lb.plan().tables.backends.iter().find(|(_, b)| b.is_live() && b.addr == address);
        *found.expect("a live backend").0
    }

    /// Every slot that holds a flow.
    pub(crate) fn used(&self) -> Vec<(u32, Slot)> {
        let flows = self.lb.dataplane().flows();
        flows.iter().filter(|(_, slot)| Ctrl(slot.ctrl).is_used()).collect()
    }

    /// Index of a flow's slot by its SNAT port.
    pub(crate) fn index(&self, conn: &Conn) -> u32 {
        let node = &self.lb.plan().tables.node;
        let snat = Addr::from(conn.snat.ip());
        let block = self.lb.plan().tables.snat.iter().find(|(_, a)| **a == snat).expect("a SNAT address").0;
        block * node.buckets * 8 + u32::from(conn.snat.port()) - node.port_base
    }

    /// A flow's slot.
    pub(crate) fn slot(&self, conn: &Conn) -> Slot {
        self.lb.dataplane().flows().slot(self.index(conn)).expect("a slot")
    }

    pub(crate) fn ctrl(&self, conn: &Conn) -> Ctrl {
        Ctrl(self.slot(conn).ctrl)
    }

    pub(crate) fn state(&self, conn: &Conn) -> State {
        self.ctrl(conn).state()
    }

    /// Whether the slot still holds this client's flow.
    pub(crate) fn holds(&self, conn: &Conn) -> bool {
        let slot = self.slot(conn);
        let client = conn.client.socket(conn.family);
        slot.client == Addr::from(client.ip()) && slot.client_port == client.port().to_be()
    }

    /// What time the data path has, in ticks.
    pub(crate) fn now(&self) -> u32 {
        self.lb.dataplane().clock().unwrap_or_else(|e| panic!("{e}")).asked()
    }

    /// Waits until the data path sees more than this time since now.
    pub(crate) fn wait(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).expect("a short time");
        let ticks = lb_common::abi::ticks(nanoseconds) + LAG;
        let start = self.now();
        let deadline = Instant::now() + time + Duration::from_secs(5);
        while self.now().wrapping_sub(start) <= ticks {
            assert!(Instant::now() < deadline, "the clock stands still");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Asks the data path to close what is over, among all slots.
    pub(crate) fn expire_all(&self) -> usize {
        let all: Vec<u32> = (0..self.lb.dataplane().flows().len()).collect();
        self.expire(&all).len()
    }

    /// Asks the data path to close what is over among these slots. Gives what it closed, as it was before.
    #[track_caller]
    pub(crate) fn expire(&self, slots: &[u32]) -> Vec<Slot> {
        self.lb.dataplane().closer().close(slots).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Every backend's load is what a scan of the table finds.
    #[track_caller]
    pub(crate) fn check_books(&self) {
        let used = self.used();
        for (&id, backend) in self.lb.plan().tables.backends.iter().filter(|(_, b)| b.is_live()) {
            let its = |c: &Ctrl| c.backend() == id && c.generation() == backend.generation && c.is_open();
            let open: Vec<Ctrl> = used.iter().map(|(_, s)| Ctrl(s.ctrl)).filter(its).collect();
            let waiting = open.iter().filter(|c| c.is_waiting()).count();
            let load = self.lb.dataplane().counters().load(id).expect("map LOAD");
            assert_eq!((load.flows, load.waiting), (open.len() as u64, waiting as u64), "backend id {id}");
        }
    }
}

impl Conn {
    /// A bare ACK of the client after the handshake.
    pub(crate) fn of_client(&self) -> Packet {
        tcp(self.family).from(self.client).to(VIP).seq(CLIENT_ISN + 1).ack(BACKEND_ISN + 1)
    }

    /// A bare ACK of the backend after the handshake.
    pub(crate) fn of_backend(&self) -> Packet {
        let snat = SNAT.port(self.snat.port());
        let packet = tcp(self.family).from(self.backend).to(snat).dst_ip(self.snat.ip());
        packet.seq(BACKEND_ISN + 1).ack(CLIENT_ISN + 1)
    }
}

/// Key of the service of a family.
pub(crate) fn service_key(family: Family) -> ServiceKey {
    ServiceKey::tcp(Addr::from(VIP.ip(family)), VIP.port.to_be())
}

/// What names a backend over restarts.
pub(crate) fn backend_key(backend: Endpoint, family: Family) -> BackendKey {
    BackendKey { service: service_key(family), address: backend.socket(family) }
}

/// Source and destination of an untagged TCP frame.
pub(crate) fn ends(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let address = |at: usize, len: usize| match len {
        4 => IpAddr::from(<[u8; 4]>::try_from(&frame[at..at + 4]).expect("4 bytes")),
        _ => IpAddr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).expect("16 bytes")),
    };
    let (at, len, l4) = if frame[12..14] == [0x08, 0x00] { (26, 4, 34) } else { (22, 16, 54) };
    (SocketAddr::new(address(at, len), port(l4)), SocketAddr::new(address(at + len, len), port(l4 + 2)))
}
