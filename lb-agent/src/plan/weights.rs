//! Weights as they count now: that of a newcomer grows in steps.

use std::time::Duration;

use crate::model::ServiceSpec;

use super::Inputs;

/// A newcomer begins with one in this many parts of its weight, and gets one more at each step.
pub const PARTS: u8 = 10;

/// The weights of a service's backends, in the order of its specification.
pub(super) struct Weights {
    /// As they count now: for each other as they are, and where that takes a finer unit all of them in that.
    pub(super) now: Vec<u16>,
    /// How many parts of its own weight each one has.
    pub(super) parts: Vec<u8>,
    /// When the next step is due, on the clock of [`Inputs::now`].
    pub(super) due: Option<Duration>,
}

/// The weights at [`Inputs::now`].
pub(super) fn weights(inputs: &Inputs<'_>, spec: &ServiceSpec) -> Weights {
    let period = spec.policy.slow_start;
    let steps = spec.backends.iter().map(|backend| {
        let risen = *inputs.risen.get(&spec.backend_key(backend))?;
        step(inputs.now, risen, period)
    });
    let steps: Vec<Option<(u8, Duration)>> = steps.collect();
    let parts: Vec<u8> = steps.iter().map(|step| step.map_or(PARTS, |(parts, _)| parts)).collect();
    let own: Vec<u16> = spec.backends.iter().map(|b| b.weight.max(1)).collect();
    let factor = factor(&own, &parts);
    let share = |(&weight, &parts): (&u16, &u8)| share(u32::from(weight) * factor, parts);
    let now = own.iter().zip(&parts).map(share).collect();
    Weights { now, parts, due: steps.iter().flatten().map(|(_, due)| *due).min() }
}

/// How many parts of its weight a backend has that is usable since `risen`, and when it gets the next; `None` when it
/// has all. The last step is `period` after it rose.
fn step(now: Duration, risen: Duration, period: Duration) -> Option<(u8, Duration)> {
    let steps = u128::from(PARTS) - 1;
    let (passed, period) = (now.saturating_sub(risen).as_nanos(), period.as_nanos());
    if passed >= period {
        return None;
    }
    let done = passed * steps / period;
    let due = (period * (done + 1)).div_ceil(steps);
    let due = risen.saturating_add(Duration::from_nanos(u64::try_from(due).unwrap_or(u64::MAX)));
    Some((u8::try_from(done + 1).unwrap_or(PARTS), due))
}

/// What all weights are multiplied by, so that the parts of small ones are whole numbers: 1 in most cases. Less where the
/// largest would not fit any more; next to such a one a rounded part is next to nothing.
fn factor(own: &[u16], parts: &[u8]) -> u32 {
    let is_any_rising = |is: fn(u16) -> bool| own.iter().zip(parts).any(|(&w, &p)| p < PARTS && is(w));
    let halves = if is_any_rising(|w| w % 2 != 0) { 2 } else { 1 };
    let fifths = if is_any_rising(|w| w % 5 != 0) { 5 } else { 1 };
    let largest = own.iter().copied().max().unwrap_or(1).max(1);
    (halves * fifths).min(u32::from(u16::MAX / largest))
}

/// So many parts of a weight, rounded, and at least 1.
fn share(weight: u32, parts: u8) -> u16 {
    let all = u32::from(PARTS);
    u16::try_from((weight * u32::from(parts) + all / 2) / all).unwrap_or(u16::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn ten_parts_over_the_period() {
        let at = |now| step(10 * S + now, 10 * S, 9 * S);
        assert_eq!(at(Duration::ZERO), Some((1, 11 * S)));
        assert_eq!(at(S - Duration::from_nanos(1)), Some((1, 11 * S)));
        assert_eq!(at(S), Some((2, 12 * S)));
        assert_eq!(at(8 * S), Some((9, 19 * S)));
        assert_eq!(at(9 * S), None, "all of it after the period");
        assert_eq!(step(5 * S, 10 * S, 9 * S), Some((1, 11 * S)), "a clock that went back");
        assert_eq!(step(10 * S, 10 * S, Duration::ZERO), None, "off");
    }

    #[test]
    fn small_weights_get_a_finer_unit() {
        let cases: [(&[u16], &[u8], u32); 9] = [
            (&[100, 100], &[1, 10], 1),
            (&[1, 3], &[10, 10], 1),
            (&[1, 3], &[10, 1], 10),
            (&[5, 3], &[1, 10], 2),
            (&[4, 3], &[1, 10], 5),
            (&[4, 5], &[1, 1], 10),
            (&[20, 5, 15], &[1, 1, 1], 2),
            (&[1, 10_000], &[1, 10], 6),
            (&[1, u16::MAX], &[1, 10], 1),
        ];
        for (own, parts, want) in cases {
            assert_eq!(factor(own, parts), want, "{own:?} {parts:?}");
        }
    }

    proptest! {
        /// Steps follow each other to the end, each where the one before said, and time alone brings no other.
        #[test]
        fn steps_are_where_they_were_announced(risen in 0u64..1 << 50, period in 1u64..1 << 45, early in 1u64..1000) {
            let (risen, period) = (Duration::from_nanos(risen), Duration::from_nanos(period));
            let mut now = risen;
            let mut seen = 0;
            while let Some((parts, due)) = step(now, risen, period) {
                prop_assert!(parts > seen && parts < PARTS && due > now);
                let before = due.saturating_sub(Duration::from_nanos(early)).max(now);
                prop_assert_eq!(step(before, risen, period), Some((parts, due)));
                (now, seen) = (due, parts);
            }
            prop_assert!(now >= risen + period && now <= risen + period + Duration::from_nanos(1));
        }

        /// Whatever the unit, weights are to each other as their parts say, as exactly as the largest leaves room for.
        #[test]
        fn parts_are_in_proportion(backends in prop::collection::vec((1u16..=u16::MAX, 1u8..=PARTS), 1..8), small: bool) {
            let small = |w: u16| if small { w % 200 + 1 } else { w };
            let (own, parts): (Vec<u16>, Vec<u8>) = backends.into_iter().map(|(w, p)| (small(w), p)).unzip();
            let factor = factor(&own, &parts);
            for (&weight, &parts) in own.iter().zip(&parts) {
                let want = f64::from(weight) * f64::from(factor) * f64::from(parts) / f64::from(PARTS);
                let got = f64::from(share(u32::from(weight) * factor, parts));
                prop_assert!((got - want).abs() <= 0.5 || got == 1.0, "{weight} × {factor} × {parts}: {got}");
                prop_assert!(want <= f64::from(u16::MAX));
            }
        }
    }
}
