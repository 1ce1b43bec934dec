//! What a client connects to.

use crate::addr::Addr;

/// IANA protocol number of TCP, the only one that is balanced today.
pub const PROTOCOL_TCP: u8 = 6;

/// How many services the maps hold.
pub const MAX_SERVICES: u32 = 1024;

/// [`Service::flags`]: this entry is in use. An entry without it does not exist.
pub const SERVICE_LIVE: u8 = 1 << 0;
/// [`Service::flags`]: requests and responses alternate, so the waiting mark has a meaning.
pub const SERVICE_REQUESTS: u8 = 1 << 1;

/// [`Service::flags`]: there is a second ring, of the usable backends in the node's own zone, at [`near_ring`].
pub const SERVICE_NEAR: u8 = 1 << 2;

/// Index of a service's ring of near backends in the map of rings (see [`SERVICE_NEAR`]).
#[inline(always)]
#[must_use]
pub const fn near_ring(service: u16) -> u32 {
    MAX_SERVICES + service as u32
}

/// How many rings the map of rings has room for.
pub const MAX_RINGS: u32 = 2 * MAX_SERVICES;

/// [`VipFlags`] bit: the data path answers ARP and neighbour solicitations for this address.
pub const VIP_ANNOUNCE: u32 = 1 << 0;

/// Value of the map of VIP addresses: `VIP_*` bits.
pub type VipFlags = u32;

/// [`Service::scheduler`]: the ring entry at the flow's hash.
pub const SCHEDULER_MAGLEV: u8 = 0;
/// [`Service::scheduler`]: ring entries in turn; the ring then holds a weighted rotation, not a Maglev table.
pub const SCHEDULER_ROUND_ROBIN: u8 = 1;
/// [`Service::scheduler`]: of two ring entries the backend with fewer live flows per weight.
pub const SCHEDULER_LEAST_CONN: u8 = 2;
/// [`Service::scheduler`]: of two ring entries the backend with fewer waiting flows per weight; with as many, the one
/// with fewer live flows per weight.
pub const SCHEDULER_LEAST_WAITING: u8 = 3;

/// Unit of [`Service::spill`]: this stands for 1.0.
pub const SPILL_ONE: u16 = 256;
/// Most other backends that a SYN is tried on.
pub const MAX_RETRIES: u8 = 2;

map_value! {
    /// Key of the service map.
    #[derive(Hash, PartialOrd, Ord)]
    pub struct ServiceKey {
        /// The VIP.
        pub vip: Addr,
        /// Destination port, network order.
        pub port: u16,
        /// IANA protocol number.
        pub protocol: u8,
        /// Zero.
        pub reserved: [u8; 5],
    }
}

impl ServiceKey {
    /// The key of a TCP service; `port` in network order.
    #[inline(always)]
    #[must_use]
    pub const fn tcp(vip: Addr, port: u16) -> Self {
        Self { vip, port, protocol: PROTOCOL_TCP, reserved: [0; 5] }
    }
}

map_value! {
    /// One service, indexed by its id.
    pub struct Service {
        /// The VIP: what a client's packet must be addressed to and what a reply is sent from.
        pub vip: Addr,
        /// VIP port, network order.
        pub port: u16,
        /// IANA protocol number.
        pub protocol: u8,
        /// `SERVICE_*` bits.
        pub flags: u8,
        /// One of `SCHEDULER_*`.
        pub scheduler: u8,
        /// On how many other backends a SYN is tried that one refused or did not answer, 0 to [`MAX_RETRIES`].
        pub retries: u8,
        /// With [`SERVICE_NEAR`]: how much more waiting work per weight a near backend may have than another one
        /// before a flow goes to the other, in units of 1/256 ([`SPILL_ONE`]), at least 1.0.
        pub spill: u16,
        /// Zero.
        pub reserved: [u8; 8],
    }
}

impl Service {
    /// An unused entry.
    pub const EMPTY: Self = Self {
        vip: Addr::UNSPECIFIED,
        port: 0,
        protocol: 0,
        flags: 0,
        scheduler: 0,
        retries: 0,
        spill: 0,
        reserved: [0; 8],
    };

    /// Whether the entry is in use.
    #[inline(always)]
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.flags & SERVICE_LIVE != 0
    }
}
