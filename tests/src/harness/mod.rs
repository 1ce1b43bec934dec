//! Data-path tests as rows: a frame in, a verdict, the exact frame out.
//!
//! The program of the agent's own object runs through `BPF_PROG_TEST_RUN` on maps that the agent's own plan and
//! loader have written. No packet leaves the process.
//!
//! ```no_run
//! use lb_tests::harness::{Harness, World, drops, sends};
//! use lb_tests::packet::{tcp, world::{CLIENT, Family, VIP}};
//! use lb_common::reason::Reason;
//!
//! let mut lb = Harness::new(World::default());
//! let flow = lb.connect(CLIENT, Family::V4);
//! let data = || tcp(Family::V4).ack(1).payload(b"GET /");
//! lb.check("data", &data().from(CLIENT).to(VIP), &sends(data().from(flow.snat).to(flow.backend).ttl(63)));
//! lb.check("too old", &data().from(CLIENT).to(VIP).ttl(1), &drops(Reason::TtlExpired));
//! ```

mod bytes;
mod maps;
mod outcome;
mod pool;
mod world;

use lb_agent::dataplane::ebpf::EbpfDataplane;
use lb_agent::dataplane::{Counters, Dataplane, Op, ReasonCounts, converge};
use lb_agent::plan::{Plan, plan};

use crate::packet::world::{BACKENDS, Endpoint, Family, SNAT, VIP};
use crate::packet::{Packet, describe, tcp};
pub use maps::Maps;
pub use outcome::{Action, Outcome, answers, drops, passes, redirects, reset, resets, sends};
pub use pool::{Lease, lease};
pub use world::{FRONT, World, service};

/// A loaded program with its maps, which nobody else uses until this is dropped.
pub struct Harness {
    dataplane: Lease,
    world: World,
    plan: Plan,
}

/// A flow that the data path has made: what the backend sees, and which backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Who connected.
    pub client: Endpoint,
    /// The client as the backend sees it.
    pub snat: Endpoint,
    /// Who serves it.
    pub backend: Endpoint,
}

/// A frame after the program has run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// What the kernel was told to do.
    pub action: Action,
    /// The frame as it is now.
    pub frame: Vec<u8>,
}

impl Harness {
    /// Loads the object and writes what the plan makes of the world.
    ///
    /// # Panics
    /// When the kernel refuses anything, with what it said.
    #[must_use]
    pub fn new(world: World) -> Self {
        let plan = wanted(&world, &Plan::default());
        let node = &plan.tables.node;
        let dataplane = lease(node.slots(), node.v4_blocks + node.v6_blocks);
        let dataplane = dataplane.unwrap_or_else(|e| panic!("load the data path: {e:#}"));
        let mut harness = Self { dataplane, world, plan };
        harness.write();
        harness
    }

    /// Changes the world and brings the maps to it, as the agent does.
    ///
    /// # Panics
    /// As [`Harness::new`].
    pub fn change(&mut self, change: impl FnOnce(&mut World)) {
        change(&mut self.world);
        self.plan = wanted(&self.world, &self.plan);
        self.write();
    }

    fn write(&mut self) {
        let written = converge(&mut *self.dataplane, &self.plan.tables);
        written.unwrap_or_else(|e| panic!("write the maps: {e}"));
    }

    /// The maps and the counters.
    #[must_use]
    pub fn dataplane(&self) -> &EbpfDataplane {
        &self.dataplane
    }

    /// What the maps were last brought to.
    #[must_use]
    pub const fn world(&self) -> &World {
        &self.world
    }

    /// The plan that the maps hold.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// One write beside the plan, for states that the agent passes through.
    ///
    /// # Panics
    /// When the kernel refuses it.
    pub fn apply(&mut self, op: &Op) {
        self.dataplane.apply(op).unwrap_or_else(|e| panic!("{e:#}"));
    }

    /// Runs the program once over a frame of at least 14 bytes.
    ///
    /// # Panics
    /// When the kernel does not run it.
    #[track_caller]
    pub fn run(&mut self, frame: &[u8]) -> Ran {
        let trial = self.dataplane.trial(frame).unwrap_or_else(|e| panic!("{e}"));
        Ran { action: Action::from_verdict(trial.verdict), frame: trial.frame }
    }

    /// Runs the program over a frame and compares verdict, frame and the counters of all reasons. What leaves
    /// must have right checksums when what came in had.
    ///
    /// # Panics
    /// When anything differs, with both frames.
    #[track_caller]
    pub fn check(&mut self, about: &str, packet: &Packet, expected: &Outcome) {
        if let Err(complaint) = self.compare(packet, expected) {
            panic!("{about}: {complaint}");
        }
    }

    /// The rows, all of them, before it panics.
    ///
    /// # Panics
    /// When any row fails [`Harness::check`].
    #[track_caller]
    pub fn check_all(&mut self, rows: impl IntoIterator<Item = (String, Packet, Outcome)>) {
        let mut complaints = Vec::new();
        for (about, packet, expected) in rows {
            complaints.extend(self.compare(&packet, &expected).err().map(|e| format!("{about}: {e}")));
        }
        assert!(complaints.is_empty(), "{} rows failed\n{}", complaints.len(), complaints.join("\n\n"));
    }

    fn reasons(&self) -> ReasonCounts {
        self.dataplane.counters().reasons().unwrap_or_else(|e| panic!("{e}"))
    }

    fn compare(&mut self, packet: &Packet, expected: &Outcome) -> Result<(), String> {
        let frame = packet.build();
        let before = self.reasons();
        let ran = self.run(&frame);
        let counted = outcome::counted(&before, &self.reasons());
        expected.compare(&frame, &ran, &counted).map_err(|complaint| {
            let (came, left) = (describe(&frame), describe(&ran.frame));
            format!("{complaint}\n  in: {came}\n  out ({:?}): {left}", ran.action)
        })
    }

    /// Sends a SYN of a client to [`VIP`] and checks that it leaves to one of [`BACKENDS`], exactly rewritten,
    /// by the interface that it came in by.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn syn(&mut self, client: Endpoint, family: Family) -> Flow {
        let syn = tcp(family).from(client).to(VIP).syn().seq(SYN_SEQ).syn_options();
        let flow = self.learn(client, &syn);
        self.check("SYN", &syn, &sends(syn.clone().from(flow.snat).to(flow.backend).forwarded()));
        flow
    }

    /// Opens a connection: SYN, SYN+ACK and ACK, each checked to the byte. Both sides' next sequence numbers are
    /// [`CLIENT_NEXT`] and [`BACKEND_NEXT`].
    ///
    /// # Panics
    /// When a packet is not forwarded as it should.
    #[track_caller]
    pub fn connect(&mut self, client: Endpoint, family: Family) -> Flow {
        let flow = self.syn(client, family);
        let answer = tcp(family).syn().seq(BACKEND_NEXT - 1).ack(CLIENT_NEXT).syn_options();
        let (from, to) = (answer.clone().from(flow.backend).to(flow.snat), answer.from(VIP).to(client));
        self.check("SYN+ACK", &from, &sends(to.forwarded()));
        let ack = tcp(family).seq(CLIENT_NEXT).ack(BACKEND_NEXT);
        let (from, to) = (ack.clone().from(client).to(VIP), ack.from(flow.snat).to(flow.backend));
        self.check("ACK", &from, &sends(to.forwarded()));
        flow
    }

    /// Sends a SYN to [`VIP`] and reads from the frame that leaves where its flow goes.
    ///
    /// # Panics
    /// When it does not leave for one of [`BACKENDS`].
    #[track_caller]
    pub fn learn(&mut self, client: Endpoint, syn: &Packet) -> Flow {
        let frame = self.run(&syn.build()).frame;
        let backend = BACKENDS.into_iter().find(|b| b.mac == frame[..6]);
        let backend = backend.unwrap_or_else(|| panic!("to no backend: {}", describe(&frame)));
        Flow { client, snat: SNAT.port(outcome::source_port(&frame)), backend }
    }
}

fn wanted(world: &World, previous: &Plan) -> Plan {
    plan(&world.inputs(), previous).expect("a world that fits")
}

const SYN_SEQ: u32 = 1_000_000;

/// The client's next sequence number after [`Harness::connect`].
pub const CLIENT_NEXT: u32 = SYN_SEQ + 1;
/// The backend's next sequence number after [`Harness::connect`].
pub const BACKEND_NEXT: u32 = 2_000_001;
