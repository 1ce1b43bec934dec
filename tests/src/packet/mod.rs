//! Frames in the words of a test: `tcp(V4).from(CLIENT).to(VIP).syn().seq(1)`.
//!
//! Everything is right by default (lengths, checksums, TTL 64); what a test wants wrong, it says. Checksums
//! are computed by etherparse and never by `lb_common`, so that the two check each other.

mod checksum;
mod icmp;
mod link;
mod network;
mod set;
mod transport;
mod verify;
pub mod world;

#[cfg(test)]
mod tests;

use etherparse::{TcpHeader, UdpHeader};

pub use icmp::{
    IcmpError, arp_reply, arp_request, icmp, icmp_error, multicast_mac, neighbor_advertisement,
    neighbor_solicitation, ping, pong, solicited_node,
};
use link::Link;
pub use link::Tag;
use network::Network;
use transport::Transport;
pub use verify::{describe, verify};
use world::Family;

/// TCP options by their etherparse names.
pub use etherparse::TcpOptionElement as TcpOption;

/// A frame to be.
#[derive(Clone, Debug)]
#[must_use]
pub struct Packet {
    link: Link,
    body: Body,
    /// Bytes after the IP packet.
    trailer: Vec<u8>,
    pad_to: usize,
    cut: Option<usize>,
}

#[derive(Clone, Debug)]
enum Body {
    Ip { network: Network, transport: Transport, payload: Vec<u8>, broken_checksum: bool },
    Raw { ethertype: u16, bytes: Vec<u8> },
}

/// A TCP segment without flags.
pub fn tcp(family: Family) -> Packet {
    let header = TcpHeader { window_size: 64_240, ..TcpHeader::default() };
    Packet::new(family, Transport::Tcp { header: Box::new(header), data_offset: None, flags: None })
}

/// [`tcp`] over IPv4.
pub fn tcp4() -> Packet {
    tcp(Family::V4)
}

/// [`tcp`] over IPv6.
pub fn tcp6() -> Packet {
    tcp(Family::V6)
}

/// A UDP datagram.
pub fn udp(family: Family) -> Packet {
    Packet::new(family, Transport::Udp { header: UdpHeader::default() })
}

/// An IP packet of any protocol, with nothing but a payload.
pub fn ip(family: Family, protocol: u8) -> Packet {
    Packet::new(family, Transport::Other { protocol })
}

/// A frame of any ethertype.
pub fn raw(ethertype: u16, bytes: &[u8]) -> Packet {
    Packet::with_body(Body::Raw { ethertype, bytes: bytes.to_vec() })
}

impl Packet {
    fn new(family: Family, transport: Transport) -> Self {
        Self::with_body(Body::Ip {
            network: Network::new(family),
            transport,
            payload: Vec::new(),
            broken_checksum: false,
        })
    }

    const fn with_body(body: Body) -> Self {
        let link = Link { src: [0; 6], dst: [0; 6], tags: Vec::new(), ethertype: None };
        Self { link, body, trailer: Vec::new(), pad_to: 0, cut: None }
    }

    /// The frame.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let (ethertype, body) = match &self.body {
            Body::Ip { network, .. } => (network.ethertype(), self.ip_bytes()),
            Body::Raw { ethertype, bytes } => (*ethertype, bytes.clone()),
        };
        let mut frame = self.link.bytes(ethertype);
        frame.extend(body);
        frame.extend(&self.trailer);
        if frame.len() < self.pad_to {
            frame.resize(self.pad_to, 0);
        }
        if let Some(length) = self.cut {
            assert!(length <= frame.len(), "cut at {length}, but the frame has {} bytes", frame.len());
            frame.truncate(length);
        }
        frame
    }

    /// The IP packet without the frame around it.
    #[must_use]
    pub fn ip_bytes(&self) -> Vec<u8> {
        let Body::Ip { network, transport, payload, broken_checksum } = &self.body else {
            panic!("not an IP packet")
        };
        let segment = transport.bytes(network.addresses(), payload, *broken_checksum);
        network.bytes(transport.protocol(network.family()), &segment)
    }

    /// The family of an IP packet.
    #[must_use]
    pub fn family(&self) -> Family {
        match &self.body {
            Body::Ip { network, .. } => network.family(),
            Body::Raw { .. } => panic!("not an IP packet"),
        }
    }

    fn network(mut self, change: impl FnOnce(&mut Network)) -> Self {
        match &mut self.body {
            Body::Ip { network, .. } => change(network),
            Body::Raw { .. } => panic!("not an IP packet"),
        }
        self
    }

    fn transport(mut self, change: impl FnOnce(&mut Transport)) -> Self {
        match &mut self.body {
            Body::Ip { transport, .. } => change(transport),
            Body::Raw { .. } => panic!("not an IP packet"),
        }
        self
    }

    fn tcp(self, change: impl FnOnce(&mut TcpHeader)) -> Self {
        self.transport(|t| change(t.tcp()))
    }
}
