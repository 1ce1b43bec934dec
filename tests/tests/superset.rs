//! Real Supersets behind the balancer: what `cargo xtask superset prove` carries out in full, shorter.
#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::path::Path;
use std::time::Duration;

use lb_tests::proof::Report;
use lb_tests::superset::front::Front;
use lb_tests::superset::scenario::loss::{self, Loss};
use lb_tests::superset::scenario::{doctor, login, long_query, rolling};
use lb_tests::superset::{self, Place, REPLICAS, Stand};
use lb_tests::{privilege, require_agent};

/// Long enough to be silent for longer than any timer of a connection that is not ours, 30 s; short enough for a test.
const SILENCE: Duration = Duration::from_secs(40);
const QUERY: Duration = Duration::from_secs(8);

/// A stand; one that was up before stays up.
struct Up {
    stand: Stand,
    place: Place,
    was_up: bool,
}

impl Up {
    fn new() -> Self {
        let place = Place::find().unwrap();
        let was_up = Stand::find(&place).unwrap().is_some();
        Self { stand: superset::up(&place, REPLICAS).unwrap(), place, was_up }
    }

    fn holds(&mut self, report: impl FnOnce(&mut Stand) -> anyhow::Result<Report>) {
        self.stand.ensure().unwrap();
        let report = report(&mut self.stand).unwrap();
        assert_eq!(report.failure(), None, "{}", report.text());
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if !self.was_up {
            superset::down(&self.place, false).unwrap();
        }
    }
}

#[test]
fn users_do_not_notice_what_operators_do() {
    let name = "users_do_not_notice_what_operators_do";
    require_agent!(name);
    for program in ["/usr/lib/postgresql/15/bin/postgres", "/usr/bin/redis-server", "/usr/bin/python3.11"] {
        if !Path::new(program).exists() {
            return privilege::skipped(name, &format!("no {program}: \"cargo xtask setup --for superset\""));
        }
    }
    let place = Place::find().unwrap();
    let _lock = place.lock().unwrap();
    let mut up = Up::new();
    up.holds(|stand| login::prove(stand));
    up.holds(|stand| long_query::prove(stand, SILENCE));
    up.holds(|stand| loss::compare(stand, Loss::Kill, &[Front::Evenkeel]));
    up.holds(|stand| rolling::prove(stand, QUERY));
    up.holds(doctor::prove);
}
