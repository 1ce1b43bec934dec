//! Random segments against a small model of a flow.

use std::cell::RefCell;

use lb_common::flow::{Ctrl, State};
use lb_common::tcp::{ACK, FIN, PSH, RST, SYN};
use lb_tests::packet::tcp;
use lb_tests::packet::world::{Endpoint, Family, VIP};
use lb_tests::require_data_path;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::table::{CLIENT_ISN, Conn, HOUR, Table, client};

/// Flows of a case.
const FLOWS: usize = 3;
/// As far as a RST may be from what is expected.
const WINDOW: i32 = 1 << 22;

/// One packet of one flow.
#[derive(Clone, Copy, Debug)]
struct Segment {
    flow: usize,
    from_client: bool,
    flags: u8,
    /// From the sender's next number.
    offset: i32,
    payload: u16,
    /// Whether a backend's packet acknowledges what the client has sent.
    acks: bool,
}

/// A flow as its two ends would describe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Model {
    state: State,
    fin: [bool; 2],
    waiting: bool,
    next: [u32; 2],
}

impl Model {
    /// After a SYN with this sequence number.
    const fn opened(seq: u32) -> Self {
        Self { state: State::Syn, fin: [false; 2], waiting: false, next: [seq.wrapping_add(1), 0] }
    }

    fn seq(&self, s: &Segment) -> u32 {
        self.next[usize::from(!s.from_client)].wrapping_add_signed(s.offset)
    }

    fn ack(&self, s: &Segment) -> u32 {
        self.next[usize::from(s.from_client)].wrapping_add(u32::from(!s.acks))
    }

    /// What RFC 9293 and DESIGN say of the packet.
    fn receive(&mut self, s: &Segment) {
        let (seq, ack) = (self.seq(s), self.ack(s));
        let side = usize::from(!s.from_client);
        let syn = s.flags & SYN != 0;
        if s.from_client && s.flags & (SYN | ACK) == SYN && self.state == State::Closed {
            *self = Self::opened(seq);
        }
        let opens = side == 0 && s.flags & (SYN | ACK) == SYN;
        // Data in a SYN may have to be sent again: it is not counted before.
        let payload = if opens { 0 } else { u32::from(s.payload) };
        let end = seq.wrapping_add(payload).wrapping_add(u32::from(syn));
        let heard = side == 0 || s.flags & (SYN | ACK) == SYN | ACK || self.state != State::Syn;
        let fresh = heard && payload > 0 && self.next[side].wrapping_sub(end).cast_signed() < 0;
        let begins = if side == 0 { opens && self.state == State::Syn } else { syn && heard };
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
                (State::Syn, 1) => ack == self.next[0],
                _ => (-WINDOW..WINDOW).contains(&distance),
            };
            if credible {
                self.close();
            }
            return;
        }
        self.state = match (self.state, side, s.flags & (SYN | ACK)) {
            (State::Syn, 1, SYN_ACK) => State::Answered,
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

    const fn close(&mut self) {
        self.state = State::Closed;
        self.waiting = false;
    }
}

const SYN_ACK: u8 = SYN | ACK;

fn segments() -> impl Strategy<Value = Vec<Segment>> {
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
    let segment = segment.prop_map(|(flow, from_client, flags, offset, payload, acks)| Segment {
        flow,
        from_client,
        flags,
        offset,
        payload,
        acks,
    });
    prop::collection::vec(segment, 1..60)
}

#[test]
fn flows_do_as_the_model_says() {
    require_data_path!("flows_do_as_the_model_says");
    let mut table = Table::new(512);
    table.set_times(std::time::Duration::ZERO, HOUR);
    let next_client = RefCell::new(0);
    let mut runner = TestRunner::new(Config { cases: 300, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&segments(), |segments| {
        let mut flows: Vec<(Conn, Model)> = (0..FLOWS)
            .map(|_| {
                let n = next_client.replace_with(|n| *n + 1);
                (table.syn(client(n)).expect("closed slots"), Model::opened(CLIENT_ISN))
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
    let packet = tcp(conn.family).tcp_flags(segment.flags).payload(&vec![b'x'; usize::from(segment.payload)]);
    let packet = packet.ack(model.ack(segment)).tcp_flags(segment.flags).seq(model.seq(segment));
    let packet = if segment.from_client {
        packet.from(conn.client).to(VIP)
    } else {
        let snat = Endpoint { port: conn.snat.port(), ..lb_tests::packet::world::SNAT };
        packet.from(conn.backend).to(snat)
    };
    let left = table.pass(&packet);
    prop_assert!(left.is_some(), "dropped");
    model.receive(segment);
    let slot = table.slot(conn);
    let ctrl = Ctrl(slot.ctrl);
    let seen = Model {
        state: ctrl.state(),
        fin: model.fin,
        waiting: ctrl.is_waiting(),
        // Before the backend has answered, its field holds something else.
        next: [slot.client_next, if ctrl.state() == State::Syn { 0 } else { slot.backend_next }],
    };
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
