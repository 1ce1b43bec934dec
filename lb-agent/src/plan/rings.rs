//! Rings, made anew only when they must be.

use std::sync::Arc;

use lb_common::ring::Ring;

use crate::maglev::{Member, maglev, round_robin};
use crate::model::Scheduler;

/// Two rings of the same recipe are the same ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Round robin has a ring of its own kind; the others share one.
    pub scheduler: Scheduler,
    /// Who stands in the ring.
    pub members: Vec<Member>,
}

impl Recipe {
    /// The ring that stood there, when it was of the same recipe or turns out to be equal; a new one otherwise.
    ///
    /// A ring that was read back has no recipe: a crash may have left one that is older than its backends' weights.
    pub(super) fn ring(&self, recipe: Option<&Self>, before: Option<&Arc<Ring>>) -> Arc<Ring> {
        if let Some(ring) = before
            && recipe == Some(self)
        {
            return Arc::clone(ring);
        }
        let ring = match self.scheduler {
            Scheduler::RoundRobin => round_robin(&self.members),
            Scheduler::Maglev | Scheduler::LeastConn | Scheduler::LeastWaiting => maglev(&self.members),
        };
        before.filter(|old| **old == ring).map_or(ring, Arc::clone)
    }
}
