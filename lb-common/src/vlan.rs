//! 802.1Q and 802.1ad tags of one side of a flow.

/// Ethertype of an 802.1Q customer tag.
pub const ETHERTYPE_8021Q: u16 = 0x8100;
/// Ethertype of an 802.1ad service tag, which stands outside.
pub const ETHERTYPE_8021AD: u16 = 0x88a8;

map_value! {
    /// Up to two VLAN tags, outermost first.
    #[derive(Default)]
    pub struct VlanTags {
        /// How many of `tci` are meant: 0, 1 or 2.
        pub count: u8,
        /// 1 when the outer tag is 802.1ad (0x88a8), 0 when it is 802.1Q (0x8100). The inner one is 802.1Q.
        pub outer_ad: u8,
        /// Tag control words in network order: priority, drop bit and VLAN id.
        pub tci: [u16; 2],
    }
}
