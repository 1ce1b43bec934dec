//! When a backend's next check starts. Pure, but for the seed.
#![forbid(unsafe_code)]

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// All first checks start within this time, or within the interval when that is shorter.
pub(super) const FIRST_SPREAD: Duration = Duration::from_millis(100);

/// A shorter interval is taken for this one: the agent must not spin.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

/// The times of one backend's checks, from start to start.
///
/// The first comes almost at once, so that a restarted agent soon knows its backends. The second comes after a
/// random part of the interval, which spreads the checks of all backends over it; every later one after
/// the interval ± 10 %, so that they never fall into step, also not with those of other nodes.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    interval: Duration,
    random: u64,
    made: u64,
}

impl Schedule {
    /// With a seed that no other schedule has.
    pub(super) fn new(interval: Duration) -> Self {
        Self::with_seed(interval, RandomState::new().hash_one(0))
    }

    fn with_seed(interval: Duration, seed: u64) -> Self {
        Self { interval: interval.max(MIN_INTERVAL), random: seed, made: 0 }
    }

    /// From the start of the last check (or from now, for the first) to the start of the next.
    pub(super) fn next_gap(&mut self) -> Duration {
        let part = self.uniform();
        self.made = self.made.saturating_add(1);
        match self.made {
            1 => FIRST_SPREAD.min(self.interval).mul_f64(part),
            2 => self.interval.mul_f64(part),
            _ => self.interval.mul_f64(0.9 + 0.2 * part),
        }
    }

    /// The next number of 0 to 1 (SplitMix64).
    fn uniform(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.random;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        f64::from((x >> 32) as u32) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn gaps_stay_in_their_bounds_and_differ() {
        let mut seconds = Vec::new();
        for seed in 0..1000 {
            let mut schedule = Schedule::with_seed(SECOND, seed);
            assert!(schedule.next_gap() <= FIRST_SPREAD);
            let second = schedule.next_gap();
            assert!(second <= SECOND);
            seconds.push(second);
            for _ in 0..5 {
                let gap = schedule.next_gap().as_secs_f64();
                assert!((0.9..=1.1).contains(&gap), "{gap}");
            }
        }
        for tenth in 0..10 {
            let in_it = seconds.iter().filter(|s| s.as_millis() / 100 == tenth).count();
            assert!((60..=140).contains(&in_it), "{in_it} of 1000 second checks in tenth {tenth}");
        }
    }

    #[test]
    fn schedules_do_not_share_a_seed() {
        let gap = || Schedule::new(SECOND).next_gap();
        assert!((0..20).any(|_| gap() != gap()));
    }

    #[test]
    fn never_spins() {
        let mut schedule = Schedule::new(Duration::ZERO);
        let total: Duration = (0..102).map(|_| schedule.next_gap()).sum();
        assert!(total >= Duration::from_millis(900));
    }
}
