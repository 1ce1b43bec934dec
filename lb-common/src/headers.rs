//! Wire headers that `network-types` does not have in the form the packet path needs: alignment 1, flags
//! and offsets as whole bytes, neighbour discovery.
//!
//! Multi-byte fields are `u16`/`u32` read through getters as they stand in memory (network order); the name
//! says so where a value is converted.

/// Ethertype of IPv4, network order.
pub const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
/// Ethertype of ARP, network order.
pub const ETHERTYPE_ARP: u16 = 0x0806_u16.to_be();
/// Ethertype of IPv6, network order.
pub const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();

/// Protocol number of ICMP for IPv4.
pub const PROTOCOL_ICMP: u8 = 1;
/// Protocol number of ICMPv6.
pub const PROTOCOL_ICMPV6: u8 = 58;
/// IPv6 extension headers that a node may have to walk past (RFC 8200 §4): hop-by-hop options.
pub const EXTENSION_HOP_BY_HOP: u8 = 0;
/// IPv6 routing header.
pub const EXTENSION_ROUTING: u8 = 43;
/// IPv6 fragment header.
pub const EXTENSION_FRAGMENT: u8 = 44;
/// IPv6 destination options.
pub const EXTENSION_DESTINATION: u8 = 60;

macro_rules! be16 {
    ($($(#[$m:meta])* $name:ident),+) => { $(
        $(#[$m])*
        #[inline(always)]
        #[must_use]
        pub const fn $name(&self) -> u16 { u16::from_ne_bytes(self.$name) }
    )+ };
}

/// Ethernet II header.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Ethernet {
    /// Destination MAC.
    pub dst: [u8; 6],
    /// Source MAC.
    pub src: [u8; 6],
    /// Ethertype, network order.
    pub ethertype: [u8; 2],
}

/// What follows the source MAC or another tag when a frame is tagged (IEEE 802.1Q §9.3), less its TPID.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct VlanTag {
    /// Priority, drop bit and VLAN id, network order.
    pub tci: [u8; 2],
    /// Ethertype of what follows, network order.
    pub ethertype: [u8; 2],
}

/// TCP header without options (RFC 9293 §3.1).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Tcp {
    /// Source port, network order.
    pub source: [u8; 2],
    /// Destination port, network order.
    pub dest: [u8; 2],
    /// Sequence number, network order.
    pub seq: [u8; 4],
    /// Acknowledgement number, network order.
    pub ack: [u8; 4],
    /// Data offset in 32-bit words in the upper four bits.
    pub offset: u8,
    /// CWR, ECE, URG, ACK, PSH, RST, SYN, FIN.
    pub flags: u8,
    /// Window.
    pub window: [u8; 2],
    /// Checksum.
    pub check: [u8; 2],
    /// Urgent pointer.
    pub urgent: [u8; 2],
}

/// Length of [`Tcp`] in bytes, the least that a data offset may say.
pub const TCP_LEN: usize = size_of::<Tcp>();

/// ICMP or ICMPv6 header: the first eight bytes of every message that concerns us.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Checksum.
    pub check: [u8; 2],
    /// Depends on the type.
    pub rest: [u8; 4],
}

/// Neighbour solicitation or advertisement with room for one link-layer address option (RFC 4861 §4.3, §4.4).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Neighbor {
    /// Type 135 or 136, code 0, checksum, flags.
    pub icmp: Icmp,
    /// The address that is asked for.
    pub target: [u8; 16],
}

/// The option that follows [`Neighbor`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LinkLayerOption {
    /// 1 source, 2 target.
    pub kind: u8,
    /// In units of eight bytes: 1.
    pub length: u8,
    /// The address.
    pub mac: [u8; 6],
}

impl Ethernet {
    be16!(
        /// Ethertype as it stands in memory (network order).
        ethertype
    );
}

impl VlanTag {
    be16!(
        /// Tag control word as it stands in memory (network order).
        tci,
        /// Ethertype as it stands in memory (network order).
        ethertype
    );
}

impl Tcp {
    be16!(
        /// Source port as it stands in memory (network order).
        source,
        /// Destination port as it stands in memory (network order).
        dest,
        /// Checksum as it stands in memory.
        check
    );

    /// Sequence number in host order.
    #[inline(always)]
    #[must_use]
    pub const fn seq(&self) -> u32 {
        u32::from_be_bytes(self.seq)
    }

    /// Acknowledgement number in host order.
    #[inline(always)]
    #[must_use]
    pub const fn ack(&self) -> u32 {
        u32::from_be_bytes(self.ack)
    }

    /// Length of the header with options in bytes, as the data offset says.
    #[inline(always)]
    #[must_use]
    pub const fn header_len(&self) -> u32 {
        (self.offset >> 4) as u32 * 4
    }
}

impl Icmp {
    be16!(
        /// Checksum as it stands in memory.
        check
    );
}
