//! Which backends are newcomers, whose share of new flows grows slowly.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::health::fsm::CheckResult;
use crate::model::{BackendKey, HealthState};

use super::world::Stay;

/// Remembers who works, so that it can be told who comes anew: a backend that was added, one that was dead, and one that
/// did not answer when the agent started. One that was merely suspect is none: it was busy, and is as warm as before.
#[derive(Clone, Debug)]
pub struct Newcomers {
    /// Backends that work, or did when last heard of.
    warm: BTreeSet<BackendKey>,
    risen: BTreeMap<BackendKey, Duration>,
}

impl Newcomers {
    /// Those that there are when the agent starts are taken to be at work already.
    #[must_use]
    pub fn new(present: impl IntoIterator<Item = BackendKey>) -> Self {
        Self { warm: present.into_iter().collect(), risen: BTreeMap::new() }
    }

    /// Since when each newcomer is usable, for the plan.
    #[must_use]
    pub const fn risen(&self) -> &BTreeMap<BackendKey, Duration> {
        &self.risen
    }

    /// There are other backends now: of those that stay everything is remembered, and the new ones come anew.
    pub fn reload(&mut self, stay: &Stay) {
        self.warm = stay.carry_set(&self.warm);
        self.risen = stay.carry(std::mem::take(&mut self.risen));
    }

    /// It is drained now. What matters at the end of the drain is whether it was restarted meanwhile.
    pub fn drained(&mut self, key: &BackendKey) {
        self.risen.remove(key);
    }

    /// It is not drained any more: if it was restarted, it is usable only from `now` on.
    pub fn undrained(&mut self, key: &BackendKey, now: Duration) {
        if let Some(risen) = self.risen.get_mut(key) {
            *risen = now;
        }
    }

    /// Takes a check that ended `now`: the state before it and after it.
    pub fn observe(
        &mut self,
        key: BackendKey,
        result: CheckResult,
        (before, after): (HealthState, HealthState),
        now: Duration,
    ) {
        let says_nothing = matches!(result, CheckResult::Ok | CheckResult::Local(_));
        let boots = before == HealthState::Starting && !says_nothing;
        if boots || after == HealthState::Dead {
            self.warm.remove(&key);
            self.risen.remove(&key);
        }
        if after == HealthState::Healthy && self.warm.insert(key) {
            self.risen.insert(key, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use lb_common::service::ServiceKey;

    use super::*;
    use CheckResult::{Local, Ok, Refused, Timeout};
    use HealthState::{Dead, Healthy, Starting, Suspect};

    fn key() -> BackendKey {
        let vip = std::net::Ipv4Addr::new(10, 77, 0, 100).into();
        BackendKey { service: ServiceKey::tcp(vip, 80), address: "10.77.0.11:8088".parse().unwrap() }
    }

    /// What it is about, whether it is there at the start, its checks, and when it rose.
    type Row<'a> = (&'a str, bool, &'a [(CheckResult, HealthState)], Option<u64>);

    /// When it rose after these checks, one a second, that led to these states; from `Starting`.
    fn risen(present: bool, checks: &[(CheckResult, HealthState)]) -> Option<u64> {
        let mut newcomers = Newcomers::new(present.then(key));
        let mut before = Starting;
        for (second, &(result, after)) in (1..).zip(checks) {
            newcomers.observe(key(), result, (before, after), Duration::from_secs(second));
            before = after;
        }
        newcomers.risen().get(&key()).map(Duration::as_secs)
    }

    #[test]
    fn who_is_a_newcomer() {
        let good = (Ok, Healthy);
        let cases: &[Row<'_>] = &[
            ("there at the start", true, &[good, good], None),
            ("added", false, &[good, good], Some(1)),
            ("boots at the start", true, &[(Refused, Starting), (Timeout, Starting), good], Some(3)),
            ("the node could not check", true, &[(Local(24), Starting), good], None),
            ("busy for a while", true, &[good, (Timeout, Suspect), good], None),
            ("dead", true, &[good, (Refused, Dead), (Refused, Dead), good], Some(4)),
            ("busy, then dead", true, &[good, (Timeout, Suspect), (Refused, Dead), good, good], Some(4)),
            ("busy while it rises", false, &[good, (Timeout, Suspect), good], Some(1)),
            ("dead while it rises", false, &[good, (Refused, Dead)], None),
            ("one bad check is nothing", true, &[good, (Timeout, Healthy), good], None),
        ];
        for (name, present, checks, want) in cases {
            assert_eq!(risen(*present, checks), *want, "{name}");
        }
    }

    /// A rolling update: drained, restarted, and back some time after it was healthy again.
    #[test]
    fn a_backend_that_was_restarted_while_it_was_drained_rises_when_it_is_back() {
        let s = Duration::from_secs;
        for (restarted, want) in [(true, Some(s(9))), (false, None)] {
            let mut newcomers = Newcomers::new([]);
            newcomers.observe(key(), Ok, (Starting, Healthy), s(1));
            newcomers.drained(&key());
            if restarted {
                newcomers.observe(key(), Refused, (Healthy, Dead), s(2));
                newcomers.observe(key(), Ok, (Dead, Healthy), s(3));
            }
            newcomers.undrained(&key(), s(9));
            assert_eq!(newcomers.risen().get(&key()).copied(), want);
        }
    }
}
