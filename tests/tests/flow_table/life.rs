//! Random lives of flows against a model: what happens to a flow besides its segments. SYNs that are sent again, refused
//! or not answered; backends that die, come back or are replaced; silence; and the agent's request to close what is over.
//! ARCHITECTURE.md has the diagram that the model follows.

use std::cell::RefCell;

use lb_agent::dataplane::Counters;
use lb_agent::model::HealthState;
use lb_common::abi::ticks_of_seconds;
use lb_common::flow::{Ctrl, State};
use lb_common::tcp::{ACK, RST, SYN};
use lb_tests::harness::Maps;
use lb_tests::packet::verify;
use lb_tests::packet::world::{BACKENDS, Endpoint, Family, VIP};
use lb_tests::require_data_path;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::model::{FLOWS, Model, Segment, segment};
use crate::table::{CLIENT_ISN, Conn, Table, client, ends};

/// On how many other backends a SYN is tried.
const RETRIES: usize = 2;

#[derive(Clone, Copy, Debug)]
enum Event {
    /// Any segment of either side.
    Segment(Segment),
    /// The client's SYN again, after the backend was silent for more than 0.9 s.
    SynAgain(usize),
    /// The handshake goes on as it should: the backend answers, or the client confirms.
    Handshake(usize),
    /// The backend refuses the SYN.
    Refusal(usize),
    /// A backend that the flow is not at says something.
    Stranger(usize, u8),
    /// Neither side says anything for two hours.
    Silence(usize),
    /// A backend dies, or comes back.
    Toggle(usize),
    /// A backend is removed, and added again: its id is another's now.
    Replace(usize),
    /// The agent has closed what is over.
    Expire,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let flow = || 0..FLOWS;
    let backend = || 0..BACKENDS.len();
    let flags = prop::sample::select(vec![SYN | ACK, RST, RST | ACK, ACK]);
    let event = prop_oneof![
        12 => segment().prop_map(Event::Segment),
        4 => flow().prop_map(Event::SynAgain),
        6 => flow().prop_map(Event::Handshake),
        4 => flow().prop_map(Event::Refusal),
        2 => (flow(), flags).prop_map(|(flow, flags)| Event::Stranger(flow, flags)),
        2 => flow().prop_map(Event::Silence),
        2 => backend().prop_map(Event::Toggle),
        1 => backend().prop_map(Event::Replace),
        2 => Just(Event::Expire),
    ];
    prop::collection::vec(event, 1..40)
}

/// A flow, as it should be.
#[derive(Clone, Debug)]
struct Flow {
    conn: Conn,
    model: Model,
    /// Backend id and generation.
    owner: (u16, u16),
    /// Backend ids that had the SYN before, the last first.
    tried: Vec<u16>,
    silent: bool,
}

/// Counters of a backend: new flows, refused, unanswered, moved.
type Counts = [u64; 4];

struct Life {
    table: Table,
    maps: Maps,
    flows: Vec<Flow>,
    dead: [bool; BACKENDS.len()],
    next_client: u32,
}

type Outcome = Result<(), TestCaseError>;

impl Life {
    fn new() -> Self {
        let table = Table::with(4096, |world| {
            world.node.reset_rate = u32::MAX;
            world.services.iter_mut().for_each(|s| s.policy.retries = 2);
        });
        let maps = Maps::of(table.lb.dataplane());
        Self { table, maps, flows: Vec::new(), dead: [false; _], next_client: 0 }
    }

    /// A case from its beginning to its end.
    fn run(&mut self, events: &[Event]) -> Outcome {
        self.begin();
        for event in events {
            let before = self.counts();
            let expected = self.happen(*event)?;
            // A new owner of an id begins at zero.
            if !matches!(event, Event::Replace(_)) {
                self.check_counts(&before, &expected)?;
            }
            self.check()?;
        }
        self.end()
    }

    fn begin(&mut self) {
        for n in 0..BACKENDS.len() {
            if self.dead[n] {
                self.toggle(n);
            }
        }
        self.flows.clear();
        for n in 0..FLOWS {
            let family = if n == 0 { Family::V6 } else { Family::V4 };
            self.next_client += 1;
            let conn = self.table.syn_of(client(self.next_client), family).expect("free slots");
            let (model, owner) = (Model::opened(CLIENT_ISN, false), self.owner(&conn));
            self.flows.push(Flow { conn, model, owner, tried: Vec::new(), silent: false });
        }
    }

    /// Every flow is over after its client's RST, whatever became of it.
    fn end(&mut self) -> Outcome {
        for flow in 0..FLOWS {
            let last = Segment { flow, from_client: true, flags: RST, offset: 0, payload: 0, acks: true };
            self.segment(&last)?;
            prop_assert_eq!(self.flows[flow].model.state, State::Closed);
        }
        self.check()
    }

    /// Lets it happen, and says what is counted for it, by backend id.
    fn happen(&mut self, event: Event) -> Result<Vec<(u16, Counts)>, TestCaseError> {
        match event {
            Event::Segment(s) if is_syn(&s) => self.syn(&s, false),
            Event::Segment(s) => self.segment(&s),
            Event::SynAgain(flow) => self.syn(&Segment { flags: SYN, ..plain(flow, true) }, true),
            Event::Handshake(flow) => {
                let answer = Segment { flags: SYN | ACK, ..plain(flow, false) };
                let is_syn = self.flows[flow].model.state == State::Syn;
                self.segment(&if is_syn { answer } else { plain(flow, true) })
            }
            Event::Refusal(flow) => self.segment(&Segment { flags: RST | ACK, ..plain(flow, false) }),
            Event::Stranger(flow, flags) => self.stranger(flow, flags),
            Event::Silence(flow) => self.silence(flow),
            Event::Toggle(backend) => {
                // One is left: without any the service fails open.
                if self.dead[backend] || self.dead.iter().filter(|dead| !**dead).count() > 1 {
                    self.toggle(backend);
                }
                Ok(Vec::new())
            }
            Event::Replace(backend) => {
                self.replace(backend);
                Ok(Vec::new())
            }
            Event::Expire => self.expire(),
        }
    }

    /// A SYN of the client opens a flow, is sent again, or is sent elsewhere.
    fn syn(&mut self, s: &Segment, late: bool) -> Result<Vec<(u16, Counts)>, TestCaseError> {
        let opens = self.is_lost(s.flow) || self.flows[s.flow].model.state == State::Closed;
        let is_due = late && !opens && self.flows[s.flow].model.state == State::Syn;
        if !opens {
            self.set_seen(s.flow, if late { ticks_of_seconds(1) } else { 0 }, None);
        }
        let others = self.others(s.flow);
        let flow = &mut self.flows[s.flow];
        let frame = self.table.pass(&flow.model.packet(&flow.conn, s));
        let Some(frame) = frame else { return Err(TestCaseError::fail("a SYN is dropped")) };
        verify(&frame).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let (snat, to) = ends(&frame);
        prop_assert_eq!(snat, flow.conn.snat, "it keeps its slot");
        flow.silent = false;
        if opens {
            let seq = flow.model.seq(s);
            flow.model = Model::opened(seq, s.payload > 0);
            flow.tried.clear();
            self.settle(s.flow, to)?;
            return Ok(vec![(self.flows[s.flow].owner.0, [1, 0, 0, 0])]);
        }
        let before = flow.owner.0;
        if is_due && !others.is_empty() {
            flow.model = Model { fin: [false; 2], ..flow.model };
            flow.model.receive(s);
            self.moved(s.flow, to, &others)?;
            return Ok(vec![(before, [0, 0, 1, 1]), (self.flows[s.flow].owner.0, [1, 0, 0, 0])]);
        }
        prop_assert_eq!(to, flow.conn.backend.socket(flow.conn.family));
        flow.model.receive(s);
        Ok(vec![(before, [0, 0, u64::from(is_due), 0])])
    }

    /// Any other segment of either side.
    fn segment(&mut self, s: &Segment) -> Result<Vec<(u16, Counts)>, TestCaseError> {
        let lost = self.is_lost(s.flow);
        let gone = self.is_gone(s.flow);
        let others = self.others(s.flow);
        let flow = &mut self.flows[s.flow];
        let left = self.table.pass(&flow.model.packet(&flow.conn, s));
        let to_client = (VIP.socket(flow.conn.family), flow.conn.client.socket(flow.conn.family));
        let refused = !gone && flow.model.is_refused_by(s);
        let before = flow.owner.0;
        let refusals = vec![(before, [0, 1, 0, 0])];
        match (left.as_deref().map(ends), s.from_client) {
            // The client is told, unless it has said so itself.
            (told, true) if lost => {
                prop_assert_eq!(told, (s.flags & RST == 0).then_some(to_client));
                flow.model.close();
            }
            (None, false) if gone => {}
            (Some((snat, to)), false) if refused && !others.is_empty() => {
                prop_assert_eq!(snat, flow.conn.snat);
                flow.model.fin = [false; 2];
                self.moved(s.flow, to, &others)?;
                return Ok(vec![(before, [0, 1, 0, 1]), (self.flows[s.flow].owner.0, [1, 0, 0, 0])]);
            }
            (Some(to), false) => {
                prop_assert_eq!(to, to_client);
                flow.model.receive(s);
                flow.silent &= !flow.model.heard;
            }
            (Some(to), true) => {
                prop_assert_eq!(to, (flow.conn.snat, flow.conn.backend.socket(flow.conn.family)));
                flow.model.receive(s);
                flow.silent = false;
            }
            (None, _) => return Err(TestCaseError::fail("dropped")),
        }
        Ok(if refused { refusals } else { Vec::new() })
    }

    fn stranger(&mut self, flow: usize, flags: u8) -> Result<Vec<(u16, Counts)>, TestCaseError> {
        let flow = &self.flows[flow];
        let stranger = BACKENDS.into_iter().find(|b| *b != flow.conn.backend).expect("others");
        let conn = Conn { backend: stranger, ..flow.conn };
        let packet = flow.model.packet(&conn, &Segment { flags, ..plain(0, false) });
        prop_assert_eq!(self.table.pass(&packet), None);
        Ok(Vec::new())
    }

    fn silence(&mut self, flow: usize) -> Result<Vec<(u16, Counts)>, TestCaseError> {
        let ago = 2 * ticks_of_seconds(3600);
        self.set_seen(flow, ago, Some(ago));
        self.flows[flow].silent = true;
        Ok(Vec::new())
    }

    fn expire(&mut self) -> Result<Vec<(u16, Counts)>, TestCaseError> {
        let slots: Vec<u32> = self.flows.iter().map(|flow| self.table.index(&flow.conn)).collect();
        let closed = self.table.expire(&slots);
        let mut expected = 0;
        for n in 0..FLOWS {
            let lost = self.is_lost(n);
            let Flow { model, silent, .. } = &mut self.flows[n];
            let is_open = model.state != State::Closed;
            if is_open && (lost || *silent && !model.waiting) {
                model.close();
                expected += 1;
            }
        }
        prop_assert_eq!(closed.len(), expected);
        Ok(Vec::new())
    }

    fn toggle(&mut self, n: usize) {
        self.dead[n] ^= true;
        let state = if self.dead[n] { HealthState::Dead } else { HealthState::Healthy };
        self.table.declare(BACKENDS[n], state);
    }

    fn replace(&mut self, n: usize) {
        let addresses = Family::BOTH.map(|family| BACKENDS[n].socket(family));
        let before = self.table.lb.world().services.clone();
        self.table.lb.change(|world| {
            let services = world.services.iter_mut();
            services.for_each(|s| s.backends.retain(|b| !addresses.contains(&b.address)));
        });
        self.table.lb.change(|world| world.services = before);
    }

    /// The flow is at another backend now, one of these.
    fn moved(&mut self, flow: usize, to: std::net::SocketAddr, others: &[Endpoint]) -> Outcome {
        let family = self.flows[flow].conn.family;
        prop_assert!(others.iter().any(|b| b.socket(family) == to), "{} is none of {:?}", to, others);
        let last = self.flows[flow].owner.0;
        self.flows[flow].tried.insert(0, last);
        self.settle(flow, to)
    }

    fn settle(&mut self, flow: usize, to: std::net::SocketAddr) -> Outcome {
        let family = self.flows[flow].conn.family;
        let n = BACKENDS.iter().position(|b| b.socket(family) == to);
        let Some(n) = n.filter(|n| !self.dead[*n]) else {
            return Err(TestCaseError::fail(format!("{to} is no backend that lives")));
        };
        self.flows[flow].conn.backend = BACKENDS[n];
        self.flows[flow].owner = self.owner(&self.flows[flow].conn);
        Ok(())
    }

    /// Backends that may have the flow's SYN next.
    fn others(&self, flow: usize) -> Vec<Endpoint> {
        let Flow { conn, tried, owner, .. } = &self.flows[flow];
        if tried.len() >= RETRIES {
            return Vec::new();
        }
        let id = |b: Endpoint| self.table.backend_id(b, conn.family);
        let lives = BACKENDS.into_iter().zip(self.dead).filter(|(_, dead)| !dead).map(|(b, _)| b);
        lives.filter(|b| id(*b) != owner.0 && !tried.contains(&id(*b))).collect()
    }

    fn owner(&self, conn: &Conn) -> (u16, u16) {
        let id = self.table.backend_id(conn.backend, conn.family);
        (id, self.table.lb.plan().tables.backends[&id].generation)
    }

    /// Whether the flow's backend was replaced.
    fn is_gone(&self, flow: usize) -> bool {
        let (id, generation) = self.flows[flow].owner;
        self.table.lb.plan().tables.backends[&id].generation != generation
    }

    fn is_lost(&self, flow: usize) -> bool {
        let n = BACKENDS.iter().position(|b| *b == self.flows[flow].conn.backend).expect("a backend");
        self.dead[n] || self.is_gone(flow)
    }

    /// Writes when the client, and perhaps the backend, was last heard.
    fn set_seen(&self, flow: usize, client_ago: u32, backend_ago: Option<u32>) {
        let Flow { conn, model, .. } = &self.flows[flow];
        let (mut slot, now) = (self.table.slot(conn), self.table.now());
        slot.client_seen = now.wrapping_sub(client_ago);
        if let Some(ago) = backend_ago.filter(|_| model.heard) {
            slot.backend_seen = now.wrapping_sub(ago);
        }
        self.maps.set("FLOWS", self.table.index(conn), slot);
    }

    /// Slots and books are as they should be.
    fn check(&self) -> Outcome {
        for flow in &self.flows {
            let slot = self.table.slot(&flow.conn);
            let ctrl = Ctrl(slot.ctrl);
            prop_assert_eq!(flow.model.seen_in(&slot), flow.model, "{:?}", flow);
            let half = flow.model.state == State::Established && flow.model.fin != [false; 2];
            prop_assert_eq!(ctrl.is_half_closed(), half);
            prop_assert_eq!((ctrl.backend(), ctrl.generation()), flow.owner, "{:?}", flow);
            if flow.model.state == State::Syn {
                let tried: Vec<u16> = slot.offer().tried().into_iter().filter(|id| *id != 0).collect();
                prop_assert_eq!(&tried, &flow.tried);
            }
        }
        for (backend, family) in BACKENDS.into_iter().flat_map(|b| Family::BOTH.map(|f| (b, f))) {
            let id = self.table.backend_id(backend, family);
            let owner = (id, self.table.lb.plan().tables.backends[&id].generation);
            let open = |f: &&Flow| f.owner == owner && f.model.state != State::Closed;
            let flows = self.flows.iter().filter(open).count() as u64;
            let waiting = self.flows.iter().filter(open).filter(|f| f.model.waiting).count() as u64;
            let load = self.table.load(backend, family);
            prop_assert_eq!((load.flows, load.waiting), (flows, waiting), "{:?} {:?}", backend, family);
        }
        Ok(())
    }

    fn counts(&self) -> Vec<(u16, Counts)> {
        let of = |id: u16| {
            let stats = self.table.lb.dataplane().counters().backend(id).expect("map BACKEND_STATS");
            (id, [stats.new_flows, stats.refused, stats.unanswered, stats.moved])
        };
        self.table.lb.plan().tables.backends.keys().map(|id| of(*id)).collect()
    }

    fn check_counts(&self, before: &[(u16, Counts)], expected: &[(u16, Counts)]) -> Outcome {
        for (id, now) in self.counts() {
            let all = before.iter().chain(expected).filter(|(its, _)| *its == id);
            let want = all.fold([0; 4], |sum: Counts, (_, more)| std::array::from_fn(|i| sum[i] + more[i]));
            prop_assert_eq!(now, want, "id {}: new flows, refused, unanswered, moved", id);
        }
        Ok(())
    }
}

/// A bare ACK that is just what the other side waits for.
const fn plain(flow: usize, from_client: bool) -> Segment {
    Segment { flow, from_client, flags: ACK, offset: 0, payload: 0, acks: true }
}

const fn is_syn(s: &Segment) -> bool {
    s.from_client && s.flags & (SYN | ACK) == SYN
}

#[test]
fn flows_live_as_the_model_says() {
    require_data_path!("flows_live_as_the_model_says");
    let life = RefCell::new(Life::new());
    let config = Config { cases: 60, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&events(), |events| {
        let outcome = life.borrow_mut().run(&events);
        if outcome.is_err() {
            // What is left of this case is not the next one's.
            life.replace(Life::new());
        }
        outcome
    });
    outcome.unwrap_or_else(|e| panic!("{e}"));
    life.borrow().table.check_books();
}
