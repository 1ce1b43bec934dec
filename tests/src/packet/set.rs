//! What a test can say of a packet, layer by layer.

use std::net::IpAddr;

use super::network::{DESTINATION, HOP_BY_HOP, ROUTING};
use super::transport::Transport;
use super::world::{Endpoint, Mac};
use super::{Body, Packet, Tag, TcpOption};

/// Who speaks with whom.
impl Packet {
    /// MAC, address and port of the sender.
    pub fn from(self, sender: Endpoint) -> Self {
        let ip = sender.ip(self.family());
        self.src_mac(sender.mac).src_ip(ip).src_port(sender.port)
    }

    /// MAC, address and port of the receiver.
    pub fn to(self, receiver: Endpoint) -> Self {
        let ip = receiver.ip(self.family());
        self.dst_mac(receiver.mac).dst_ip(ip).dst_port(receiver.port)
    }

    /// Source MAC alone.
    pub const fn src_mac(mut self, mac: Mac) -> Self {
        self.link.src = mac;
        self
    }

    /// Destination MAC alone.
    pub const fn dst_mac(mut self, mac: Mac) -> Self {
        self.link.dst = mac;
        self
    }

    /// Source address alone, of the packet's family.
    pub fn src_ip(self, ip: IpAddr) -> Self {
        self.network(|n| n.set_src(ip))
    }

    /// Destination address alone, of the packet's family.
    pub fn dst_ip(self, ip: IpAddr) -> Self {
        self.network(|n| n.set_dst(ip))
    }

    /// Source port alone; nothing where there are no ports.
    pub fn src_port(self, port: u16) -> Self {
        self.transport(|t| t.set_src_port(port))
    }

    /// Destination port alone; nothing where there are no ports.
    pub fn dst_port(self, port: u16) -> Self {
        self.transport(|t| t.set_dst_port(port))
    }
}

/// Ethernet.
impl Packet {
    /// One more 802.1Q tag, inside of those that are there; `tci` holds priority and VLAN id.
    pub fn vlan(mut self, tci: u16) -> Self {
        self.link.tags.push(Tag { ethertype: 0x8100, tci });
        self
    }

    /// One more 802.1ad service tag, inside of those that are there.
    pub fn service_vlan(mut self, tci: u16) -> Self {
        self.link.tags.push(Tag { ethertype: 0x88a8, tci });
        self
    }

    /// An ethertype that contradicts what follows.
    pub const fn ethertype(mut self, ethertype: u16) -> Self {
        self.link.ethertype = Some(ethertype);
        self
    }

    /// Zeros after the packet until the frame has `length` bytes (Ethernet's minimum is 60 without FCS).
    pub const fn pad_to(mut self, length: usize) -> Self {
        self.pad_to = length;
        self
    }

    /// Bytes after the IP packet.
    pub fn trailer(mut self, bytes: &[u8]) -> Self {
        self.trailer = bytes.to_vec();
        self
    }

    /// Only the first `length` bytes of the frame.
    pub const fn cut(mut self, length: usize) -> Self {
        self.cut = Some(length);
        self
    }
}

/// IP.
impl Packet {
    /// TTL or hop limit; 64 by default.
    pub fn ttl(self, ttl: u8) -> Self {
        self.network(|n| n.set_ttl(ttl))
    }

    /// One hop further: the TTL or hop limit is one less.
    pub fn forwarded(self) -> Self {
        self.network(|n| n.set_ttl(n.ttl() - 1))
    }

    /// DSCP (upper six bits) and ECN (lower two): TOS byte or traffic class.
    pub fn traffic_class(self, class: u8) -> Self {
        self.network(|n| n.set_traffic_class(class))
    }

    /// IPv6 flow label, 20 bits.
    pub fn flow_label(self, label: u32) -> Self {
        self.network(|n| n.set_flow_label(label))
    }

    /// IPv4 identification.
    pub fn id(self, id: u16) -> Self {
        self.network(|n| n.v4().identification = id)
    }

    /// IPv4 "don't fragment"; set by default.
    pub fn dont_fragment(self, set: bool) -> Self {
        self.network(|n| n.v4().dont_fragment = set)
    }

    /// A fragment: `offset` in units of eight bytes, and whether more follow. What is in the packet is not
    /// cut. IPv6 gets a fragment header.
    pub fn fragment(self, offset: u16, more: bool) -> Self {
        self.network(|n| n.set_fragment(0x4242, offset, more))
    }

    /// IPv4 options, 4 to 40 bytes in fours.
    pub fn ip_options(self, options: &[u8]) -> Self {
        self.network(|n| n.set_options(options))
    }

    /// An IPv6 hop-by-hop options header with one PadN option.
    pub fn hop_by_hop(self) -> Self {
        self.network(|n| n.push_extension(HOP_BY_HOP, &[1, 4, 0, 0, 0, 0]))
    }

    /// An IPv6 destination options header with one PadN option.
    pub fn destination_options(self) -> Self {
        self.network(|n| n.push_extension(DESTINATION, &[1, 4, 0, 0, 0, 0]))
    }

    /// An IPv6 routing header of type 4 (segment routing) with no segment left.
    pub fn routing_header(self) -> Self {
        self.network(|n| n.push_extension(ROUTING, &[4, 0, 0, 0, 0, 0]))
    }

    /// A version that is not 4 or 6.
    pub fn ip_version(self, version: u8) -> Self {
        self.network(|n| n.lies.version = Some(version))
    }

    /// A wrong IPv4 header length, in words of four bytes. The checksum is of the real header.
    pub fn ihl(self, words: u8) -> Self {
        self.network(|n| n.lies.ihl = Some(words))
    }

    /// A wrong IPv4 total length or IPv6 payload length.
    pub fn ip_length(self, length: u16) -> Self {
        self.network(|n| n.lies.length = Some(length))
    }

    /// A wrong IPv4 header checksum, wrong by the same amount whatever the header holds.
    pub fn broken_ip_checksum(self) -> Self {
        self.network(|n| n.lies.broken_checksum = true)
    }
}

/// TCP, and what is the same for all transports.
impl Packet {
    /// SYN.
    pub fn syn(self) -> Self {
        self.tcp(|t| t.syn = true)
    }

    /// ACK with a number.
    pub fn ack(self, number: u32) -> Self {
        self.tcp(|t| (t.ack, t.acknowledgment_number) = (true, number))
    }

    /// FIN.
    pub fn fin(self) -> Self {
        self.tcp(|t| t.fin = true)
    }

    /// RST.
    pub fn rst(self) -> Self {
        self.tcp(|t| t.rst = true)
    }

    /// PSH.
    pub fn psh(self) -> Self {
        self.tcp(|t| t.psh = true)
    }

    /// The whole flags byte, whatever it says.
    pub fn tcp_flags(self, byte: u8) -> Self {
        self.transport(|t| {
            let Transport::Tcp { flags, .. } = t else { panic!("not a TCP packet") };
            *flags = Some(byte);
        })
    }

    /// Sequence number.
    pub fn seq(self, number: u32) -> Self {
        self.tcp(|t| t.sequence_number = number)
    }

    /// Window, unscaled.
    pub fn window(self, size: u16) -> Self {
        self.tcp(|t| t.window_size = size)
    }

    /// URG with its pointer.
    pub fn urgent(self, pointer: u16) -> Self {
        self.tcp(|t| (t.urg, t.urgent_pointer) = (true, pointer))
    }

    /// TCP options; filled up with end-of-list to a multiple of four.
    pub fn tcp_options(self, options: &[TcpOption]) -> Self {
        self.tcp(|t| t.set_options(options).expect("at most 40 bytes of options"))
    }

    /// What a Linux client's SYN carries: MSS 1460, SACK permitted, timestamps, window scale 7.
    pub fn syn_options(self) -> Self {
        self.tcp_options(&[
            TcpOption::MaximumSegmentSize(1460),
            TcpOption::SelectiveAcknowledgementPermitted,
            TcpOption::Timestamp(0x1234_5678, 0),
            TcpOption::Noop,
            TcpOption::WindowScale(7),
        ])
    }

    /// A wrong TCP data offset, in words of four bytes.
    pub fn data_offset(self, words: u8) -> Self {
        self.transport(|t| {
            let Transport::Tcp { data_offset, .. } = t else { panic!("not a TCP packet") };
            *data_offset = Some(words);
        })
    }

    /// What follows the transport's header.
    pub fn payload(mut self, bytes: &[u8]) -> Self {
        match &mut self.body {
            Body::Ip { payload, .. } => *payload = bytes.to_vec(),
            Body::Raw { bytes: body, .. } => *body = bytes.to_vec(),
        }
        self
    }

    /// A wrong checksum of TCP, UDP or ICMP, wrong by the same amount whatever the packet holds.
    pub fn broken_checksum(mut self) -> Self {
        match &mut self.body {
            Body::Ip { broken_checksum, .. } => *broken_checksum = true,
            Body::Raw { .. } => panic!("not an IP packet"),
        }
        self
    }
}
