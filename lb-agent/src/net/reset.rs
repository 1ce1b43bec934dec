//! The RST that tells a client that its connection is lost (RFC 9293 §3.10.7), as a frame. Pure.
//!
//! For clients that wait in silence. Those that send something are answered by the data path.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use lb_common::checksum::{checksum, fold, sum};
use lb_common::flow::{Ctrl, Side, Slot};
use lb_common::headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, TCP_LEN};
use lb_common::service::PROTOCOL_TCP;
use lb_common::tcp::{ACK, RST};
use lb_common::vlan::{ETHERTYPE_8021AD, ETHERTYPE_8021Q, VlanTags};

use crate::dataplane::Tables;

const TTL: u8 = 64;
/// Length of a TCP header without options, as the headers of IP say it.
#[expect(clippy::cast_possible_truncation, reason = "20")]
const SEGMENT: u16 = TCP_LEN as u16;

/// A RST from a VIP to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reset {
    /// Interface that the client's packets came in by.
    pub ifindex: u32,
    /// Layer-2 destination: where the client's packets came from.
    pub to_mac: [u8; 6],
    /// Layer-2 source: the interface's MAC.
    pub from_mac: [u8; 6],
    /// Tags that the client's packets carry.
    pub vlan: VlanTags,
    /// The VIP.
    pub vip: IpAddr,
    /// Port of the VIP.
    pub vip_port: u16,
    /// The client, of the VIP's family.
    pub client: IpAddr,
    /// The client's port.
    pub client_port: u16,
    /// What the client expects next: a RST of any other number is at best asked back for (RFC 5961 §3.2).
    pub seq: u32,
    /// What the client has sent. Only a client that did not get the SYN+ACK looks at it (RFC 9293 §3.10.7.3).
    pub ack: u32,
}

impl Reset {
    /// For the client of the flow in a slot. `None` when there is nobody to tell: the flow is not open, its backend has said
    /// nothing yet, so that the client will send its SYN again and be served by another, or the tables do not know
    /// its service or its interface any more.
    #[must_use]
    pub fn of(slot: &Slot, tables: &Tables) -> Option<Self> {
        let ctrl = Ctrl(slot.ctrl);
        if !ctrl.is_answered() {
            return None;
        }
        let service = tables.services.get(&ctrl.service())?;
        let port = tables.node.ports.get(usize::from(slot.port_index)).filter(|port| port.ifindex != 0)?;
        let fin = |side| u32::from(ctrl.has_fin(side));
        Some(Self {
            ifindex: port.ifindex,
            to_mac: slot.mac,
            from_mac: port.mac,
            vlan: slot.vlan,
            vip: service.vip.into(),
            vip_port: u16::from_be(service.port),
            client: slot.client.into(),
            client_port: u16::from_be(slot.client_port),
            seq: slot.backend_next.wrapping_add(fin(Side::Backend)),
            ack: slot.client_next.wrapping_add(fin(Side::Client)),
        })
    }

    /// The frame, without the padding that a short one gets from the interface.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(14 + 8 + 40 + TCP_LEN);
        frame.extend(self.to_mac);
        frame.extend(self.from_mac);
        for (tci, outermost) in self.vlan.tci.iter().take(self.vlan.count.into()).zip([true, false]) {
            let service_tag = outermost && self.vlan.outer_ad != 0;
            frame.extend(if service_tag { ETHERTYPE_8021AD } else { ETHERTYPE_8021Q }.to_be_bytes());
            frame.extend(tci.to_ne_bytes());
        }
        match (self.vip, self.client) {
            (IpAddr::V4(vip), IpAddr::V4(client)) => {
                frame.extend(ETHERTYPE_IPV4.to_ne_bytes());
                frame.extend(v4_header(vip.octets(), client.octets()));
            }
            (vip, client) => {
                frame.extend(ETHERTYPE_IPV6.to_ne_bytes());
                frame.extend(v6_header(octets(vip), octets(client)));
            }
        }
        frame.extend(self.segment());
        frame
    }

    fn segment(&self) -> [u8; TCP_LEN] {
        let mut segment = [0; TCP_LEN];
        segment[..2].copy_from_slice(&self.vip_port.to_be_bytes());
        segment[2..4].copy_from_slice(&self.client_port.to_be_bytes());
        segment[4..8].copy_from_slice(&self.seq.to_be_bytes());
        segment[8..12].copy_from_slice(&self.ack.to_be_bytes());
        segment[12] = 5 << 4;
        segment[13] = RST | ACK;
        // The pseudo-header (RFC 9293 §3.1, RFC 8200 §8.1). The prefix that stands before an IPv4 address in sixteen
        // bytes is 0xffff, which is nothing in a one's-complement sum.
        let pseudo = sum(&octets(self.vip)) + sum(&octets(self.client)) + sum(&SEGMENT.to_be_bytes());
        let total = pseudo + sum(&[0, PROTOCOL_TCP]) + sum(&segment);
        segment[16..18].copy_from_slice(&(!fold(total)).to_ne_bytes());
        segment
    }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn v4_header(from: [u8; 4], to: [u8; 4]) -> [u8; 20] {
    let mut header = [0; 20];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&(20 + SEGMENT).to_be_bytes());
    // Don't fragment: then the identification need not be unique (RFC 6864 §4.1).
    header[6] = 0x40;
    header[8] = TTL;
    header[9] = PROTOCOL_TCP;
    header[12..16].copy_from_slice(&from);
    header[16..].copy_from_slice(&to);
    let check = checksum(&header);
    header[10..12].copy_from_slice(&check.to_ne_bytes());
    header
}

fn v6_header(from: [u8; 16], to: [u8; 16]) -> [u8; 40] {
    let mut header = [0; 40];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&SEGMENT.to_be_bytes());
    header[6] = PROTOCOL_TCP;
    header[7] = TTL;
    header[8..24].copy_from_slice(&from);
    header[24..].copy_from_slice(&to);
    header
}

#[cfg(test)]
mod tests;
