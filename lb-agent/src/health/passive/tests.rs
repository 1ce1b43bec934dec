use lb_common::stats::{REFUSED, UNANSWERED};
use proptest::prelude::*;

use super::*;

const SPEC: PassiveSpec = PassiveSpec {
    check_after: 2,
    refused: 3,
    unanswered: 4,
    resets: 5,
    resets_within: Duration::from_secs(10),
    oldest_waiting: Duration::ZERO,
};

fn load(refused: u64, unanswered: u64, resets: u64) -> BackendLoad {
    BackendLoad { failures: refused * REFUSED + unanswered * UNANSWERED, resets, ..BackendLoad::ZERO }
}

/// Names of what is found in each of these counters, one look a second: `check` and the signals.
fn looks(spec: &PassiveSpec, loads: &[(BackendLoad, u64)]) -> Vec<String> {
    let mut detector = Detector::default();
    let seconds = (0..).map(Duration::from_secs);
    let look = |((load, answers), now): (&(BackendLoad, u64), _)| {
        let found = detector.look(spec, load, now, || Some(*answers));
        let names = found.sightings.iter().flatten().map(|s| s.signal().name());
        let all: Vec<_> = found.check.then_some("check").into_iter().chain(names).collect();
        assert_eq!(found.is_nothing(), all.is_empty());
        all.join(" ")
    };
    loads.iter().zip(seconds).map(look).collect()
}

#[test]
fn syns_in_a_row() {
    let rows = |rows: &[(u64, u64)]| rows.iter().map(|&(r, u)| (load(r, u, 0), 0)).collect::<Vec<_>>();
    for (about, counts, found) in [
        ("too few", &[(1, 0), (1, 0)][..], &["", ""][..]),
        ("one after the other", &[(1, 0), (2, 0), (3, 0), (4, 0)], &["", "check", "refused", "check"]),
        ("all at once", &[(9, 0), (9, 0)], &["check refused", ""]),
        (
            "a row counts once for each threshold",
            &[(3, 0), (5, 0), (6, 0)],
            &["check refused", "check", "refused"],
        ),
        ("an answer between", &[(2, 0), (0, 0), (2, 0), (0, 0)], &["check", "", "check", ""]),
        ("another row of the same length is none", &[(3, 0), (3, 0)], &["check refused", ""]),
        ("a shorter row is another", &[(9, 0), (3, 0)], &["check refused", "check refused"]),
        ("both sorts make a check due", &[(1, 1), (2, 2), (2, 4)], &["check", "check", "check unanswered"]),
        ("each has its threshold", &[(0, 3), (0, 4)], &["check", "unanswered"]),
    ] {
        assert_eq!(looks(&SPEC, &rows(counts)), found, "{about}");
    }
}

#[test]
fn resets_within_a_time_and_in_proportion() {
    let rows = |rows: &[(u64, u64)]| rows.iter().map(|&(r, a)| (load(0, 0, r), a)).collect::<Vec<_>>();
    let none = vec![""; 4];
    for (about, counts, found) in [
        ("what came before is not counted", &[(7, 0), (7, 0), (7, 0), (7, 0)][..], none.clone()),
        ("too few", &[(1, 0), (5, 0), (5, 0), (5, 0)], none.clone()),
        ("enough", &[(1, 0), (5, 0), (6, 0), (7, 0)], vec!["", "", "resets", ""]),
        ("cut off in the middle", &[(1, 1), (5, 5), (6, 6), (7, 7)], vec!["", "", "resets", ""]),
        ("half of the answers", &[(1, 90), (5, 95), (6, 100), (6, 100)], vec!["", "", "resets", ""]),
        ("less than that", &[(1, 90), (5, 95), (6, 101), (6, 999)], none.clone()),
        ("counters of another generation", &[(9, 0), (1, 0), (6, 0), (7, 0)], none),
    ] {
        assert_eq!(looks(&SPEC, &rows(counts)), found, "{about}");
    }
    // One a second for 10 s, and again: a window that ends begins anew with the next reset.
    let steady: Vec<_> = (1..=24).map(|n| (load(0, 0, n / 3), 0)).collect();
    assert!(looks(&SPEC, &steady).iter().all(String::is_empty), "4 in 10 s");
    let quicker: Vec<_> = (1..=24).map(|n| (load(0, 0, n / 2), 0)).collect();
    assert_eq!(looks(&PassiveSpec { resets: 4, ..SPEC }, &quicker).join(""), "resetsresets");
}

#[test]
fn unknown_answers_make_nothing_of_resets() {
    let mut detector = Detector::default();
    for n in 1..100 {
        let found = detector.look(&SPEC, &load(0, 0, n * 10), Duration::from_millis(n), || None);
        assert_eq!(found, Found::default());
    }
}

/// The kernel is asked only about backends that cut flows off.
#[test]
fn nobody_asks_for_answers_without_need() {
    let mut detector = Detector::default();
    for n in 0..100 {
        let never = || panic!("nothing was reset");
        let _ = detector.look(&SPEC, &load(n, n, 0), Duration::from_secs(n), never);
        let _ =
            detector.look(&PassiveSpec { resets: 0, ..SPEC }, &load(0, 0, n), Duration::from_secs(n), never);
        let _ = detector.look(&SPEC, &load(0, 0, 0), Duration::from_secs(n), never);
    }
}

#[test]
fn at_least_half_are_left() {
    #[rustfmt::skip]
    let rows = [
        (1, 1, false),
        (2, 2, true), (2, 1, false),
        (3, 3, true), (3, 2, false),
        (4, 4, true), (4, 3, true), (4, 2, false),
        (5, 5, true), (5, 4, true), (5, 3, false),
        (20, 11, true), (20, 10, false), (20, 0, false),
    ];
    for (all, usable, may) in rows {
        assert_eq!(may_lose_one(all, usable), may, "{usable} of {all}");
    }
}

fn any_spec() -> impl Strategy<Value = PassiveSpec> {
    (0..6_u32, 0..6_u32, 0..6_u32, 0..6_u32, 0..20_u64).prop_map(
        |(check_after, refused, unanswered, resets, within)| PassiveSpec {
            check_after,
            refused,
            unanswered,
            resets,
            resets_within: Duration::from_secs(within),
            oldest_waiting: Duration::ZERO,
        },
    )
}

proptest! {
    /// Any number of backends: as long as it may, taking one leaves at least half.
    #[test]
    fn half_are_left_of_any_number(all in 0..5000_usize) {
        let mut usable = all;
        while may_lose_one(all, usable) {
            usable -= 1;
        }
        prop_assert!(usable * 2 >= all);
        prop_assert!(all < 2 || (usable - 1) * 2 < all, "and not more than that");
    }

    /// Any counters, also those that jump back, and a clock that does: no panic, and what is off has no influence.
    #[test]
    fn what_is_off_is_never_seen(
        spec in any_spec(),
        looks in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>(), any::<Option<u64>>()), 0..100),
    ) {
        let mut detector = Detector::default();
        for (failures, resets, now, answers) in looks {
            let load = BackendLoad { failures, resets, ..BackendLoad::ZERO };
            let found = detector.look(&spec, &load, Duration::from_nanos(now), || answers);
            prop_assert!(spec.check_after > 0 || !found.check);
            for sighting in found.sightings.into_iter().flatten() {
                let threshold = match sighting.signal() {
                    Signal::Refused => spec.refused,
                    Signal::Unanswered => spec.unanswered,
                    Signal::Resets => spec.resets,
                    Signal::OldestWaiting => 0,
                };
                prop_assert!(threshold > 0, "{sighting}");
            }
        }
    }

    /// However the looks fall, a row that grows by ones is seen once for each `threshold` of it at most.
    #[test]
    fn a_row_is_not_counted_twice(threshold in 1..10_u32, steps in prop::collection::vec(0..7_u32, 0..50)) {
        let (mut row, mut count, mut seen) = (Row::default(), 0, 0);
        for step in steps {
            count += step;
            seen += u32::from(row.reaches(count, threshold));
            prop_assert!(seen <= count / threshold);
            prop_assert!(count - row.taken < threshold, "none is missed");
        }
    }
}
