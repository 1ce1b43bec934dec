//! What holds after every reload: it has led where a fresh start would, and what was known of those that stay is kept.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use lb_common::addr::Addr;
use lb_common::backend::Backend;
use lb_common::service::{Service, ServiceKey};
use proptest::prelude::*;

use super::*;
use crate::admin::command::{Change, ask};
use crate::agent::testing::{hops, node};
use crate::agent::world::{World, node_facts};
use crate::dataplane::{RingKey, Tables};
use crate::health::fsm::{Transition, Why};
use crate::model::{DrainSpec, HealthState, Policy, Scheduler};
use crate::plan::{self, Plan};

/// What happens to an agent that runs.
#[derive(Clone, Debug)]
enum Step {
    /// Another configuration.
    Reload(Vec<ServiceSpec>, Option<&'static str>),
    /// One that is broken, or needs a restart.
    Refused(bool),
    /// The servers at these last bytes of an address answer like that from now on.
    Servers(Vec<(u8, usize)>),
    /// Somebody drains the backend at this place, if it is there.
    Drain(usize, usize),
}

const RESULTS: [CheckResult; 3] = [CheckResult::Ok, CheckResult::Timeout, CheckResult::Refused];

/// Whether it is there; whether it has its other name, and its other address; weight, priority, and whether it is near.
type Drawn = (bool, (bool, bool), u16, u8, bool);

/// A backend is at one of two addresses, under one of two names.
fn backends() -> impl Strategy<Value = Vec<BackendSpec>> {
    let one = (prop::bool::weighted(0.7), any::<(bool, bool)>(), 1u16..4, 0u8..2, any::<bool>());
    prop::collection::vec(one, 4).prop_map(|drawn: Vec<Drawn>| {
        let numbered = (0u8..).zip(drawn).filter(|(_, (is_there, ..))| *is_there);
        let backend = |(n, (_, (other, moved), weight, priority, near)): (u8, Drawn)| {
            let name = if other { format!("other-{n}") } else { format!("superset-{n}") };
            let address = SocketAddr::from(([10, 77, 0, 10 + 2 * n + u8::from(moved)], 8088));
            let zone = near.then(|| "here".to_owned());
            BackendSpec { weight, priority, zone, ..BackendSpec::new(name, address) }
        };
        numbered.map(backend).collect()
    })
}

fn services() -> impl Strategy<Value = Vec<ServiceSpec>> {
    let scheduler =
        prop::sample::select(vec![Scheduler::LeastWaiting, Scheduler::RoundRobin, Scheduler::Maglev]);
    let rest = (scheduler, prop::sample::select(vec![0u8, 50]), any::<bool>());
    let one = (prop::bool::weighted(0.7), any::<(bool, bool)>(), backends(), rest);
    prop::collection::vec(one, 2).prop_map(|drawn| {
        let numbered = (0u8..).zip(drawn).filter(|(_, (is_there, ..))| *is_there);
        let service = |(n, (_, (other, moved), backends, (scheduler, min_healthy, requests)))| {
            let n: u8 = n;
            let other: bool = other;
            let name = if other { format!("web-{n}") } else { format!("superset-{n}") };
            let vip = SocketAddr::from(([10, 77, 0, 100 + 2 * n + u8::from(moved)], 80));
            let policy = Policy { min_healthy, ..Policy::default() };
            let mut service = ServiceSpec { name, vip, scheduler, policy, requests, backends, ..service(0) };
            service.health.grace = Duration::ZERO;
            service
        };
        numbered.map(service).collect()
    })
}

fn step() -> impl Strategy<Value = Step> {
    let zone = prop::sample::select(vec![None, Some("here")]);
    prop_oneof![
        4 => (services(), zone).prop_map(|(services, zone)| Step::Reload(services, zone)),
        1 => any::<bool>().prop_map(Step::Refused),
        2 => prop::collection::vec((10u8..18, 0usize..3), 1..4).prop_map(Step::Servers),
        1 => (0usize..2, 0usize..4).prop_map(|(service, backend)| Step::Drain(service, backend)),
    ]
}

/// What tables mean, without ids and generations.
#[derive(Debug, PartialEq)]
struct Meaning {
    services: BTreeMap<ServiceKey, (Service, Vec<(bool, u64)>)>,
    backends: BTreeMap<(ServiceKey, Addr), Backend>,
    others: Tables,
}

fn meaning(tables: &Tables) -> Meaning {
    let key = |id: u16| tables.service_ids.iter().find(|(_, of)| **of == id).map(|(key, _)| *key);
    let of = |id: &u16| tables.backends.get(id).map(|b| b.addr);
    let ring = |at: RingKey| {
        let ring = tables.rings.get(&at)?;
        let mut hasher = DefaultHasher::new();
        ring.entries().iter().map(of).for_each(|a| a.hash(&mut hasher));
        Some((at == RingKey::All(at.service()), hasher.finish()))
    };
    let rings = |id| [RingKey::All(id), RingKey::Near(id)].into_iter().filter_map(ring).collect();
    let live = tables.backends.values().filter(|b| b.is_live());
    let backends =
        live.map(|b| ((key(b.service).unwrap(), b.addr), Backend { service: 0, generation: 0, ..*b }));
    let services = tables.services.iter().map(|(id, s)| (key(*id).unwrap(), (*s, rings(*id))));
    let others = Tables {
        node: tables.node,
        snat: tables.snat.clone(),
        vips: tables.vips.clone(),
        ..Tables::default()
    };
    Meaning { services: services.collect(), backends: backends.collect(), others }
}

/// What an agent would want that starts now with this configuration, and knows of its backends what this one does.
fn fresh(config: &Config, status: &Status) -> Meaning {
    let facts = node_facts(config, node().ports, node().hash_key);
    let now = Instant::now();
    let mut world = World::new(facts, config.services.clone(), now);
    world.set_hops(&hops(Some(2), &config.services));
    for (spec, service) in config.services.iter().zip(&status.services) {
        for (b, found) in spec.backends.iter().zip(&service.backends) {
            let (key, name) = (spec.backend_key(b), &found.health);
            let to = HealthState::ALL.into_iter().find(|state| state.name() == name).unwrap();
            let change =
                Transition { from: HealthState::Starting, to, why: Why::FirstGood, at: Duration::ZERO };
            assert!(world.change(&key, change, now));
            if found.drain.is_some() {
                world.drain(key, DrainSpec::default(), now);
            }
        }
    }
    meaning(&plan::plan(&world.inputs(now), &Plan::default()).unwrap().tables)
}

/// What is known of each backend, by who it is.
type Known = BTreeMap<(String, String, SocketAddr), (String, SystemTime, bool)>;

fn known(status: &Status) -> Known {
    let of = |s: &str, b: &BackendStatus| {
        ((s.to_owned(), b.name.clone(), b.address), (b.health.clone(), b.since, b.drain.is_some()))
    };
    status.services.iter().flat_map(|s| s.backends.iter().map(|b| of(&s.name, b))).collect()
}

/// Who stays has all that was known of it; who is new has nothing.
fn check_kept(before: &Known, after: &Known, at: SystemTime) -> Result<(), TestCaseError> {
    for (identity, now) in after {
        match before.get(identity) {
            Some(was) => prop_assert_eq!(now, was, "{:?}", identity),
            None => {
                prop_assert_eq!((now.0.as_str(), now.2), ("starting", false), "{:?}", identity);
                prop_assert!(now.1 >= at, "{:?}", identity);
            }
        }
    }
    Ok(())
}

/// Ids of flows' backends, by address: they stay whatever the names are.
fn ids(tables: &Tables) -> BTreeMap<(ServiceKey, Addr), (u16, u16)> {
    let key = |id: u16| tables.service_ids.iter().find(|(_, of)| **of == id).map(|(key, _)| *key);
    let live = tables.backends.iter().filter(|(_, b)| b.is_live());
    live.map(|(id, b)| ((key(b.service).unwrap(), b.addr), (*id, b.generation))).collect()
}

/// `start` is when the agent was started.
async fn reload(lab: &Lab, config: &Arc<Config>, start: Instant) -> Result<(), TestCaseError> {
    let (was, kernel) = (lab.published.borrow().status.clone(), lab.kernel.lock().maps.tables().clone());
    lab.hops.send_replace(hops(Some(2), &config.services).into());
    // By the clock of the test, which moves when it wants to.
    let at = was.started + start.elapsed();
    let report = lab.read(Ok(config.clone())).await;
    prop_assert_eq!(report.result, ReloadResult::Success);
    let now = lab.published.borrow().status.clone();
    check_kept(&known(&was), &known(&now), at)?;
    let identities: BTreeSet<_> = known(&now).into_keys().collect();
    prop_assert_eq!(identities.len(), config.services.iter().map(|s| s.backends.len()).sum::<usize>());
    // Nothing of a backend that stays is written anew, so that no flow of it moves.
    sleep(Duration::from_millis(90)).await;
    let (before, after) = (ids(&kernel), ids(lab.kernel.lock().maps.tables()));
    let moved = before.iter().filter(|(at, id)| after.get(at).is_some_and(|now| now != *id));
    prop_assert_eq!(moved.count(), 0);
    Ok(())
}

async fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let start = Instant::now();
    let (mut lab, results) = checked(2);
    ready(&mut lab).await;
    // Without slow start: that is of the past, and a fresh start has none.
    let mut current = config(vec![ServiceSpec { policy: Policy::default(), ..service(2) }]);
    reload(&lab, &current, start).await?;
    for step in steps {
        match step {
            Step::Reload(services, zone) => {
                let mut new = Config { services, ..Config::clone(&current) };
                new.agent.zone = zone.map(str::to_owned);
                current = Arc::new(new);
                reload(&lab, &current, start).await?;
            }
            Step::Refused(is_broken) => {
                let mut other = Config { services: vec![], ..Config::clone(&current) };
                other.nat.ports = (1024, 4095);
                let was = lab.published.borrow().status.clone();
                let read = if is_broken { Err(vec!["broken".to_owned()]) } else { Ok(Arc::new(other)) };
                prop_assert_ne!(lab.read(read).await.result, ReloadResult::Success);
                prop_assert_eq!(&lab.published.borrow().status.services, &was.services);
            }
            Step::Servers(found) => {
                let found =
                    found.iter().map(|&(n, i)| (SocketAddr::from(([10, 77, 0, n], 8088)), RESULTS[i]));
                results.lock().unwrap().extend(found);
            }
            Step::Drain(service, backend) => {
                if let Some(s) = current.services.get(service)
                    && let Some(b) = s.backends.get(backend)
                {
                    let (service, backend) = (s.name.clone(), b.name.clone());
                    ask(&lab.commands, Change::Drain { service, backend, deadline: None }).await.unwrap();
                }
            }
        }
        // Long enough for some checks to decide, and not for all.
        sleep(Duration::from_secs(5)).await;
        let status = lab.until(|s| !s.dataplane.pending).await;
        let (published, kernel) = (lab.published.borrow().clone(), lab.kernel.lock().maps.tables().clone());
        prop_assert!(*published.desired == kernel && *published.actual == kernel);
        prop_assert_eq!(crate::dataplane::invariant::check(&kernel), Ok(()));
        prop_assert_eq!(meaning(&kernel), fresh(&current, &status));
        prop_assert_eq!((status.dataplane.drift, status.dataplane.errors), (0, 0));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_reload_leads_where_a_fresh_start_would(steps in prop::collection::vec(step(), 1..8)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(run(steps))?;
    }
}
