//! When to ask the kernel to look up or to check a neighbour.
//!
//! The kernel resolves a neighbour when it sends to it, and forgets it when it does not. Packets that XDP forwards
//! are none of the kernel's business, so somebody has to ask in their stead.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::net::resolve::{NeighbourKey, NeighbourState};

/// Pause before the same neighbour is asked for again: one round of the kernel is three solicitations a second
/// apart, and a round that is under way should end before the next.
pub const ASK_AGAIN: Duration = Duration::from_secs(4);

/// What to ask of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Find the MAC: nothing usable is known.
    Resolve,
    /// Check the MAC by a unicast solicitation: it has not been confirmed for a while.
    Probe,
}

/// Who was asked for, and when.
#[derive(Debug, Default)]
pub struct Warm {
    asked: BTreeMap<NeighbourKey, Instant>,
}

impl Warm {
    /// What to ask now for the neighbours that next hops depend on. All others are forgotten.
    pub fn due(
        &mut self,
        needed: &BTreeMap<NeighbourKey, NeighbourState>,
        now: Instant,
    ) -> Vec<(NeighbourKey, Ask)> {
        self.asked.retain(|key, _| needed.get(key).is_some_and(|state| ask_for(*state).is_some()));
        let mut due = Vec::new();
        for (key, state) in needed {
            let Some(ask) = ask_for(*state) else { continue };
            let waiting =
                self.asked.get(key).is_some_and(|at| now.saturating_duration_since(*at) < ASK_AGAIN);
            if !waiting {
                self.asked.insert(*key, now);
                due.push((*key, ask));
            }
        }
        due
    }
}

fn ask_for(state: NeighbourState) -> Option<Ask> {
    match state {
        NeighbourState::Valid => None,
        NeighbourState::Stale => Some(Ask::Probe),
        NeighbourState::Unresolved => Some(Ask::Resolve),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_once_a_round() {
        let key = |n: u8| (2, [10, 0, 0, n].into());
        let mut warm = Warm::default();
        let start = Instant::now();
        let mut needed: BTreeMap<_, _> = [
            (key(1), NeighbourState::Unresolved),
            (key(2), NeighbourState::Stale),
            (key(3), NeighbourState::Valid),
        ]
        .into();
        let both = [(key(1), Ask::Resolve), (key(2), Ask::Probe)];
        assert_eq!(warm.due(&needed, start), both);
        assert_eq!(warm.due(&needed, start + ASK_AGAIN - Duration::from_millis(1)), []);
        assert_eq!(warm.due(&needed, start + ASK_AGAIN), both);

        // One that answered is asked for at once when it is needed again; so is one that came back.
        let soon = start + ASK_AGAIN + Duration::from_millis(1);
        needed.insert(key(2), NeighbourState::Valid);
        needed.remove(&key(1));
        assert_eq!(warm.due(&needed, soon), []);
        needed.insert(key(2), NeighbourState::Unresolved);
        needed.insert(key(1), NeighbourState::Unresolved);
        assert_eq!(warm.due(&needed, soon), [(key(1), Ask::Resolve), (key(2), Ask::Resolve)]);
    }
}
