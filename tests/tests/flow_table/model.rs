//! Random segments against a small model of a flow.

use std::cell::RefCell;

use lb_common::flow::{Ctrl, Slot, State};
use lb_common::tcp::{ACK, FIN, PSH, RST, SYN};
use lb_tests::packet::world::{Endpoint, Family, SNAT, VIP};
use lb_tests::packet::{Packet, tcp};
use lb_tests::require_data_path;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::table::{CLIENT_ISN, Conn, HOUR, Table, client};

/// Flows of a case.
pub(crate) const FLOWS: usize = 3;
/// As far as a RST may be from what is expected.
const WINDOW: i32 = 1 << 22;

/// One packet of one flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) flow: usize,
    pub(crate) from_client: bool,
    pub(crate) flags: u8,
    /// From the sender's next number.
    pub(crate) offset: i32,
    pub(crate) payload: u16,
    /// Whether a backend's packet acknowledges what the client has sent.
    pub(crate) acks: bool,
}

/// A flow as its two ends would describe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) state: State,
    pub(crate) fin: [bool; 2],
    pub(crate) waiting: bool,
    /// Whether the backend has answered the SYN.
    pub(crate) heard: bool,
    /// Whether the SYN that opened it carried data.
    pub(crate) data: bool,
    pub(crate) next: [u32; 2],
}

impl Model {
    /// After a SYN with this sequence number, and with data or without.
    pub(crate) const fn opened(seq: u32, data: bool) -> Self {
        let next = [seq.wrapping_add(1), 0];
        Self { state: State::Syn, fin: [false; 2], waiting: false, heard: false, data, next }
    }

    /// Whether a backend's RST refuses the SYN.
    pub(crate) fn is_refused_by(&self, s: &Segment) -> bool {
        self.state == State::Syn && !s.from_client && s.flags & RST != 0 && self.is_for_the_syn(s)
    }

    /// Whether a backend's packet acknowledges the SYN.
    fn is_for_the_syn(&self, s: &Segment) -> bool {
        let data = if self.data { u32::from(u16::MAX) } else { 0 };
        self.ack(s).wrapping_sub(self.next[0]) <= data
    }

    pub(crate) fn seq(&self, s: &Segment) -> u32 {
        self.next[usize::from(!s.from_client)].wrapping_add_signed(s.offset)
    }

    fn ack(&self, s: &Segment) -> u32 {
        self.next[usize::from(s.from_client)].wrapping_add(u32::from(!s.acks))
    }

    /// What RFC 9293 and DESIGN say of the packet.
    pub(crate) fn receive(&mut self, s: &Segment) {
        let seq = self.seq(s);
        let side = usize::from(!s.from_client);
        let syn = s.flags & SYN != 0;
        let answers = side == 1 && s.flags & (SYN | ACK) == SYN_ACK;
        if answers && self.state == State::Syn && !self.is_for_the_syn(s) {
            return;
        }
        if s.from_client && s.flags & (SYN | ACK) == SYN && self.state == State::Closed {
            *self = Self::opened(seq, s.payload > 0);
        }
        let opens = side == 0 && s.flags & (SYN | ACK) == SYN;
        // Data in a SYN may have to be sent again: it is not counted before.
        let payload = if opens { 0 } else { u32::from(s.payload) };
        let end = seq.wrapping_add(payload).wrapping_add(u32::from(syn));
        let heard = side == 0 || s.flags & (SYN | ACK) == SYN | ACK || self.state != State::Syn;
        let again = side == 1 && syn && self.state != State::Syn;
        let fresh = heard && !again && payload > 0 && self.next[side].wrapping_sub(end).cast_signed() < 0;
        let begins = if side == 0 { opens && self.state == State::Syn } else { syn && heard && !again };
        if begins || fresh {
            self.next[side] = end;
        }
        if side == 0 && fresh && matches!(self.state, State::Answered | State::Established) {
            self.waiting = true;
        }
        if side == 1 && fresh && !syn {
            self.waiting = false;
        }
        if s.flags & RST != 0 {
            let distance = seq.wrapping_sub(self.next[side]).cast_signed();
            let credible = match (self.state, side) {
                (State::Syn, 1) => self.is_refused_by(s),
                _ => (-WINDOW..WINDOW).contains(&distance),
            };
            if credible {
                self.close();
            }
            return;
        }
        self.state = match (self.state, side, s.flags & (SYN | ACK)) {
            (State::Syn, 1, SYN_ACK) => {
                self.heard = true;
                State::Answered
            }
            (State::Answered, 0, ACK) => State::Established,
            (state, ..) => state,
        };
        if s.flags & FIN != 0 {
            self.fin[side] = true;
            if self.fin == [true; 2] {
                self.close();
            }
        }
    }

    /// What a slot says, with what is not in it from here.
    pub(crate) fn seen_in(&self, slot: &Slot) -> Self {
        let ctrl = Ctrl(slot.ctrl);
        Self {
            state: ctrl.state(),
            waiting: ctrl.is_waiting(),
            heard: !ctrl.is_unheard(),
            // Before the backend has answered, its field holds something else.
            next: [slot.client_next, if ctrl.is_unheard() { self.next[1] } else { slot.backend_next }],
            ..*self
        }
    }

    /// The segment as it leaves its sender.
    pub(crate) fn packet(&self, conn: &Conn, s: &Segment) -> Packet {
        let packet = tcp(conn.family).tcp_flags(s.flags).payload(&vec![b'x'; usize::from(s.payload)]);
        let packet = packet.ack(self.ack(s)).tcp_flags(s.flags).seq(self.seq(s));
        if s.from_client {
            return packet.from(conn.client).to(VIP);
        }
        packet.from(conn.backend).to(Endpoint { port: conn.snat.port(), ..SNAT })
    }

    pub(crate) const fn close(&mut self) {
        self.state = State::Closed;
        self.waiting = false;
    }
}

const SYN_ACK: u8 = SYN | ACK;

/// Any segment of any flow.
pub(crate) fn segment() -> impl Strategy<Value = Segment> {
    let flags = prop_oneof![
        6 => Just(ACK),
        4 => Just(ACK | PSH),
        3 => Just(SYN_ACK),
        2 => Just(SYN),
        2 => Just(FIN | ACK),
        1 => Just(RST),
        1 => Just(RST | ACK),
        1 => Just(FIN),
    ];
    let offset = prop_oneof![
        6 => Just(0),
        2 => -20..20_i32,
        1 => prop::sample::select(vec![WINDOW - 1, WINDOW, -WINDOW, -WINDOW - 1, i32::MIN, i32::MAX]),
    ];
    let payload = prop_oneof![2 => Just(0), 3 => 1..40_u16];
    let segment = (0..FLOWS, any::<bool>(), flags, offset, payload, prop::bool::weighted(0.8));
    segment.prop_map(|(flow, from_client, flags, offset, payload, acks)| Segment {
        flow,
        from_client,
        flags,
        offset,
        payload,
        acks,
    })
}

#[test]
fn flows_do_as_the_model_says() {
    require_data_path!("flows_do_as_the_model_says");
    let mut table = Table::new(512);
    table.set_times(std::time::Duration::ZERO, HOUR);
    let next_client = RefCell::new(0);
    let mut runner = TestRunner::new(Config { cases: 300, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&prop::collection::vec(segment(), 1..60), |segments| {
        let mut flows: Vec<(Conn, Model)> = (0..FLOWS)
            .map(|_| {
                let n = next_client.replace_with(|n| *n + 1);
                (table.syn(client(n)).expect("closed slots"), Model::opened(CLIENT_ISN, false))
            })
            .collect();
        for segment in &segments {
            let (conn, model) = &mut flows[segment.flow];
            run(&table, conn, model, segment)?;
        }
        books(&table)?;
        for (conn, model) in &mut flows {
            let last = Segment { flow: 0, from_client: true, flags: RST, offset: 0, payload: 0, acks: true };
            run(&table, conn, model, &last)?;
            prop_assert_eq!(model.state, State::Closed);
        }
        Ok(())
    });
    outcome.unwrap_or_else(|e| panic!("{e}"));
    table.check_books();
}

fn run(table: &Table, conn: &mut Conn, model: &mut Model, segment: &Segment) -> Result<(), TestCaseError> {
    let left = table.pass(&model.packet(conn, segment));
    prop_assert!(left.is_some(), "dropped");
    model.receive(segment);
    let slot = table.slot(conn);
    let ctrl = Ctrl(slot.ctrl);
    let seen = model.seen_in(&slot);
    prop_assert_eq!(seen, *model);
    prop_assert_eq!(ctrl.is_half_closed(), model.state == State::Established && model.fin != [false; 2]);
    Ok(())
}

fn books(table: &Table) -> Result<(), TestCaseError> {
    let open = |c: &Ctrl| c.is_open();
    let flows: Vec<Ctrl> = table.used().iter().map(|(_, s)| Ctrl(s.ctrl)).filter(open).collect();
    let waiting = flows.iter().filter(|c| c.is_waiting()).count();
    let (mut all, mut wait) = (0, 0);
    for backend in lb_tests::packet::world::BACKENDS {
        let load = table.load(backend, Family::V4);
        all += load.flows;
        wait += load.waiting;
    }
    prop_assert_eq!((all, wait), (flows.len() as u64, waiting as u64));
    Ok(())
}
