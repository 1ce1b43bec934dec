//! Where a flow is sent.

use crate::addr::Addr;
use crate::vlan::VlanTags;

/// How many backends the maps hold, over all services. Id 0 is never used: it means "none".
pub const MAX_BACKENDS: u32 = 4096;

/// [`Backend::flags`]: this entry is in use.
pub const BACKEND_LIVE: u8 = 1 << 0;
/// [`Backend::flags`]: the next hop (`mac`, `port_index`, `vlan`) is known.
pub const BACKEND_RESOLVED: u8 = 1 << 1;
/// [`Backend::flags`]: the process or its host is gone, so its flows are lost: their clients are told by a RST.
pub const BACKEND_DEAD: u8 = 1 << 2;

map_value! {
    /// One backend, indexed by its id.
    pub struct Backend {
        /// Address of the pod.
        pub addr: Addr,
        /// Port of the pod, network order.
        pub port: u16,
        /// Rises each time the id is given to another backend, so that a flow of the old one is never
        /// sent to the new one.
        pub generation: u16,
        /// Id of the service that it serves.
        pub service: u16,
        /// Relative share, 1 to 65,535.
        pub weight: u16,
        /// Next hop on layer 2: the pod's own MAC on a shared segment, its gateway's otherwise.
        pub mac: [u8; 6],
        /// `BACKEND_*` bits.
        pub flags: u8,
        /// Index in [`crate::node::Node::ports`] of the interface that leads there.
        pub port_index: u8,
        /// Tags that the next hop expects.
        pub vlan: VlanTags,
        /// Zero.
        pub reserved: [u8; 2],
    }
}

impl Backend {
    /// An unused entry of generation 0.
    pub const EMPTY: Self = Self {
        addr: Addr::UNSPECIFIED,
        port: 0,
        generation: 0,
        service: 0,
        weight: 0,
        mac: [0; 6],
        flags: 0,
        port_index: 0,
        vlan: VlanTags { count: 0, outer_ad: 0, tci: [0; 2] },
        reserved: [0; 2],
    };

    /// Whether the entry is in use.
    #[inline(always)]
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.flags & BACKEND_LIVE != 0
    }

    /// Whether its flows are lost.
    #[inline(always)]
    #[must_use]
    pub const fn is_dead(&self) -> bool {
        self.flags & BACKEND_DEAD != 0
    }

    /// Whether the next hop is known, and the backend not dead.
    #[inline(always)]
    #[must_use]
    pub const fn is_reachable(&self) -> bool {
        self.flags & (BACKEND_RESOLVED | BACKEND_DEAD) == BACKEND_RESOLVED
    }

    /// Whether the next hop is known.
    #[inline(always)]
    #[must_use]
    pub const fn is_resolved(&self) -> bool {
        self.flags & BACKEND_RESOLVED != 0
    }
}
