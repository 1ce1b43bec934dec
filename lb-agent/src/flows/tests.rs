use std::net::Ipv4Addr;

use lb_common::backend::{BACKEND_DEAD, BACKEND_LIVE};

use super::*;

const NOW: u32 = 100_000;
/// The clocks differ by days.
const BOTH: Now = Now { seen: NOW, exact: NOW.wrapping_sub(3_000_000_000) };

fn slot(state: State, backend: u16, generation: u16) -> Slot {
    Slot {
        ctrl: Ctrl::new(state, 3, backend, generation).0,
        client: Ipv4Addr::new(192, 0, 2, 7).into(),
        client_port: 40_000u16.to_be(),
        client_seen: NOW - 50,
        backend_seen: NOW - 20,
        ..Slot::EMPTY
    }
}

fn waiting(since: u32) -> Slot {
    let ctrl = Ctrl::new(State::Established, 3, 1, 1).with_waiting(true).0;
    Slot { ctrl, waiting_since: since, ..slot(State::Established, 1, 1) }
}

fn tables(idle_ticks: u32) -> Tables {
    let backend = Backend { generation: 1, flags: BACKEND_LIVE, ..Backend::EMPTY };
    Tables {
        node: Node { idle_ticks, rest_ticks: 10, ..Node::EMPTY },
        backends: [
            (1, backend),
            (2, Backend { flags: 0, ..backend }),
            (3, Backend { flags: BACKEND_LIVE | BACKEND_DEAD, ..backend }),
        ]
        .into(),
        ..Tables::default()
    }
}

#[test]
fn summary_counts_by_state_backend_and_generation() {
    let slots = [
        Slot::EMPTY,
        slot(State::Claiming, 1, 1),
        slot(State::Syn, 1, 1),
        slot(State::Established, 1, 1),
        slot(State::Established, 1, 2),
        slot(State::Closed, 1, 2),
        slot(State::Answered, 4000, 9),
        waiting(NOW - 10),
        waiting(NOW - 30),
        Slot { waiting_since: NOW - 99, ..slot(State::Closed, 1, 1) },
    ];
    let summary = FlowSummary::of(slots, NOW);
    assert_eq!(summary.census.by_state, [1, 1, 1, 1, 4, 2]);
    let first = summary.backend(1, 1).unwrap();
    assert_eq!(first.by_state, [0, 0, 1, 0, 3, 1]);
    assert_eq!((first.open(), first.waiting, first.oldest_waiting), (4, 2, 30));
    let second = summary.backend(1, 2).unwrap();
    assert_eq!((second.by_state, second.open()), ([0, 0, 0, 0, 1, 1], 1));
    assert!(summary.backend(2, 1).is_none());
    let all: Vec<(u16, u16)> = summary.backends().map(|(id, flows)| (id, flows.generation)).collect();
    assert_eq!(all, [(1, 1), (1, 2), (4000, 9)]);
}

#[test]
fn a_flow_names_its_snat_port_and_ages() {
    let node = Node { buckets: 2, port_base: 1024, ..Node::EMPTY };
    let flow = Flow::of(16 + 9, &waiting(BOTH.exact.wrapping_sub(30)), &node, BOTH).unwrap();
    assert_eq!((flow.block, flow.port), (1, 1033));
    assert_eq!(flow.client, "192.0.2.7:40000".parse().unwrap());
    assert_eq!((flow.service, flow.backend, flow.generation), (3, 1, 1));
    assert_eq!((flow.client_silent, flow.backend_silent, flow.waiting), (50, 20, Some(30)));
    assert_eq!(Flow::of(0, &Slot::EMPTY, &node, BOTH), None);
    assert_eq!(Flow::of(0, &slot(State::Claiming, 1, 1), &node, BOTH), None);
    assert_eq!(Flow::of(0, &waiting(1), &Node::EMPTY, BOTH), None, "a node that is not configured yet");
}

#[test]
fn over_are_orphans_and_the_silent_that_wait_for_nothing() {
    let established = |backend, generation| slot(State::Established, backend, generation);
    let gone_and_waiting = Slot { ctrl: Ctrl(established(9, 1).ctrl).with_waiting(true).0, ..waiting(NOW) };
    for (what, slot, idle, over) in [
        ("heard 20 ticks ago", established(1, 1), 20, false),
        ("idle for longer", established(1, 1), 19, true),
        ("waits for an answer", waiting(NOW - 40), 19, false),
        ("older generation", established(1, 0), 1000, true),
        ("backend taken away", established(2, 1), 1000, true),
        ("unknown backend", established(9, 1), 1000, true),
        ("dead backend", established(3, 1), 1000, true),
        ("a SYN to a dead backend", slot(State::Syn, 3, 1), 1000, true),
        ("waits for a backend that is gone", gone_and_waiting, 1000, true),
        ("no handshake takes so long", slot(State::Answered, 1, 1), 1000, true),
        ("closed already", Slot { ..slot(State::Closed, 9, 1) }, 0, false),
        ("being claimed", slot(State::Claiming, 9, 1), 0, false),
        ("never used", Slot::EMPTY, 0, false),
    ] {
        assert_eq!(is_over(&slot, &tables(idle), NOW), over, "{what}");
    }
}

#[test]
fn ages_wrap_and_the_near_future_is_now() {
    assert_eq!(age(NOW, NOW), 0);
    assert_eq!(age(NOW + 3, NOW), 0);
    assert_eq!(age(u32::MAX, 1), 2);
    assert_eq!(age(3, u32::MAX), 0);
    assert_eq!(age(NOW, NOW.wrapping_sub(AHEAD + 1)), u32::MAX - AHEAD);
}
