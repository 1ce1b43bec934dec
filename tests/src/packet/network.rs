//! IPv4 and IPv6 headers, right or wrong.

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;
use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel, Ipv6Header};

use super::checksum;
use super::world::Family;

/// IPv6 extension header numbers.
pub(super) const HOP_BY_HOP: u8 = 0;
pub(super) const ROUTING: u8 = 43;
pub(super) const FRAGMENT: u8 = 44;
pub(super) const DESTINATION: u8 = 60;

/// What differs from an honest header.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lies {
    pub(super) version: Option<u8>,
    pub(super) ihl: Option<u8>,
    /// IPv4 total length, or IPv6 payload length.
    pub(super) length: Option<u16>,
    pub(super) broken_checksum: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Header {
    V4(Box<Ipv4Header>),
    V6 { fixed: Ipv6Header, extensions: Vec<(u8, Vec<u8>)> },
}

#[derive(Clone, Debug)]
pub(super) struct Network {
    pub(super) header: Header,
    pub(super) lies: Lies,
}

impl Network {
    pub(super) fn new(family: Family) -> Self {
        let header = match family {
            Family::V4 => Header::V4(Box::new(Ipv4Header { time_to_live: 64, ..Ipv4Header::default() })),
            Family::V6 => Header::V6 {
                fixed: Ipv6Header { hop_limit: 64, ..Ipv6Header::default() },
                extensions: Vec::new(),
            },
        };
        Self { header, lies: Lies::default() }
    }

    pub(super) const fn family(&self) -> Family {
        match self.header {
            Header::V4(_) => Family::V4,
            Header::V6 { .. } => Family::V6,
        }
    }

    pub(super) const fn ethertype(&self) -> u16 {
        match self.header {
            Header::V4(_) => 0x0800,
            Header::V6 { .. } => 0x86dd,
        }
    }

    pub(super) fn set_src(&mut self, ip: IpAddr) {
        match (&mut self.header, ip) {
            (Header::V4(h), IpAddr::V4(a)) => h.source = a.octets(),
            (Header::V6 { fixed, .. }, IpAddr::V6(a)) => fixed.source = a.octets(),
            _ => panic!("{ip} is of the other family"),
        }
    }

    pub(super) fn set_dst(&mut self, ip: IpAddr) {
        match (&mut self.header, ip) {
            (Header::V4(h), IpAddr::V4(a)) => h.destination = a.octets(),
            (Header::V6 { fixed, .. }, IpAddr::V6(a)) => fixed.destination = a.octets(),
            _ => panic!("{ip} is of the other family"),
        }
    }

    pub(super) fn addresses(&self) -> (IpAddr, IpAddr) {
        match &self.header {
            Header::V4(h) => (h.source.into(), h.destination.into()),
            Header::V6 { fixed, .. } => (fixed.source.into(), fixed.destination.into()),
        }
    }

    pub(super) const fn ttl(&self) -> u8 {
        match &self.header {
            Header::V4(h) => h.time_to_live,
            Header::V6 { fixed, .. } => fixed.hop_limit,
        }
    }

    pub(super) fn set_ttl(&mut self, ttl: u8) {
        match &mut self.header {
            Header::V4(h) => h.time_to_live = ttl,
            Header::V6 { fixed, .. } => fixed.hop_limit = ttl,
        }
    }

    /// DSCP in the upper six bits, ECN in the lower two.
    pub(super) fn set_traffic_class(&mut self, class: u8) {
        match &mut self.header {
            Header::V4(h) => {
                h.dscp = (class >> 2).try_into().expect("six bits");
                h.ecn = (class & 3).try_into().expect("two bits");
            }
            Header::V6 { fixed, .. } => fixed.traffic_class = class,
        }
    }

    pub(super) fn set_flow_label(&mut self, label: u32) {
        let Header::V6 { fixed, .. } = &mut self.header else { panic!("IPv4 has no flow label") };
        fixed.flow_label = Ipv6FlowLabel::try_new(label).expect("a flow label has 20 bits");
    }

    pub(super) fn v4(&mut self) -> &mut Ipv4Header {
        match &mut self.header {
            Header::V4(h) => h,
            Header::V6 { .. } => panic!("IPv6 has no such field"),
        }
    }

    pub(super) fn set_options(&mut self, options: &[u8]) {
        self.v4().options = Ipv4Options::try_from(options).expect("options are 0 to 40 bytes, in fours");
    }

    /// `body` is what follows the first two bytes (next header and length); it is filled up with zeros.
    pub(super) fn push_extension(&mut self, number: u8, body: &[u8]) {
        let Header::V6 { extensions, .. } = &mut self.header else { panic!("IPv4 has no extension headers") };
        let mut bytes = vec![0, 0];
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        if number != FRAGMENT {
            bytes[1] = u8::try_from(bytes.len() / 8 - 1).expect("an extension header has at most 2048 bytes");
        }
        extensions.push((number, bytes));
    }

    /// `offset` counts units of eight bytes.
    pub(super) fn set_fragment(&mut self, id: u32, offset: u16, more: bool) {
        if let Header::V4(h) = &mut self.header {
            h.identification = u16::try_from(id).expect("an IPv4 identification has 16 bits");
            h.fragment_offset = IpFragOffset::try_new(offset).expect("a fragment offset has 13 bits");
            h.more_fragments = more;
            h.dont_fragment = false;
        } else {
            let mut body = (offset << 3 | u16::from(more)).to_be_bytes().to_vec();
            body.extend(id.to_be_bytes());
            self.push_extension(FRAGMENT, &body);
        }
    }

    /// Header, extension headers and `payload` of `protocol`.
    pub(super) fn bytes(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        match &self.header {
            Header::V4(h) => self.v4_bytes(h, protocol, payload),
            Header::V6 { fixed, extensions } => self.v6_bytes(fixed, extensions, protocol, payload),
        }
    }

    fn v4_bytes(&self, header: &Ipv4Header, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut header = header.clone();
        header.protocol = IpNumber(protocol);
        let honest = u16::try_from(header.header_len() + payload.len()).expect("an IPv4 packet fits 64 KiB");
        header.total_len = self.lies.length.unwrap_or(honest);
        let mut bytes = header.to_bytes().to_vec();
        let (version, ihl) = (self.lies.version.unwrap_or(4), self.lies.ihl.unwrap_or(header.ihl()));
        bytes[0] = version << 4 | ihl;
        checksum::write(Sum16BitWords::new(), &mut bytes, 10, self.lies.broken_checksum);
        bytes.extend(payload);
        bytes
    }

    fn v6_bytes(
        &self,
        fixed: &Ipv6Header,
        extensions: &[(u8, Vec<u8>)],
        protocol: u8,
        payload: &[u8],
    ) -> Vec<u8> {
        let mut chain = Vec::new();
        for (i, (_, extension)) in extensions.iter().enumerate() {
            let start = chain.len();
            chain.extend(extension);
            chain[start] = extensions.get(i + 1).map_or(protocol, |next| next.0);
        }
        chain.extend(payload);
        let mut fixed = fixed.clone();
        fixed.next_header = IpNumber(extensions.first().map_or(protocol, |first| first.0));
        let honest = u16::try_from(chain.len()).expect("an IPv6 payload fits 64 KiB");
        fixed.payload_length = self.lies.length.unwrap_or(honest);
        let mut bytes = fixed.to_bytes().to_vec();
        bytes[0] = self.lies.version.unwrap_or(6) << 4 | bytes[0] & 0x0f;
        bytes.extend(chain);
        bytes
    }
}
