//! Who stands in a service's ring.

use std::collections::BTreeSet;

use crate::maglev::Member;
use crate::model::{HealthState, Policy};

/// Which backends a ring holds: the first of these that are any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The usable ones of the lowest priority number that has any: healthy, not draining, next hop known.
    Healthy,
    /// These, and beside them the suspect ones of the same number: what is usable is less than `min_healthy`.
    BelowFloor,
    /// There is no usable one. All that are not draining and whose next hop is known, whatever the checks say and
    /// whatever their priority.
    FailOpen,
    /// There is none such either. Draining ones whose next hop is known; those that are healthy, if any is.
    Draining,
    /// No next hop is known at all. All of them: packets are dropped and counted as `unresolved`.
    Unresolved,
    /// There is no backend. Packets are dropped and counted as `no-backend`.
    Empty,
}

impl Standing {
    /// Label in status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::BelowFloor => "below-floor",
            Self::FailOpen => "fail-open",
            Self::Draining => "draining",
            Self::Unresolved => "unresolved",
            Self::Empty => "empty",
        }
    }
}

/// A backend that may stand in the ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) member: Member,
    /// Configured weight.
    pub(super) weight: u16,
    pub(super) priority: u8,
    pub(super) health: HealthState,
    pub(super) draining: bool,
    pub(super) resolved: bool,
    /// New flows should rather go there than elsewhere.
    pub(super) near: bool,
}

/// Who was chosen.
pub(super) struct Chosen {
    pub(super) standing: Standing,
    /// The number whose backends these are; `None` when it was not asked for.
    pub(super) priority: Option<u8>,
    /// By id.
    pub(super) members: Vec<Member>,
    /// Those among them that are near, by id; empty when that makes no difference.
    pub(super) near: Vec<Member>,
}

impl Candidate {
    /// Whether new flows can and should go there.
    const fn is_usable(&self) -> bool {
        self.resolved && !self.draining && matches!(self.health, HealthState::Healthy)
    }

    /// Whether it may be used when there are too few others: something is there, and may be only busy.
    const fn is_last_resort(&self) -> bool {
        self.resolved && !self.draining && matches!(self.health, HealthState::Suspect)
    }
}

/// Chooses among a service's backends; see [`Standing`].
pub(super) fn choose(policy: &Policy, all: &[Candidate]) -> Chosen {
    let usable = all.iter().filter(|c| c.is_usable());
    if let Some(priority) = usable.map(|c| c.priority).min() {
        return by_priority(policy, all, priority);
    }
    let healthy = |c: &Candidate| c.health == HealthState::Healthy;
    of(all, Standing::FailOpen, |c| c.resolved && !c.draining)
        .or_else(|| of(all, Standing::Draining, |c| c.resolved && healthy(c)))
        .or_else(|| of(all, Standing::Draining, |c| c.resolved))
        .or_else(|| of(all, Standing::Unresolved, |_| true))
        .unwrap_or(Chosen {
            standing: Standing::Empty,
            priority: None,
            members: Vec::new(),
            near: Vec::new(),
        })
}

/// A preference for near ones needs a usable one, and others that it is preferred to.
fn near(level: &[Candidate], members: &[Member]) -> Vec<Member> {
    let ids: BTreeSet<u16> = level.iter().filter(|c| c.near).map(|c| c.member.id).collect();
    let near: Vec<Member> = members.iter().filter(|m| ids.contains(&m.id)).copied().collect();
    let usable = level.iter().any(|c| c.near && c.is_usable());
    if usable && near.len() < members.len() { near } else { Vec::new() }
}

/// Of those with this number the usable ones; when they are too few, those of the last resort as well.
fn by_priority(policy: &Policy, all: &[Candidate], priority: u8) -> Chosen {
    let level: Vec<Candidate> = all.iter().filter(|c| c.priority == priority).copied().collect();
    let below = is_below_floor(policy.min_healthy, &level) && level.iter().any(Candidate::is_last_resort);
    let standing = if below { Standing::BelowFloor } else { Standing::Healthy };
    let chosen = of(&level, standing, |c| c.is_usable() || (below && c.is_last_resort()));
    let members = chosen.map(|c| c.members).unwrap_or_default();
    Chosen { standing, priority: Some(priority), near: near(&level, &members), members }
}

/// Whether the usable ones have less than `percent` of the weight of all that are not draining.
fn is_below_floor(percent: u8, level: &[Candidate]) -> bool {
    let weight = |counts: &dyn Fn(&Candidate) -> bool| {
        level.iter().filter(|c| counts(c)).map(|c| u64::from(c.weight)).sum::<u64>()
    };
    weight(&Candidate::is_usable) * 100 < weight(&|c| !c.draining) * u64::from(percent)
}

/// Those that are wanted, if there are any.
fn of(all: &[Candidate], standing: Standing, wanted: impl Fn(&Candidate) -> bool) -> Option<Chosen> {
    let mut members: Vec<Member> = all.iter().filter(|c| wanted(c)).map(|c| c.member).collect();
    members.sort_by_key(|m| m.id);
    (!members.is_empty()).then_some(Chosen { standing, priority: None, members, near: Vec::new() })
}
