use lb_common::service::ServiceKey;
use proptest::prelude::*;

use super::*;
use crate::model::{PassiveSpec, ProbeKind};
use HealthState::{Dead, Healthy, Starting, Suspect};

const SECOND: Duration = Duration::from_secs(1);

fn spec() -> HealthSpec {
    HealthSpec {
        probe: ProbeKind::Tcp,
        interval: SECOND,
        timeout: SECOND,
        rise: 1,
        fall: 1,
        grace: Duration::ZERO,
        dead_after: 30 * SECOND,
        passive: PassiveSpec::default(),
    }
}

fn key(service: u16, n: u16) -> BackendKey {
    let vip = std::net::Ipv4Addr::new(10, 77, 0, 100).into();
    let [high, low] = n.to_be_bytes();
    BackendKey { service: ServiceKey::tcp(vip, service), address: ([10, 78, high, low], 8088).into() }
}

/// Two services with these numbers of backends, all starting.
fn board(of_first: u16, of_second: u16) -> Arc<Board> {
    let board = Board::new(Instant::now());
    let keys = (0..of_first).map(|n| key(1, n)).chain((0..of_second).map(|n| key(2, n)));
    let labelled: Vec<_> = keys.map(|key| (key, format!("{key:?}"))).collect();
    let spec = spec();
    board.set(labelled.iter().map(|(key, label)| (*key, label.as_str(), &spec)));
    Arc::new(board)
}

fn check(board: &Board, key: BackendKey, result: CheckResult) {
    board.record(key, Checked { result, duration: SECOND });
}

fn count(board: &Board, service: u16, state: HealthState) -> usize {
    let of = key(service, 0).service;
    board.states().iter().filter(|(k, s)| k.service == of && **s == state).count()
}

const REFUSED: Sighting = Sighting::Refused(5);

#[test]
fn the_other_backends_of_the_service_decide() {
    let board = board(4, 4);
    for n in 0..4 {
        check(&board, key(1, n), CheckResult::Ok);
        check(&board, key(2, n), CheckResult::Timeout);
    }
    let passive = PassiveHealth::new(board.clone());
    let none = BTreeSet::new();
    let verdict = |n| passive.suspect(&key(1, n), REFUSED, &none).map(|(verdict, _)| verdict.name());
    assert_eq!([0, 0, 1, 2, 3].map(verdict), ["suspect", "unchanged", "suspect", "held", "held"].map(Some));
    assert_eq!((count(&board, 1, Suspect), count(&board, 1, Healthy)), (2, 2));
    // What the checks say has no such limit.
    check(&board, key(1, 2), CheckResult::Refused);
    assert_eq!((count(&board, 1, Dead), count(&board, 1, Healthy)), (1, 1));
    assert_eq!(verdict(3), Some("held"));
    // Good checks bring them back, and then there is room again.
    (0..3).for_each(|n| check(&board, key(1, n), CheckResult::Ok));
    assert_eq!(count(&board, 1, Healthy), 4);
    assert_eq!(verdict(3), Some("suspect"));
    assert_eq!(passive.suspect(&key(1, 9), REFUSED, &none), None, "nobody checks it");
}

#[test]
fn backends_that_are_not_in_use_are_no_room() {
    let board = board(4, 0);
    (0..3).for_each(|n| check(&board, key(1, n), CheckResult::Ok));
    let passive = PassiveHealth::new(board.clone());
    let verdict = |n, drained: &[u16]| {
        let drained = drained.iter().map(|n| key(1, *n)).collect();
        passive.suspect(&key(1, n), REFUSED, &drained).map(|(verdict, _)| verdict.name())
    };
    assert_eq!(count(&board, 1, Starting), 1);
    assert_eq!(verdict(0, &[1]), Some("held"), "one starts, one drains: two are in use");
    assert_eq!(verdict(0, &[3]), Some("suspect"), "it is not counted twice");
    assert_eq!(verdict(1, &[]), Some("held"));
}

#[derive(Clone, Debug)]
enum Event {
    Check(u16, CheckResult),
    Signal(u16, Sighting),
    Drain(u16, bool),
}

fn events() -> impl Strategy<Value = (u16, Vec<Event>)> {
    (1..24_u16).prop_flat_map(|backends| {
        let results = vec![CheckResult::Ok, CheckResult::Ok, CheckResult::Refused, CheckResult::Timeout];
        let signals = vec![REFUSED, Sighting::Unanswered(3), Sighting::Resets(9, SECOND)];
        let event = prop_oneof![
            (0..backends, prop::sample::select(results)).prop_map(|(n, r)| Event::Check(n, r)),
            (0..backends, prop::sample::select(signals)).prop_map(|(n, s)| Event::Signal(n, s)),
            (0..backends, any::<bool>()).prop_map(|(n, drains)| Event::Drain(n, drains)),
        ];
        (Just(backends), prop::collection::vec(event, 0..150))
    })
}

proptest! {
    /// Whatever is checked, seen and drained: a signal only takes a healthy backend, and only when at least half of all are
    /// left that are healthy and not drained; so there are never more than half that are suspect or dead because of one.
    #[test]
    fn a_signal_leaves_half((backends, events) in events()) {
        let board = board(backends, 0);
        let (passive, mut drained) = (PassiveHealth::new(board.clone()), BTreeSet::new());
        for event in events {
            let before = board.states();
            match event {
                Event::Check(n, result) => check(&board, key(1, n), result),
                Event::Drain(n, true) => drop(drained.insert(key(1, n))),
                Event::Drain(n, false) => drop(drained.remove(&key(1, n))),
                Event::Signal(n, sighting) => {
                    let (verdict, _) = passive.suspect(&key(1, n), sighting, &drained).unwrap();
                    let after = board.states();
                    let down = after.values().filter(|s| matches!(s, Suspect | Dead)).count();
                    let usable = after.iter().filter(|(k, s)| **s == Healthy && !drained.contains(k)).count();
                    if let Verdict::Suspect(change) = verdict {
                        prop_assert_eq!((change.from, change.to), (Healthy, Suspect));
                        prop_assert!(down * 2 <= usize::from(backends), "{} of {} down", down, backends);
                        prop_assert!(usable * 2 >= usize::from(backends), "{} of {} left", usable, backends);
                    } else {
                        prop_assert_eq!(&after, &before);
                    }
                    prop_assert_eq!(verdict == Verdict::Unchanged, before[&key(1, n)] != Healthy);
                }
            }
        }
    }
}
