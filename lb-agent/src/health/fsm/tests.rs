use proptest::prelude::*;

use super::*;
use CheckResult as R;
use HealthState::{Dead, Healthy, Starting, Suspect};

const RULES: Rules =
    Rules { rise: 2, fall: 3, grace: Duration::from_secs(60), dead_after: Duration::from_secs(30) };

/// Time between two checks of a script.
const STEP: Duration = Duration::from_secs(10);

/// Every sort of result, with its letter in a script.
const RESULTS: [(char, CheckResult); 10] = [
    ('o', R::Ok),
    ('r', R::Refused),
    ('n', R::Unreachable),
    ('c', R::ConnectTimeout),
    ('t', R::Timeout),
    ('5', R::BadAnswer(BadAnswer::Status(503))),
    ('b', R::BadAnswer(BadAnswer::Body)),
    ('x', R::BadAnswer(BadAnswer::Closed)),
    ('p', R::BadAnswer(BadAnswer::Protocol)),
    ('l', R::Local(24)),
];

fn result(letter: char) -> CheckResult {
    RESULTS.iter().find(|(l, _)| *l == letter).expect("a letter of RESULTS").1
}

fn letter(state: HealthState) -> char {
    match state {
        Starting => 's',
        Healthy => 'H',
        Suspect => 'u',
        Dead => 'D',
    }
}

/// Feeds a script, one check each [`STEP`], and returns the state after each check.
fn play(fsm: &mut Fsm, now: &mut Duration, script: &str) -> String {
    script
        .chars()
        .map(|l| {
            *now += STEP;
            let before = fsm.state();
            match fsm.observe(result(l), *now) {
                Some(t) => assert_eq!((t.from, t.to, t.at), (before, fsm.state(), *now), "{l}"),
                None => assert_eq!(before, fsm.state(), "{l}"),
            }
            letter(fsm.state())
        })
        .collect()
}

/// A machine in `state`, with no counted check behind it but those that led there, after its grace.
fn reached(state: HealthState) -> (Fsm, Duration) {
    let mut fsm = Fsm::new(RULES, Duration::ZERO);
    let mut now = RULES.grace - STEP;
    let way = match state {
        Starting => "",
        Healthy => "o",
        Suspect => "ottt",
        Dead => "orrr",
    };
    play(&mut fsm, &mut now, way);
    assert_eq!(fsm.state(), state);
    (fsm, now)
}

/// Each state × each result, five times in a row: `rise` is 2, `fall` is 3, and the fourth connect time-out is
/// 30 s after the first.
#[test]
fn every_state_and_every_result() {
    #[rustfmt::skip]
    let table: [(HealthState, &str, &str); 16] = [
        (Starting, "o",  "HHHHH"),
        (Starting, "rn", "ssDDD"),
        (Starting, "c",  "ssuDD"),
        (Starting, "t5bxp", "ssuuu"),
        (Healthy,  "o",  "HHHHH"),
        (Healthy,  "rn", "HHDDD"),
        (Healthy,  "c",  "HHuDD"),
        (Healthy,  "t5bxp", "HHuuu"),
        (Suspect,  "o",  "uHHHH"),
        (Suspect,  "rn", "uuDDD"),
        (Suspect,  "c",  "uuuDD"),
        (Suspect,  "t5bxp", "uuuuu"),
        (Dead,     "o",  "DHHHH"),
        (Dead,     "rn", "DDDDD"),
        (Dead,     "c",  "DDDDD"),
        (Dead,     "t5bxp", "DDDDD"),
    ];
    for state in HealthState::ALL {
        for (l, _) in RESULTS {
            let expected = match l {
                'l' => letter(state).to_string().repeat(5),
                _ => {
                    let mut rows = table.iter().filter(|row| row.0 == state && row.1.contains(l));
                    let row = rows.next().unwrap_or_else(|| panic!("no row for {state:?} × {l}"));
                    assert!(rows.next().is_none(), "two rows for {state:?} × {l}");
                    row.2.to_owned()
                }
            };
            let (mut fsm, mut now) = reached(state);
            let script = l.to_string().repeat(5);
            assert_eq!(play(&mut fsm, &mut now, &script), expected, "{state:?} × {l}");
        }
    }
}

/// Each state × each passive signal, and what good checks make of it, one each 10 s: `rise` is 2.
#[test]
fn every_state_and_every_signal() {
    let resets = Sighting::Resets(10, Duration::from_secs(35));
    #[rustfmt::skip]
    let table = [
        (Starting, Sighting::Refused(5),                  's', "HHHHHH"),
        (Starting, resets,                                's', "HHHHHH"),
        (Healthy,  Sighting::Refused(5),                  'u', "uHHHHH"),
        (Healthy,  Sighting::Unanswered(5),               'u', "uHHHHH"),
        (Healthy,  resets,                                'u', "uuuuHH"),
        (Healthy,  Sighting::OldestWaiting(10 * STEP),    'u', "uHHHHH"),
        (Suspect,  Sighting::Refused(5),                  'u', "uHHHHH"),
        (Suspect,  Sighting::Unanswered(5),               'u', "uHHHHH"),
        (Suspect,  resets,                                'u', "uuuuHH"),
        (Suspect,  Sighting::OldestWaiting(10 * STEP),    'u', "uHHHHH"),
        (Dead,     Sighting::Refused(5),                  'D', "DHHHHH"),
        (Dead,     Sighting::Unanswered(5),               'D', "DHHHHH"),
        (Dead,     resets,                                'D', "DHHHHH"),
        (Dead,     Sighting::OldestWaiting(10 * STEP),    'D', "DHHHHH"),
    ];
    for (state, sighting, after, checks) in table {
        let (mut fsm, mut now) = reached(state);
        let change = fsm.suspect(sighting, now);
        assert_eq!(letter(fsm.state()), after, "{state:?} × {sighting}");
        let expected = (state == Healthy).then_some((Healthy, Suspect, Why::Seen(sighting), now));
        assert_eq!(change.map(|c| (c.from, c.to, c.why, c.at)), expected, "{state:?} × {sighting}");
        assert_eq!(play(&mut fsm, &mut now, "oooooo"), checks, "{state:?} × {sighting}");
    }
}

/// `!` is a sighting of refused SYNs, the others are checks.
#[test]
fn a_signal_and_checks_together() {
    #[rustfmt::skip]
    let rows = [
        ("a signal sets the good checks back",   "!o!oo",    "uuuuH"),
        ("not the bad ones",                     "r!rr",     "HuuD"),
        ("checks alone make it dead",            "!rrr",     "uuuD"),
        ("never a signal",                       "!!!!!!!!", "uuuuuuuu"),
        ("bad checks keep it suspect",           "!oto5oo",  "uuuuuuH"),
        ("a local error is no check",            "!lolo",    "uuuuH"),
        ("dead: only checks count",              "rrro!o",   "HHDDDH"),
        ("healthy again, and the same again",    "!oo!oo",   "uuHuuH"),
    ];
    for (what, script, expected) in rows {
        let (mut fsm, mut now) = reached(Healthy);
        let states: String = script
            .chars()
            .map(|l| match l {
                '!' => {
                    let _ = fsm.suspect(Sighting::Refused(5), now);
                    letter(fsm.state())
                }
                check => play(&mut fsm, &mut now, &check.to_string()).remove(0),
            })
            .collect();
        assert_eq!(states, expected, "{what}");
    }
}

/// Scripts with mixed results, from a healthy backend.
#[test]
fn only_checks_in_a_row_count() {
    #[rustfmt::skip]
    let rows = [
        ("a good check forgives",                    "ttottorrorr", "HHHHHHHHHHH"),
        ("two sorts of bad together are suspect",    "trt",         "HHu"),
        ("refused needs its own row to be dead",     "trrr",        "HHuD"),
        ("refused and unreachable are one sort",     "rnr",         "HHD"),
        ("silence does not add to refused",          "rrc",         "HHu"),
        ("a slow answer proves a connection",        "ccctccc",     "HHuuuuu"),
        ("silence and unreachable are one silence",  "cncn",        "HHuD"),
        ("a bad answer proves a connection",         "ccc5cccc",    "HHuuuuuD"),
        ("recovery starts again after a failure",    "tttotoo",     "HHuuuuH"),
        ("dead does not become suspect",             "rrrtttttoo",  "HHDDDDDDDH"),
        ("dead: a failure breaks the recovery",      "rrrotoo",     "HHDDDDH"),
        ("a local error is no evidence and no break", "tltlt",      "HHHHu"),
        ("nor does it break a recovery",             "tttolo",      "HHuuuH"),
    ];
    for (what, script, expected) in rows {
        let (mut fsm, mut now) = reached(Healthy);
        assert_eq!(play(&mut fsm, &mut now, script), expected, "{what}");
    }
}

#[test]
fn failures_count_once_grace_is_over() {
    let start = Duration::from_secs(1000);
    let mut fsm = Fsm::new(RULES, start);
    let at = |s: u64| start + Duration::from_secs(s);
    for s in 1..60 {
        assert_eq!(fsm.observe(R::Refused, at(s)), None, "{s} s");
        assert_eq!(fsm.consecutive(), 0, "forgiven");
    }
    assert_eq!(fsm.observe(R::Refused, at(60)), None);
    assert_eq!(fsm.observe(R::Refused, at(61)), None);
    let end = fsm.observe(R::Refused, at(62)).expect("the third that counts");
    assert_eq!((end.from, end.to, end.why), (Starting, Dead, Why::Failed(3, R::Refused)));
    assert_eq!((fsm.since(), fsm.why()), (at(62), Some(Why::Failed(3, R::Refused))));
}

#[test]
fn a_good_check_ends_the_grace() {
    let mut fsm = Fsm::new(RULES, Duration::ZERO);
    let mut now = Duration::ZERO;
    assert_eq!(play(&mut fsm, &mut now, "torrr"), "sHHHD", "all within 60 s");
}

#[test]
fn silence_is_dead_at_dead_after_and_not_before_fall() {
    let second = Duration::from_secs(1);
    let rules = Rules { dead_after: 5 * second, ..RULES };
    let (mut fsm, start) = reached(Healthy);
    fsm.set_rules(rules);
    let states: String = (1..=7)
        .map(|s| {
            let _ = fsm.observe(R::ConnectTimeout, start + s * second);
            letter(fsm.state())
        })
        .collect();
    assert_eq!(states, "HHuuuDD");
    assert_eq!(fsm.why(), Some(Why::NoConnection(5 * second, R::ConnectTimeout)));

    let (mut fsm, mut now) = reached(Healthy);
    fsm.set_rules(Rules { dead_after: Duration::ZERO, ..RULES });
    assert_eq!(play(&mut fsm, &mut now, "ccc"), "HHD");
    let (mut fsm, mut now) = reached(Healthy);
    fsm.set_rules(Rules { dead_after: Duration::ZERO, ..RULES });
    assert_eq!(play(&mut fsm, &mut now, "tttt"), "HHuu", "slow answers are never dead");
}

#[test]
fn zero_means_one() {
    let mut fsm = Fsm::new(Rules { rise: 0, fall: 0, ..RULES }, Duration::ZERO);
    let mut now = RULES.grace;
    assert_eq!(play(&mut fsm, &mut now, "tor"), "uHD");
}

#[test]
fn names_are_distinct_and_complete() {
    for (_, result) in RESULTS {
        assert!(R::NAMES.contains(&result.name()), "{result}");
    }
    let distinct: std::collections::BTreeSet<_> = RESULTS.iter().map(|(_, r)| r.name()).collect();
    assert_eq!(distinct.len(), R::NAMES.len());
}

/// The rules again, from the whole history and without counters.
fn naive(history: &[(CheckResult, Duration)], rules: Rules, before: HealthState) -> HealthState {
    let evidence: Vec<_> = history.iter().filter(|(r, _)| !matches!(r, R::Local(_))).copied().collect();
    let Some(&(last, now)) = evidence.last() else { return before };
    let row = |is: &dyn Fn(CheckResult) -> bool| -> Vec<Duration> {
        evidence.iter().rev().take_while(|(r, _)| is(*r)).map(|(_, at)| *at).collect()
    };
    let (rise, fall) = (rules.rise.max(1) as usize, rules.fall.max(1) as usize);
    let silence = row(&|r| matches!(r, R::Refused | R::Unreachable | R::ConnectTimeout));
    let silent_for = silence.last().map(|first| now - *first);
    let dead = row(&|r| matches!(r, R::Refused | R::Unreachable)).len() >= fall
        || row(&|r| r != R::Ok).len() >= fall && silent_for.is_some_and(|t| t >= rules.dead_after);
    let suspect = row(&|r| r != R::Ok).len() >= fall;
    let healthy = last == R::Ok && (before == Starting || row(&|r| r == R::Ok).len() >= rise);
    match before {
        _ if healthy => Healthy,
        Dead => Dead,
        Starting | Healthy | Suspect if dead => Dead,
        Starting | Healthy | Suspect if suspect => Suspect,
        Starting | Healthy | Suspect => before,
    }
}

fn any_result() -> impl Strategy<Value = CheckResult> {
    prop_oneof![
        4 => Just(R::Ok),
        4 => Just(R::Refused),
        2 => Just(R::Unreachable),
        4 => Just(R::ConnectTimeout),
        3 => Just(R::Timeout),
        2 => any::<u16>().prop_map(|s| R::BadAnswer(BadAnswer::Status(s))),
        1 => any::<i32>().prop_map(R::Local),
    ]
}

fn any_sighting() -> impl Strategy<Value = Sighting> {
    prop_oneof![
        any::<u32>().prop_map(Sighting::Refused),
        any::<u32>().prop_map(Sighting::Unanswered),
        (any::<u64>(), any::<u64>()).prop_map(|(n, t)| Sighting::Resets(n, Duration::from_nanos(t))),
        any::<u64>().prop_map(|t| Sighting::OldestWaiting(Duration::from_nanos(t))),
    ]
}

proptest! {
    /// Checks and signals in any order, and any clock: no panic; a signal makes nobody healthy or dead, and does nothing to one that
    /// is starting or dead.
    #[test]
    fn signals_make_suspect_and_nothing_else(
        rise in any::<u32>(), fall in any::<u32>(), grace in any::<u64>(),
        events in prop::collection::vec((prop::option::of(any_result()), any_sighting(), any::<u64>()), 0..200),
    ) {
        let grace = Duration::from_nanos(grace);
        let mut fsm = Fsm::new(Rules { rise, fall, grace, dead_after: grace }, Duration::ZERO);
        for (check, sighting, at) in events {
            let (before, copy, at) = (fsm.state(), fsm.clone(), Duration::from_nanos(at));
            if let Some(result) = check {
                let _ = fsm.observe(result, at);
                continue;
            }
            let change = fsm.suspect(sighting, at);
            prop_assert_eq!(change.is_some(), before == Healthy);
            match before {
                Healthy | Suspect => prop_assert_eq!(fsm.state(), Suspect),
                Starting | Dead => prop_assert_eq!(&fsm, &copy),
            }
        }
    }

    /// Any rules, any results, and a clock that may even stand still or run back.
    #[test]
    fn never_panics_and_says_what_it_does(
        rise in any::<u32>(), fall in any::<u32>(), grace in any::<u64>(), dead in any::<u64>(),
        checks in prop::collection::vec((any_result(), any::<u64>()), 0..200),
    ) {
        let rules = Rules {
            rise, fall, grace: Duration::from_nanos(grace), dead_after: Duration::from_nanos(dead),
        };
        let mut fsm = Fsm::new(rules, Duration::from_nanos(grace / 2));
        for (result, at) in checks {
            let before = fsm.state();
            match fsm.observe(result, Duration::from_nanos(at)) {
                Some(t) => {
                    prop_assert_eq!((t.from, t.to), (before, fsm.state()));
                    prop_assert_ne!(t.from, t.to);
                    prop_assert!(!t.why.to_string().is_empty());
                }
                None => prop_assert_eq!(before, fsm.state()),
            }
        }
    }

    /// The counters decide as a look at the whole history does.
    #[test]
    fn counting_is_consecutive(
        rise in 0_u32..5, fall in 0_u32..5, dead in 0_u64..10,
        checks in prop::collection::vec((any_result(), 0_u64..4), 0..100),
    ) {
        let rules = Rules { rise, fall, grace: Duration::ZERO, dead_after: Duration::from_secs(dead) };
        let mut fsm = Fsm::new(rules, Duration::ZERO);
        let (mut history, mut now) = (Vec::new(), Duration::ZERO);
        for (result, gap) in checks {
            now += Duration::from_secs(gap);
            history.push((result, now));
            let before = fsm.state();
            let _ = fsm.observe(result, now);
            let expected = if matches!(result, R::Local(_)) { before } else { naive(&history, rules, before) };
            prop_assert_eq!(fsm.state(), expected, "{:?}", history);
        }
    }
}
