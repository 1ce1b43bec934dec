use std::sync::Mutex;
use std::time::Instant;

use lb_common::backend::{BACKEND_DEAD, BACKEND_LIVE, Backend};
use lb_common::flow::State;
use lb_common::node::{Node, Port};
use lb_common::service::Service;

use super::*;

const DEAD: u16 = 1;
const ALIVE: u16 = 2;

fn tables() -> Tables {
    let backend = |flags| Backend { generation: 1, flags, ..Backend::EMPTY };
    let mut node = Node::EMPTY;
    node.ports[0] = Port { ifindex: 7, ..Port::EMPTY };
    Tables {
        node,
        backends: [(DEAD, backend(BACKEND_LIVE | BACKEND_DEAD)), (ALIVE, backend(BACKEND_LIVE))].into(),
        services: [(3, Service::EMPTY)].into(),
        ..Tables::default()
    }
}

fn flow(state: State, backend: u16) -> Slot {
    Slot { ctrl: Ctrl::new(state, 3, backend, 1).0, ..Slot::EMPTY }
}

/// Answers of the one who sends, in turn; then all is well.
type Answers = Vec<io::Error>;

/// Sweeps a table of these flows, all of which are closed, and gives how many RSTs were sent.
fn sweep(flows: Vec<Slot>, answers: Answers) -> (Swept, usize) {
    let (sent, answers) = (Arc::new(Mutex::new(0)), Mutex::new(answers));
    let counter = Arc::clone(&sent);
    let all = (0..u32::try_from(flows.len()).unwrap()).collect::<Vec<_>>();
    let swept = Sweep {
        scan: Arc::new(move |_| all.clone()),
        close: Arc::new(move |slots| {
            assert!(slots.len() <= CHUNK);
            Ok(slots.iter().map(|i| flows[*i as usize]).collect())
        }),
        send: Arc::new(move |ifindex, _| {
            assert_eq!(ifindex, 7);
            if let Some(e) = answers.lock().unwrap().pop() {
                return Err(e);
            }
            *counter.lock().unwrap() += 1;
            Ok(())
        }),
    }
    .run(&tables());
    let sent = *sent.lock().unwrap();
    (swept, sent)
}

#[test]
fn only_clients_of_lost_flows_are_told() {
    let stale = flow(State::Established, ALIVE);
    let flows =
        vec![stale, flow(State::Established, DEAD), flow(State::Syn, DEAD), flow(State::Answered, DEAD)];
    let (swept, sent) = sweep(flows, vec![]);
    assert_eq!((swept.found, swept.closed, sent), (4, 4, 2));
    assert_eq!(swept.told, BTreeMap::from([((DEAD, 1), 2)]));
    assert!(swept.not_closed.is_none() && swept.not_told.is_none() && !swept.is_partial());
}

#[test]
fn who_is_not_closed_is_not_told() {
    let tables = tables();
    let sweep = Sweep {
        scan: Arc::new(|_| (0..1000).collect()),
        close: Arc::new(|slots| match slots {
            [0, ..] => Ok(vec![]),
            _ => Err(DataplaneError { what: "run".into(), source: anyhow::anyhow!("refused") }),
        }),
        send: Arc::new(|_, _| panic!("nobody is to be told")),
    };
    let swept = sweep.run(&tables);
    assert_eq!((swept.closed, swept.found), (0, 1000));
    assert!(swept.told.is_empty() && swept.not_closed.is_some());
}

/// What cannot be sent now is sent a moment later; what cannot be sent at all holds nobody up.
#[test]
fn a_full_queue_is_waited_for_and_another_error_is_not() {
    let full = || io::Error::from_raw_os_error(libc::ENOBUFS);
    let down = || io::Error::from_raw_os_error(libc::ENETDOWN);
    let flows = || vec![flow(State::Established, DEAD); 3];
    let (swept, sent) = sweep(flows(), vec![full(), ErrorKind::WouldBlock.into(), full()]);
    assert_eq!((swept.told[&(DEAD, 1)], sent), (3, 3));
    let (swept, sent) = sweep(flows(), vec![down(), down()]);
    assert_eq!((swept.told[&(DEAD, 1)], sent), (1, 1));
    let (not_told, why) = swept.not_told.unwrap();
    assert_eq!((not_told, why.raw_os_error()), (2, Some(libc::ENETDOWN)));
}

#[test]
fn ten_thousand_are_told_within_a_second() {
    let start = Instant::now();
    let (swept, sent) = sweep(vec![flow(State::Established, DEAD); 10_000], vec![]);
    assert_eq!((swept.closed, sent), (10_000, 10_000));
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[test]
fn a_scan_that_found_all_that_it_may_is_followed_by_another() {
    for (found, closed, partial) in [(AT_ONCE, 1, true), (AT_ONCE - 1, 1, false), (AT_ONCE, 0, false)] {
        assert_eq!(Swept { found, closed, ..Swept::default() }.is_partial(), partial, "{found} {closed}");
    }
}
