//! Waits for the moment of a backend's next check.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::fsm::CheckResult;
use super::schedule::Schedule;
use crate::model::HealthSpec;

/// A check that somebody wants at once is not made sooner than this after the start of the one before.
pub(super) const SOONEST: Duration = Duration::from_millis(500);

/// From start to start of the checks that follow one that was wanted at once, while they fail; or the interval when that is
/// shorter.
pub(super) const QUICK: Duration = Duration::from_secs(1);

/// One backend's checks in time.
#[derive(Debug)]
pub(super) struct Pace {
    schedule: Schedule,
    hurry: Arc<Notify>,
    interval: Duration,
    fall: u32,
    /// When the last check started; before the first, when the backend was added.
    start: Instant,
    /// How many checks are still to be made quickly.
    quick: u32,
}

impl Pace {
    /// From now on; `hurry` tells when a check is due at once.
    pub(super) fn new(spec: &HealthSpec, hurry: Arc<Notify>) -> Self {
        Self {
            schedule: Schedule::new(spec.interval),
            hurry,
            interval: spec.interval,
            fall: spec.fall.max(1),
            start: Instant::now(),
            quick: 0,
        }
    }

    /// Returns when the next check is to start.
    pub(super) async fn next(&mut self) {
        // From start to start; a check that took longer than the interval is followed at once.
        let gap = self.schedule.next_gap();
        let mut due = self.after(gap);
        if self.quick > 0 {
            due = due.min(self.after(QUICK.min(self.interval)));
        }
        tokio::select! {
            () = sleep_until(due) => {}
            () = self.hurry.notified(), if self.quick == 0 => {
                self.quick = self.fall;
                due = due.min(self.after(SOONEST));
                sleep_until(due).await;
            }
        }
        self.start = due;
    }

    fn after(&self, gap: Duration) -> Instant {
        (self.start + gap).max(Instant::now())
    }

    /// A check ended like this. Quick ones end with a good one, or when they are enough to decide.
    pub(super) fn made(&mut self, result: CheckResult) {
        self.quick = if result == CheckResult::Ok { 0 } else { self.quick.saturating_sub(1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PassiveSpec, ProbeKind};

    const SECOND: Duration = Duration::from_secs(1);

    fn pace(interval: Duration) -> (Pace, Arc<Notify>) {
        let spec = HealthSpec {
            probe: ProbeKind::Tcp,
            interval,
            timeout: SECOND,
            rise: 2,
            fall: 3,
            grace: SECOND,
            dead_after: SECOND,
            passive: PassiveSpec::default(),
        };
        let hurry = Arc::new(Notify::new());
        (Pace::new(&spec, hurry.clone()), hurry)
    }

    /// When the next checks start that end like this, in milliseconds from now.
    async fn starts(pace: &mut Pace, results: &[CheckResult]) -> Vec<u128> {
        let begin = Instant::now();
        let mut starts = Vec::new();
        for result in results {
            pace.next().await;
            pace.made(*result);
            starts.push(begin.elapsed().as_millis());
        }
        starts
    }

    /// The clock of tokio's tests goes by milliseconds.
    fn near(seen: u128, wanted: u128) -> bool {
        (wanted..=wanted + 2).contains(&seen)
    }

    #[tokio::test(start_paused = true)]
    async fn wanted_at_once_a_check_starts_at_once_and_the_next_ones_soon() {
        let (mut pace, hurry) = pace(20 * SECOND);
        starts(&mut pace, &[CheckResult::Ok; 3]).await;
        tokio::time::sleep(5 * SECOND).await;
        hurry.notify_one();
        let seen = starts(&mut pace, &[CheckResult::Refused; 4]).await;
        assert!(near(seen[0], 0) && near(seen[1], 1000) && near(seen[2], 2000), "{seen:?}");
        assert!(seen[3] >= 2000 + 18_000, "the third decides: {seen:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_good_check_ends_the_hurry() {
        let (mut pace, hurry) = pace(20 * SECOND);
        starts(&mut pace, &[CheckResult::Ok; 3]).await;
        tokio::time::sleep(SECOND).await;
        hurry.notify_one();
        let seen = starts(&mut pace, &[CheckResult::Refused, CheckResult::Ok, CheckResult::Ok]).await;
        assert!(near(seen[0], 0) && near(seen[1], 1000), "{seen:?}");
        assert!(seen[2] >= 1000 + 18_000, "{seen:?}");
    }

    /// Whoever cries all the time gets two checks a second.
    #[tokio::test(start_paused = true)]
    async fn good_checks_that_are_wanted_at_once_are_no_storm() {
        let (mut pace, hurry) = pace(20 * SECOND);
        starts(&mut pace, &[CheckResult::Ok; 3]).await;
        let begin = Instant::now();
        for _ in 0..20 {
            hurry.notify_one();
            starts(&mut pace, &[CheckResult::Ok]).await;
        }
        assert!(begin.elapsed() >= 20 * SOONEST, "{:?}", begin.elapsed());
    }

    /// An interval that is short is never lengthened.
    #[tokio::test(start_paused = true)]
    async fn a_short_interval_stays() {
        let (mut pace, hurry) = pace(SECOND / 5);
        starts(&mut pace, &[CheckResult::Ok; 3]).await;
        hurry.notify_one();
        let seen = starts(&mut pace, &[CheckResult::Refused; 4]).await;
        assert!(seen[3] <= 4 * 222, "{seen:?}");
    }
}
