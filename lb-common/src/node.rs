//! What the data path must know of the node it runs on: one value in one map.

use crate::addr::Addr;

/// Interfaces that the program can be attached to at once.
pub const MAX_PORTS: usize = 16;
/// Entries of `nat.addresses`, each an address or a prefix.
pub const MAX_SNAT_RANGES: usize = 16;
/// SNAT addresses over all ranges.
pub const MAX_SNAT_ADDRESSES: u32 = 4096;

/// [`Port::flags`]: send to this interface by redirect even when the packet came from it. For drivers whose
/// `XDP_TX` needs more of the peer than a redirect does (veth).
pub const PORT_TX_BY_REDIRECT: u16 = 1 << 0;

map_value! {
    /// An interface that the program is attached to.
    pub struct Port {
        /// Kernel interface index; 0 for an unused entry.
        pub ifindex: u32,
        /// `PORT_*` bits.
        pub flags: u16,
        /// Its own place in [`Node::ports`]. Read from here, it is a number that the verifier does not know, so that
        /// one path follows the search for a port and not one for each place.
        pub index: u16,
        /// Zero.
        pub reserved: u16,
        /// The interface's own MAC: the only unicast destination that is looked at, and the source of what leaves.
        pub mac: [u8; 6],
    }
}

map_value! {
    /// A run of SNAT addresses that share their first 96 bits.
    pub struct SnatRange {
        /// First address.
        pub base: Addr,
        /// How many addresses; 0 for an unused entry.
        pub count: u32,
        /// Block of the first address; the others follow.
        pub first_block: u32,
    }
}

map_value! {
    /// The node's configuration as the data path sees it.
    pub struct Node {
        /// Secret of the flow table's hash, drawn when the maps are made. Changing it loses every flow.
        pub hash_key: u64,
        /// Buckets of a block: `floor(ports / 8)`.
        pub buckets: u32,
        /// First SNAT port, host order.
        pub port_base: u32,
        /// First block of IPv4 addresses, and how many there are.
        pub v4_first: u32,
        /// IPv4 blocks.
        pub v4_blocks: u32,
        /// First block of IPv6 addresses.
        pub v6_first: u32,
        /// IPv6 blocks.
        pub v6_blocks: u32,
        /// How long a closed slot rests for the backend that it served, in ticks.
        pub rest_ticks: u32,
        /// Silence after which a flow that does not wait may be reused, in ticks.
        pub idle_ticks: u32,
        /// RSTs of its own that a CPU may send in a second.
        pub reset_rate: u32,
        /// Used entries of `ports`, from the first.
        pub port_count: u32,
        /// Used entries of `ranges`, from the first.
        pub range_count: u32,
        /// Zero.
        pub reserved: u32,
        /// Where the program is attached.
        pub ports: [Port; MAX_PORTS],
        /// The SNAT addresses.
        pub ranges: [SnatRange; MAX_SNAT_RANGES],
    }
}

impl Port {
    /// An unused entry.
    pub const EMPTY: Self = Self { ifindex: 0, flags: 0, index: 0, reserved: 0, mac: [0; 6] };
}

impl SnatRange {
    /// An unused entry.
    pub const EMPTY: Self = Self { base: Addr::UNSPECIFIED, count: 0, first_block: 0 };
}

impl Node {
    /// A node without interfaces and addresses.
    pub const EMPTY: Self = Self {
        hash_key: 0,
        buckets: 0,
        port_base: 0,
        v4_first: 0,
        v4_blocks: 0,
        v6_first: 0,
        v6_blocks: 0,
        rest_ticks: 0,
        idle_ticks: 0,
        reset_rate: 0,
        port_count: 0,
        range_count: 0,
        reserved: 0,
        ports: [Port::EMPTY; MAX_PORTS],
        ranges: [SnatRange::EMPTY; MAX_SNAT_RANGES],
    };

    /// Slots of the flow table that this configuration needs.
    #[must_use]
    pub const fn slots(&self) -> u32 {
        (self.v4_blocks + self.v6_blocks) * self.buckets * crate::hash::PORTS_PER_BUCKET
    }
}
