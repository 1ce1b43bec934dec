//! TCP, UDP, ICMP and ICMPv6.

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;
use etherparse::{TcpHeader, UdpHeader};

use super::checksum;
use super::world::Family;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMP: u8 = 1;
pub(super) const ICMPV6: u8 = 58;

#[derive(Clone, Debug)]
pub(super) enum Transport {
    Tcp {
        header: Box<TcpHeader>,
        data_offset: Option<u8>,
        flags: Option<u8>,
    },
    Udp {
        header: UdpHeader,
    },
    /// ICMP or ICMPv6, whichever belongs to the network layer.
    Icmp {
        kind: u8,
        code: u8,
        rest: [u8; 4],
    },
    Other {
        protocol: u8,
    },
}

impl Transport {
    pub(super) const fn protocol(&self, family: Family) -> u8 {
        match (self, family) {
            (Self::Tcp { .. }, _) => TCP,
            (Self::Udp { .. }, _) => UDP,
            (Self::Icmp { .. }, Family::V4) => ICMP,
            (Self::Icmp { .. }, Family::V6) => ICMPV6,
            (Self::Other { protocol }, _) => *protocol,
        }
    }

    pub(super) fn set_src_port(&mut self, port: u16) {
        match self {
            Self::Tcp { header, .. } => header.source_port = port,
            Self::Udp { header } => header.source_port = port,
            Self::Icmp { .. } | Self::Other { .. } => {}
        }
    }

    pub(super) fn set_dst_port(&mut self, port: u16) {
        match self {
            Self::Tcp { header, .. } => header.destination_port = port,
            Self::Udp { header } => header.destination_port = port,
            Self::Icmp { .. } | Self::Other { .. } => {}
        }
    }

    pub(super) fn tcp(&mut self) -> &mut TcpHeader {
        match self {
            Self::Tcp { header, .. } => header,
            Self::Udp { .. } | Self::Icmp { .. } | Self::Other { .. } => panic!("not a TCP packet"),
        }
    }

    /// Header and payload, with the checksum.
    pub(super) fn bytes(&self, (src, dst): (IpAddr, IpAddr), payload: &[u8], broken: bool) -> Vec<u8> {
        let family = if src.is_ipv4() { Family::V4 } else { Family::V6 };
        let (mut bytes, checksum_at) = self.header();
        bytes.extend(payload);
        let Some(at) = checksum_at else { return bytes };
        let protocol = self.protocol(family);
        let sum = match protocol {
            ICMP => Sum16BitWords::new(),
            _ => checksum::pseudo_header(src, dst, protocol, bytes.len()),
        };
        if protocol == UDP {
            let length = u16::try_from(bytes.len()).expect("a UDP datagram fits 64 KiB");
            bytes[4..6].copy_from_slice(&length.to_be_bytes());
        }
        checksum::write(sum, &mut bytes, at, broken);
        // In UDP zero means "none", and the sum itself is sent as ones (RFC 768).
        if protocol == UDP && bytes[6..8] == [0, 0] {
            bytes[6..8].fill(0xff);
        }
        bytes
    }

    fn header(&self) -> (Vec<u8>, Option<usize>) {
        match self {
            Self::Tcp { header, data_offset, flags } => {
                let mut bytes = header.to_bytes().to_vec();
                if let Some(words) = data_offset {
                    bytes[12] = words << 4 | bytes[12] & 0x0f;
                }
                if let Some(flags) = flags {
                    bytes[13] = *flags;
                }
                (bytes, Some(16))
            }
            Self::Udp { header } => (header.to_bytes().to_vec(), Some(6)),
            Self::Icmp { kind, code, rest } => {
                let mut bytes = vec![*kind, *code, 0, 0];
                bytes.extend(rest);
                (bytes, Some(2))
            }
            Self::Other { .. } => (Vec::new(), None),
        }
    }
}
