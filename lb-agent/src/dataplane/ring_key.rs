//! Which ring of which service.
#![forbid(unsafe_code)]

use std::fmt;

use lb_common::service::{MAX_SERVICES, near_ring};

/// A place in the map `RINGS`, by service id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RingKey {
    /// The ring of all backends that new flows go to.
    All(u16),
    /// The ring of those among them that are in the node's zone ([`lb_common::service::SERVICE_NEAR`]).
    Near(u16),
}

impl RingKey {
    /// The service's id.
    #[must_use]
    pub const fn service(self) -> u16 {
        match self {
            Self::All(id) | Self::Near(id) => id,
        }
    }

    /// Index in the map; `None` for a service id that the maps have no room for.
    #[must_use]
    pub fn index(self) -> Option<u32> {
        let id = self.service();
        let index = match self {
            Self::All(_) => u32::from(id),
            Self::Near(_) => near_ring(id),
        };
        (u32::from(id) < MAX_SERVICES).then_some(index)
    }
}

impl fmt::Display for RingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(id) => write!(f, "service id {id}"),
            Self::Near(id) => write!(f, "service id {id}, near"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use lb_common::service::MAX_RINGS;

    use super::*;

    #[test]
    fn every_place_of_the_map_has_one_key() {
        let every = (0..=u16::MAX).flat_map(|id| [RingKey::All(id), RingKey::Near(id)]);
        let indices: Vec<u32> = every.filter_map(RingKey::index).collect();
        assert_eq!(indices.len(), MAX_RINGS as usize);
        assert!(BTreeSet::from_iter(indices).into_iter().eq(0..MAX_RINGS));
        let beyond = u16::try_from(MAX_SERVICES).unwrap();
        assert_eq!([RingKey::All(beyond), RingKey::Near(beyond)].map(RingKey::index), [None, None]);
    }
}
