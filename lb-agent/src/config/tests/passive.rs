//! `[service.health.passive]`.

use super::*;

/// What a service with these lines in its section has.
fn passive(lines: &str) -> PassiveSpec {
    let text = with(&[(10, &format!("[service.health.passive]\n{lines}"))]);
    let config = parse("lb.toml", &text).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.services[1].health.passive, PassiveSpec::default(), "the other service's");
    config.services[0].health.passive
}

#[test]
fn defaults_let_a_query_take_its_time() {
    let spec = PassiveSpec {
        check_after: 3,
        refused: 5,
        unanswered: 5,
        resets: 10,
        resets_within: Duration::from_secs(30),
        oldest_waiting: Duration::ZERO,
    };
    assert_eq!(passive(""), spec);
    assert!(spec.watches_counters() && !spec.watches_waiting());
}

#[test]
fn values() {
    let spec = PassiveSpec {
        check_after: 1,
        refused: 10_000,
        unanswered: 7,
        resets: 2,
        resets_within: Duration::from_secs(3600),
        oldest_waiting: Duration::from_secs(1800),
    };
    let lines = "check_after = 1\nrefused = 10000\nunanswered = 7\nresets = 2\nresets_within = \"1h\"\noldest_waiting = \"30m\"";
    assert_eq!(passive(lines), spec);
    assert!(spec.watches_waiting());
}

/// Each signal has a switch of its own.
#[test]
fn zero_is_off() {
    let off = "check_after = 0\nrefused = 0\nunanswered = 0\nresets = 0\noldest_waiting = \"0s\"";
    assert_eq!(passive(off), PassiveSpec::OFF);
    assert!(!PassiveSpec::OFF.watches_counters() && !PassiveSpec::OFF.watches_waiting());
    let default = PassiveSpec::default();
    for (line, spec) in [
        ("check_after = 0", PassiveSpec { check_after: 0, ..default }),
        ("refused = 0", PassiveSpec { refused: 0, ..default }),
        ("unanswered = 0", PassiveSpec { unanswered: 0, ..default }),
        ("resets = 0", PassiveSpec { resets: 0, ..default }),
    ] {
        assert_eq!(passive(line), spec);
    }
}

#[test]
fn every_error_at_once() {
    let lines = "[service.health.passive]\ncheck_after = -1\nrefused = 10001\nunanswered = \"5\"\nresets = 1.5\nresets_within = \"0s\"\noldest_waiting = \"25h\"\nresets_in = 3";
    let key = "service[0].health.passive";
    let count = "a whole number of 0 to 10000";
    assert_eq!(
        errors(&with(&[(10, lines)])),
        [
            format!("11: {key}.check_after: -1 is out of range; give {count}"),
            format!("12: {key}.refused: 10001 is out of range; give {count}"),
            format!("13: {key}.unanswered: is a string; give {count}"),
            format!("14: {key}.resets: is a float; give {count}"),
            format!(
                "15: {key}.resets_within: \"0s\" is out of range; give a duration of 1s to 1h, as \"2s\" or \"1m 30s\""
            ),
            format!(
                "16: {key}.oldest_waiting: \"25h\" is out of range; give a duration of 0s to 1day, as \"2s\" or \"1m 30s\""
            ),
            format!("17: {key}.resets_in: unknown key; did you mean resets?"),
        ]
    );
    let not_a_table = errors(&with(&[(10, "passive = false")]));
    assert_eq!(not_a_table, [format!("10: {key}: is a boolean; give a table")]);
}
