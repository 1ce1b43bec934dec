//! Valid and broken configurations by chance, one after another.

use std::time::{Duration, Instant};

use lb_agent::status::reload::ReloadResult;
use lb_tests::e2e::{Stand, service};
use lb_tests::lab::{Settings, backend_host};
use lb_tests::packet::world::Family;
use lb_tests::proof::draw::Dice;
use lb_tests::require_agent;

use super::{SERVICE, backends, drain, is_in_sync, load, reload, reloads, settings, stand, text};

/// A valid configuration without some of the backends, and with other numbers.
fn drawn(dice: &mut Dice, stand: &Stand, absent: &[u8]) -> String {
    let schedulers = ["least-waiting", "least-conn", "maglev", "round-robin"];
    let scheduler = schedulers[dice.below(4) as usize];
    let service = ["", "retries = 1\n", "requests = false\n", "min_healthy = \"50%\"\nslow_start = \"1s\"\n"];
    let service = format!("{SERVICE}{}", service[dice.below(4) as usize]);
    let agent = ["", "reset_rate = 500\n", "zone = \"a\"\n"][dice.below(3) as usize];
    let settings = Settings { scheduler, agent: agent.to_owned(), ..settings(absent) };
    let mut text = settings.text(stand.topology()).replace(SERVICE, &service);
    for n in 1..=stand.topology().backends {
        let name = format!("name = \"{}\"\n", backend_host(n));
        let more = ["", "weight = 7\n", "zone = \"a\"\n"][dice.below(3) as usize];
        text = text.replace(&name, &format!("{name}{more}"));
    }
    text
}

/// One that must be refused, and the status of the command for it.
fn broken(dice: &mut Dice, good: &str) -> (String, i32) {
    let nowhere = good.lines().filter(|line| !line.starts_with("vip = ")).collect::<Vec<_>>().join("\n");
    let kinds = [
        (good.replacen("[nat]", "[nat", 1), 2),
        (good.replacen("[nat]", "[nat]\nrest = \"soon\"", 1), 2),
        (good.replace("superset-v6", "superset-v4"), 2),
        (nowhere, 2),
        (String::new(), 2),
        (good.replacen("[nat]", "[nat]\nports = \"1024-9000\"", 1), 3),
        (good.replacen("xdp_mode = \"native\"", "xdp_mode = \"auto\"", 1), 3),
    ];
    let chosen = dice.below(7) as usize;
    kinds.into_iter().nth(chosen).unwrap()
}

/// Valid ones and broken ones, one after another; by command and by signal.
#[test]
fn fifty_reloads_under_load_lose_nothing() {
    const RELOADS: u32 = 50;
    require_agent!("fifty_reloads_under_load_lose_nothing");
    let stand = stand(4, &[]);
    let client = stand.client().unwrap();
    let loads = Family::BOTH.map(|family| load(&client, &stand, family));
    let mut kept = Family::BOTH.map(|family| stand.held(family, 1).unwrap());
    let seed = 20_261_121;
    let mut dice = Dice::new(seed);
    let mut absent: Vec<u8> = Vec::new();
    let (mut good, mut slowest) = (0, Duration::ZERO);
    for i in 0..RELOADS {
        let wanted: Vec<u8> = (2..=4).filter(|_| dice.one_in(3)).collect();
        let (config, code) = if dice.one_in(3) {
            let whole = text(&stand, &absent);
            broken(&mut dice, &whole)
        } else {
            for leaves in wanted.iter().filter(|n| !absent.contains(n)) {
                drain(&stand, *leaves);
            }
            absent = wanted;
            (drawn(&mut dice, &stand, &absent), 0)
        };
        good += u32::from(code == 0);
        stand.agent.write_config(&config).unwrap();
        let started = Instant::now();
        let (status, out, err) = reload(&stand);
        slowest = slowest.max(started.elapsed());
        assert_eq!(status, Some(code), "reload {i}, seed {seed}: {out}{err}\n{config}");
        is_in_sync(&stand);
        let here = (1..=4).filter(|n| !absent.contains(n)).map(backend_host);
        let here: Vec<String> = here.collect();
        let want: Vec<String> = Family::BOTH
            .iter()
            .flat_map(|f| here.iter().map(move |b| format!("{}/{b}", service(*f))))
            .collect();
        assert_eq!(backends(&stand), want, "reload {i}, seed {seed}");
        for kept in &mut kept {
            assert_eq!(kept.ask().unwrap(), backend_host(1), "reload {i}, seed {seed}");
        }
    }
    assert!((20..=45).contains(&good), "{good} good ones");
    assert_eq!(reloads(&stand, ReloadResult::Success), f64::from(good));
    for load in &loads {
        let report = load.report();
        assert!(report.failed.is_empty() && report.ok > 1000, "{report:?}");
    }
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    stand.check().unwrap();
}
