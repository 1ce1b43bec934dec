use proptest::prelude::*;

use super::*;

const RULES: DrainSpec = DrainSpec { idle: Duration::from_secs(5), deadline: Duration::from_secs(60) };

const fn at(seconds: u64) -> Duration {
    Duration::from_secs(1000 + seconds)
}

const fn read(waiting: u64, data_seen: u64) -> Option<Reading> {
    Some(Reading { waiting, data_seen })
}

#[test]
fn ends() {
    use Outcome::{Complete, Deadline};
    type Seen = (u64, Option<Reading>);
    // Seconds since the beginning, and what is seen then. The last of them decides, and none before.
    let cases: &[(&str, &[Seen], Outcome, Option<u64>)] = &[
        ("nothing ever happens", &[(0, read(0, 0)), (4, read(0, 0)), (5, read(0, 0))], Complete, Some(0)),
        (
            "data before it began means nothing",
            &[(1, read(0, 77)), (5, read(0, 77)), (6, read(0, 77))],
            Complete,
            Some(0),
        ),
        (
            "a request is answered",
            &[(0, read(1, 9)), (30, read(1, 9)), (31, read(0, 10)), (35, read(0, 10)), (36, read(0, 10))],
            Complete,
            Some(0),
        ),
        (
            "an answer goes on for long",
            &[(0, read(0, 1)), (4, read(0, 2)), (8, read(0, 3)), (12, read(0, 3)), (13, read(0, 3))],
            Complete,
            Some(0),
        ),
        (
            "the clock of the data path wraps",
            &[(0, read(0, u64::MAX)), (4, read(0, 0)), (8, read(0, 0)), (9, read(0, 0))],
            Complete,
            Some(0),
        ),
        (
            "a request between two readings",
            &[(0, read(0, 1)), (4, None), (6, read(0, 2)), (10, read(0, 2)), (11, read(0, 2))],
            Complete,
            Some(0),
        ),
        (
            "one that waits without data",
            &[(0, read(0, 1)), (4, read(1, 1)), (6, read(0, 1)), (10, read(0, 1)), (11, read(0, 1))],
            Complete,
            Some(0),
        ),
        (
            "what cannot be seen is not quiet",
            &[(0, None), (7, None), (8, read(0, 1)), (12, read(0, 1)), (13, read(0, 1))],
            Complete,
            Some(0),
        ),
        ("blind at the moment of truth", &[(0, read(0, 1)), (5, None), (6, read(0, 1))], Complete, Some(0)),
        (
            "a query that takes too long",
            &[(0, read(2, 1)), (59, read(2, 1)), (60, read(2, 1))],
            Deadline,
            Some(2),
        ),
        (
            "data all the time",
            &[(0, read(0, 1)), (20, read(0, 2)), (40, read(0, 3)), (59, read(0, 4)), (61, read(0, 5))],
            Deadline,
            Some(0),
        ),
        ("never seen", &[(0, None), (59, None), (60, None)], Deadline, None),
        ("quiet just in time", &[(55, read(0, 1)), (60, read(0, 1))], Complete, Some(0)),
    ];
    for (name, seen, outcome, waiting) in cases {
        let mut drain = Drain::new(at(0), RULES);
        let ((last, reading), before) = seen.split_last().unwrap();
        for (second, reading) in before {
            assert_eq!(drain.observe(at(*second), *reading), None, "{name}: after {second} s");
        }
        assert_eq!(drain.end(), None, "{name}");
        assert_eq!(drain.observe(at(*last), *reading), Some(*outcome), "{name}");
        assert_eq!(drain.end(), Some(End { at: at(*last), outcome: *outcome, waiting: *waiting }), "{name}");
    }
}

#[test]
fn without_idle_time_the_first_quiet_reading_is_enough() {
    let rules = DrainSpec { idle: Duration::ZERO, ..RULES };
    let mut drain = Drain::new(at(0), rules);
    assert_eq!(drain.observe(at(1), read(1, 4)), None);
    assert_eq!(drain.observe(at(2), read(0, 5)), Some(Outcome::Complete));
    assert_eq!((drain.since(), drain.deadline()), (at(0), at(60)));
}

#[derive(Clone, Copy, Debug)]
struct Step {
    milliseconds: u64,
    seen: Option<(u64, bool)>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let seen = prop::option::weighted(
        0.9,
        (prop::sample::select(vec![0u64, 0, 0, 0, 1, 3]), prop::bool::weighted(0.1)),
    );
    let step = (0u64..4000, seen).prop_map(|(milliseconds, seen)| Step { milliseconds, seen });
    prop::collection::vec(step, 0..60)
}

proptest! {
    /// The rules in other words, from the whole history, at each step.
    #[test]
    fn ends_when_the_history_says_so(steps in steps()) {
        let mut drain = Drain::new(at(0), RULES);
        let (mut now, mut data_seen, mut ended) = (at(0), 40, None);
        let mut history: Vec<(Duration, Reading)> = Vec::new();
        for step in steps {
            now += Duration::from_millis(step.milliseconds);
            let seen = step.seen.map(|(waiting, data)| {
                data_seen += u64::from(data);
                Reading { waiting, data_seen }
            });
            history.extend(seen.map(|reading| (now, reading)));
            let is_quiet = seen.is_some() && {
                // The longest end of the history in which nobody waits and no data passes.
                let same = |(_, r): &&(Duration, Reading)| r.waiting == 0 && r.data_seen == data_seen;
                let tail: Vec<_> = history.iter().rev().take_while(same).collect();
                tail.last().is_some_and(|(first, _)| now - *first >= RULES.idle)
            };
            let want = match (is_quiet, now >= drain.deadline()) {
                _ if ended.is_some() => None,
                (true, _) => Some(Outcome::Complete),
                (false, true) => Some(Outcome::Deadline),
                (false, false) => None,
            };
            let got = drain.observe(now, seen);
            prop_assert_eq!(got, want);
            ended = ended.or(got);
            prop_assert_eq!(drain.end().map(|e| e.outcome), ended);
        }
        prop_assert!(now < drain.deadline() || ended.is_some());
    }

    /// Whatever the numbers and the clock do, it does not panic, and it ends at most once.
    #[test]
    fn ends_once(times in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>()), 0..50), idle: u64, deadline: u64) {
        let rules = DrainSpec { idle: Duration::from_nanos(idle), deadline: Duration::from_nanos(deadline) };
        let mut drain = Drain::new(Duration::MAX - Duration::from_secs(1), rules);
        let ends = times.into_iter().filter_map(|(now, waiting, data)| {
            drain.observe(Duration::from_nanos(now), read(waiting, data))
        });
        prop_assert!(ends.count() <= 1);
    }
}
