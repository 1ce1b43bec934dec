//! Ethernet and VLAN tags.

use super::world::Mac;

/// A VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// 0x8100 or 0x88a8.
    pub ethertype: u16,
    /// Priority, drop bit and VLAN id.
    pub tci: u16,
}

/// Everything before the IP header.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) src: Mac,
    pub(super) dst: Mac,
    pub(super) tags: Vec<Tag>,
    /// In place of what the network layer says.
    pub(super) ethertype: Option<u16>,
}

impl Link {
    pub(super) fn bytes(&self, ethertype: u16) -> Vec<u8> {
        let mut out = [self.dst, self.src].concat();
        for tag in &self.tags {
            out.extend(tag.ethertype.to_be_bytes());
            out.extend(tag.tci.to_be_bytes());
        }
        out.extend(self.ethertype.unwrap_or(ethertype).to_be_bytes());
        out
    }
}
