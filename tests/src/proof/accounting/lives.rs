//! Lives of flows: what clients and backends do to each other, one packet at a time, in the order of the dice.

use lb_agent::dataplane::ebpf::EbpfDataplane;
use lb_common::tcp::{ACK, FIN, PSH, RST, SYN};

use super::frames::{DATA, Frames, Segment, destination};
use crate::packet::world::Family;
use crate::proof::draw::Dice;

/// `XDP_TX`: what a packet that is forwarded ends with here, where every interface is the one that it came by.
const SENT: u32 = 3;

/// What was done, in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) flows: u64,
    pub(super) packets: u64,
    pub(super) requests: u64,
    pub(super) retransmitted: u64,
    pub(super) refused: u64,
    pub(super) client_resets: u64,
    pub(super) backend_resets: u64,
    pub(super) half_closed: u64,
    pub(super) abandoned: u64,
    pub(super) reopened: u64,
    pub(super) dropped: u64,
}

/// Where a flow is, as its two ends know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The client has sent its SYN.
    Opening,
    /// The handshake is done.
    Open,
    /// Nothing more comes of it.
    Over,
}

#[derive(Clone, Copy, Debug)]
struct Life {
    client: u32,
    family: Family,
    backend: usize,
    port: u16,
    stage: Stage,
    /// Next sequence numbers: the client's, the backend's.
    next: [u32; 2],
    fin: [bool; 2],
}

/// Flows that live at once on one CPU, each at another point of its life.
pub(super) struct Crowd<'a> {
    dataplane: &'a EbpfDataplane,
    frames: &'a Frames,
    dice: Dice,
    lives: Vec<Life>,
    /// The next client's number, and how far it is to the one after.
    client: u32,
    stride: u32,
    /// What was done.
    pub(super) tally: Tally,
}

impl<'a> Crowd<'a> {
    /// `size` flows of the clients `number`, `number + stride` and so on.
    pub(super) fn new(
        dataplane: &'a EbpfDataplane,
        frames: &'a Frames,
        (number, stride): (u32, u32),
        size: usize,
    ) -> Self {
        let dice = Dice::new(u64::from(number));
        let mut crowd = Self {
            dataplane,
            frames,
            dice,
            lives: Vec::new(),
            client: number,
            stride,
            tally: Tally::default(),
        };
        while crowd.lives.len() < size {
            let life = crowd.begin();
            crowd.lives.push(life);
        }
        crowd
    }

    /// Lets something happen until so many flows have begun.
    pub(super) fn live_until(&mut self, flows: u64) {
        let size = u32::try_from(self.lives.len()).expect("a small crowd");
        while self.tally.flows < flows {
            let index = self.dice.below(size) as usize;
            let mut life = self.lives[index];
            self.step(&mut life);
            if life.stage == Stage::Over {
                life = self.follow(&life);
            }
            self.lives[index] = life;
        }
    }

    /// Ends everything: who waits is answered, and then both sides close. What handshakes were not finished, and who
    /// was forgotten before, is left as it is.
    pub(super) fn end(&mut self) {
        for index in 0..self.lives.len() {
            let mut life = self.lives[index];
            if life.stage == Stage::Open {
                self.backend_data(&mut life);
                self.fin(&mut life, 0);
                self.fin(&mut life, 1);
            }
        }
        self.lives.clear();
    }

    fn begin(&mut self) -> Life {
        let client = self.client;
        self.client += self.stride;
        let family = Family::BOTH[usize::from(self.dice.one_in(2))];
        self.open(client, family)
    }

    /// What comes after a flow that is over: now and then the same client's port again, as busy clients do.
    fn follow(&mut self, before: &Life) -> Life {
        if before.fin == [true; 2] && self.dice.one_in(10) {
            self.tally.reopened += 1;
            return self.open(before.client, before.family);
        }
        self.begin()
    }

    fn open(&mut self, client: u32, family: Family) -> Life {
        let isn = self.dice.number();
        let mut life = Life {
            client,
            family,
            backend: 0,
            port: 0,
            stage: Stage::Opening,
            next: [isn.wrapping_add(1), self.dice.number()],
            fin: [false; 2],
        };
        self.tally.flows += 1;
        self.syn(&mut life);
        life
    }

    fn step(&mut self, life: &mut Life) {
        let throw = self.dice.below(100);
        match life.stage {
            Stage::Opening => match throw {
                0..15 => self.refuse(life),
                15..20 => self.client_reset(life),
                20..30 => {
                    self.tally.retransmitted += 1;
                    self.syn(life);
                }
                30..33 => {
                    self.tally.abandoned += 1;
                    life.stage = Stage::Over;
                }
                _ => self.shake_hands(life),
            },
            Stage::Open => match throw {
                0..35 => self.request(life),
                35..65 => self.backend_data(life),
                65..72 => _ = self.client_acknowledges(life),
                72..75 => self.client_reset(life),
                75..78 => self.backend_reset(life),
                78..88 => self.fin(life, 0),
                88..98 => self.fin(life, 1),
                _ => self.client_probes(life),
            },
            Stage::Over => {}
        }
    }

    /// The first SYN or the same again: it may go to another backend.
    fn syn(&mut self, life: &mut Life) {
        let frame = self.frames.syn(life.family, life.client, life.next[0].wrapping_sub(1));
        self.sent_to_backend(life, &frame);
    }

    /// The backend refuses; the flow is at another one, or the client is told.
    fn refuse(&mut self, life: &mut Life) {
        self.tally.refused += 1;
        let segment = Segment { seq: 0, ack: life.next[0], flags: RST | ACK, data: false };
        let frame = self.frames.of_backend(life.family, life.backend, life.port, segment);
        self.sent_to_backend(life, &frame);
    }

    /// Runs what is to leave for a backend as a SYN, and notes for which. The flow is over when it does not.
    fn sent_to_backend(&mut self, life: &mut Life, frame: &[u8]) {
        let destination = self.run(frame).and_then(|left| destination(&left, life.family));
        match destination {
            Some((backend, port)) => (life.backend, life.port) = (backend, port),
            None => life.stage = Stage::Over,
        }
    }

    fn shake_hands(&mut self, life: &mut Life) {
        let segment = Segment { seq: life.next[1], ack: life.next[0], flags: SYN | ACK, data: false };
        self.backend_sends(life, segment);
        life.next[1] = life.next[1].wrapping_add(1);
        // A half-open flow may have lost its slot to another: then its client hears of no answer.
        let is_known = self.client_acknowledges(life);
        life.stage = if is_known { Stage::Open } else { Stage::Over };
    }

    fn request(&mut self, life: &mut Life) {
        if life.fin[0] {
            return;
        }
        self.tally.requests += 1;
        let segment = Segment { seq: life.next[0], ack: life.next[1], flags: ACK | PSH, data: true };
        self.client_sends(life, segment);
        if self.dice.one_in(5) {
            self.tally.retransmitted += 1;
            self.client_sends(life, segment);
        }
        life.next[0] = life.next[0].wrapping_add(DATA);
    }

    fn backend_data(&mut self, life: &mut Life) {
        if life.fin[1] {
            return;
        }
        let segment = Segment { seq: life.next[1], ack: life.next[0], flags: ACK | PSH, data: true };
        self.backend_sends(life, segment);
        if self.dice.one_in(5) {
            self.tally.retransmitted += 1;
            self.backend_sends(life, segment);
        }
        life.next[1] = life.next[1].wrapping_add(DATA);
    }

    fn client_acknowledges(&mut self, life: &mut Life) -> bool {
        self.client_sends(life, Segment { seq: life.next[0], ack: life.next[1], flags: ACK, data: false })
    }

    /// A keepalive probe: one below what comes next.
    fn client_probes(&mut self, life: &mut Life) {
        let seq = life.next[0].wrapping_sub(1);
        self.client_sends(life, Segment { seq, ack: life.next[1], flags: ACK, data: false });
    }

    fn client_reset(&mut self, life: &mut Life) {
        self.tally.client_resets += 1;
        self.client_sends(life, Segment { seq: life.next[0], ack: life.next[1], flags: RST, data: false });
        life.stage = Stage::Over;
    }

    fn backend_reset(&mut self, life: &mut Life) {
        self.tally.backend_resets += 1;
        self.backend_sends(life, Segment { seq: life.next[1], ack: life.next[0], flags: RST, data: false });
        life.stage = Stage::Over;
    }

    /// FIN of the client (0) or the backend (1); the second one ends the flow.
    fn fin(&mut self, life: &mut Life, side: usize) {
        if life.fin[side] {
            return;
        }
        let segment =
            Segment { seq: life.next[side], ack: life.next[1 - side], flags: FIN | ACK, data: false };
        if side == 0 {
            self.client_sends(life, segment);
        } else {
            self.backend_sends(life, segment);
        }
        life.next[side] = life.next[side].wrapping_add(1);
        life.fin[side] = true;
        if life.fin == [true; 2] {
            life.stage = Stage::Over;
        } else {
            self.tally.half_closed += 1;
        }
    }

    /// Whether it arrives.
    fn client_sends(&mut self, life: &Life, segment: Segment) -> bool {
        let frame = self.frames.of_client(life.family, life.client, segment);
        self.run(&frame).is_some_and(|left| destination(&left, life.family).is_some())
    }

    fn backend_sends(&mut self, life: &Life, segment: Segment) {
        let frame = self.frames.of_backend(life.family, life.backend, life.port, segment);
        self.run(&frame);
    }

    /// What left, if anything did.
    fn run(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        self.tally.packets += 1;
        let trial = self.dataplane.trial(frame).unwrap_or_else(|e| panic!("{e}"));
        let left = (trial.verdict == SENT).then_some(trial.frame);
        self.tally.dropped += u64::from(left.is_none());
        left
    }
}

impl Tally {
    /// Each number with its name.
    pub(super) const fn named(&self) -> [(&'static str, u64); 11] {
        [
            ("flows", self.flows),
            ("packets", self.packets),
            ("requests", self.requests),
            ("retransmissions", self.retransmitted),
            ("SYNs refused", self.refused),
            ("reset by the client", self.client_resets),
            ("reset by the backend", self.backend_resets),
            ("half-closed", self.half_closed),
            ("handshakes abandoned", self.abandoned),
            ("tuples used again", self.reopened),
            ("packets dropped", self.dropped),
        ]
    }

    /// Both together.
    pub(super) const fn plus(self, other: &Self) -> Self {
        Self {
            flows: self.flows + other.flows,
            packets: self.packets + other.packets,
            requests: self.requests + other.requests,
            retransmitted: self.retransmitted + other.retransmitted,
            refused: self.refused + other.refused,
            client_resets: self.client_resets + other.client_resets,
            backend_resets: self.backend_resets + other.backend_resets,
            half_closed: self.half_closed + other.half_closed,
            abandoned: self.abandoned + other.abandoned,
            reopened: self.reopened + other.reopened,
            dropped: self.dropped + other.dropped,
        }
    }
}
