use std::net::Ipv4Addr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use super::world::{BACKENDS, CLIENT, Family, HOST, LB_MAC, ROUTER, STRANGER_MAC, VIP};
use super::*;

fn word(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

/// Where the transport starts in an untagged frame without options.
fn l4(family: Family) -> usize {
    match family {
        Family::V4 => 34,
        Family::V6 => 54,
    }
}

fn samples() -> Vec<Packet> {
    let both = |f: Family| {
        let t = || tcp(f).from(CLIENT).to(VIP);
        [
            t().syn().syn_options().seq(1),
            t().ack(7).payload(b"odd"),
            t().ack(7).payload(b"GET / HTTP/1.1\r\n\r\n").traffic_class(0xb9).ttl(3),
            t().fin().ack(u32::MAX).vlan(10),
            t().rst().service_vlan(100).vlan(20).urgent(3),
            udp(f).from(CLIENT).to(HOST).payload(b"dns"),
            ping(f, 1, 2).from(CLIENT).to(VIP).payload(&[0xff; 57]),
            pong(f, 1, 2).from(VIP).to(CLIENT),
            icmp_error(IcmpError::TooBig(1400), &t().ack(1).payload(&[9; 400]), 60).from(ROUTER).to(VIP),
            icmp_error(IcmpError::TimeExceeded, &t().ack(1).payload(&[9; 40]), 1000).from(ROUTER).to(VIP),
        ]
    };
    let mut all: Vec<_> = Family::BOTH.into_iter().flat_map(both).collect();
    all.push(tcp4().from(CLIENT).to(VIP).syn().ip_options(&[1, 1, 1, 0]));
    all.push(tcp6().from(CLIENT).to(VIP).syn().hop_by_hop().routing_header().destination_options());
    all.push(neighbor_solicitation(VIP.v6, Some(CLIENT.mac)).from(CLIENT));
    all.push(neighbor_advertisement(VIP.v6, LB_MAC, 0x60).from(VIP).dst_ip(CLIENT.v6.into()));
    all
}

#[test]
fn everything_is_right_by_default() {
    for packet in samples() {
        let frame = packet.build();
        assert_eq!(verify(&frame), Ok(()), "{}", describe(&frame));
        let padded = packet.pad_to(600).trailer(b"junk").build();
        assert_eq!(verify(&padded), Ok(()), "padding is no part of the packet: {}", describe(&padded));
    }
}

/// A change of any byte under a checksum is noticed.
#[test]
fn verify_notices_every_flipped_byte() {
    for f in Family::BOTH {
        let whole = tcp(f).from(CLIENT).to(VIP).ack(1).payload(&[5; 31]);
        let quoting = icmp_error(IcmpError::PortUnreachable, &whole, 28).from(ROUTER).to(VIP);
        for packet in [whole, quoting] {
            let frame = packet.build();
            for at in l4(f)..frame.len() {
                let mut changed = frame.clone();
                changed[at] ^= 0x10;
                assert!(verify(&changed).is_err(), "byte {at} of {}", describe(&frame));
            }
        }
    }
}

#[test]
fn verify_names_what_is_wrong() {
    let segment = || tcp4().from(CLIENT).to(VIP).ack(1);
    let error = |about: &Packet| icmp_error(IcmpError::HostUnreachable, about, 1000).from(ROUTER).to(VIP);
    for (packet, complaint) in [
        (segment().broken_ip_checksum(), "wrong IPv4 header checksum"),
        (segment().broken_checksum(), "wrong TCP checksum"),
        (tcp6().from(CLIENT).to(VIP).broken_checksum(), "wrong TCP checksum"),
        (udp(Family::V4).from(CLIENT).to(VIP).broken_checksum(), "wrong UDP checksum"),
        (ping(Family::V4, 1, 1).from(CLIENT).to(VIP).broken_checksum(), "wrong ICMP checksum"),
        (ping(Family::V6, 1, 1).from(CLIENT).to(VIP).broken_checksum(), "wrong ICMPv6 checksum"),
        (error(&segment().broken_ip_checksum()), "wrong quoted IPv4 header checksum"),
        (error(&segment().broken_checksum()), "wrong quoted TCP checksum"),
    ] {
        assert_eq!(verify(&packet.build()), Err(complaint.to_owned()));
    }
    assert!(verify(&segment().cut(40).build()).unwrap_err().starts_with("malformed"));
}

/// The example of RFC 1071 as it is in every textbook: header 4500 0073 … b861.
#[test]
fn known_header_checksum() {
    let frame = udp(Family::V4)
        .src_ip(Ipv4Addr::new(192, 168, 0, 1).into())
        .dst_ip(Ipv4Addr::new(192, 168, 0, 199).into())
        .payload(&[0; 87])
        .build();
    assert_eq!(word(&frame, 16), 0x73);
    assert_eq!(word(&frame, 24), 0xb861);
}

#[test]
fn headers_say_what_was_asked_for() {
    let frame = tcp4().from(CLIENT).to(BACKENDS[1]).syn().seq(0x0102_0304).ack(9).id(77).ttl(9).build();
    assert_eq!((&frame[0..6], &frame[6..12]), (&BACKENDS[1].mac[..], &CLIENT.mac[..]));
    let packet = SlicedPacket::from_ethernet(&frame).unwrap();
    let Some(NetSlice::Ipv4(ip)) = packet.net else { panic!("not IPv4") };
    assert_eq!((ip.header().source_addr(), ip.header().destination_addr()), (CLIENT.v4, BACKENDS[1].v4));
    assert_eq!((ip.header().ttl(), ip.header().identification()), (9, 77));
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("not TCP") };
    assert_eq!((tcp.source_port(), tcp.destination_port()), (40_000, 8088));
    assert_eq!((tcp.sequence_number(), tcp.acknowledgment_number()), (0x0102_0304, 9));
    assert!(tcp.syn() && tcp.ack() && !tcp.fin() && !tcp.rst() && !tcp.psh() && !tcp.urg());
}

#[test]
fn class_and_label() {
    let frame = tcp6().from(CLIENT).to(VIP).traffic_class(0xb9).flow_label(0xabcde).build();
    assert_eq!(&frame[14..18], &[0x6b, 0x9a, 0xbc, 0xde]);
    assert_eq!(tcp4().from(CLIENT).to(VIP).traffic_class(0xb9).build()[15], 0xb9);
}

#[test]
fn tags_stand_in_order() {
    let frame = tcp4().from(CLIENT).to(VIP).service_vlan(100).vlan(20).build();
    assert_eq!(&frame[12..22], &[0x88, 0xa8, 0, 100, 0x81, 0, 0, 20, 0x08, 0]);
}

/// A lie changes its own field and nothing else but the checksum over it.
#[test]
fn lies_are_told_where_asked() {
    let honest = tcp4().from(CLIENT).to(VIP).syn();
    assert_eq!(honest.clone().ihl(4).build()[14], 0x44);
    assert_eq!(honest.clone().ip_version(6).build()[14], 0x65);
    assert_eq!(word(&honest.clone().ip_length(1500).build(), 16), 1500);
    assert_eq!(honest.clone().data_offset(4).build()[46] >> 4, 4);
    assert_eq!(honest.clone().tcp_flags(0).build()[47], 0);
    assert_eq!(word(&honest.clone().ethertype(0x86dd).build(), 12), 0x86dd);
    assert_eq!(word(&tcp6().from(CLIENT).to(VIP).ip_length(3).build(), 18), 3);
    assert_eq!(honest.build().len(), 54);
}

/// The incremental update that the data path does keeps a wrong checksum wrong by the same amount.
#[test]
fn broken_checksums_differ_by_a_constant() {
    for f in Family::BOTH {
        let at = l4(f) + 16;
        let difference = |p: Packet| {
            let (right, wrong) = (word(&p.build(), at), word(&p.broken_checksum().build(), at));
            (u32::from(wrong) + 0xffff - u32::from(right)) % 0xffff
        };
        let here = difference(tcp(f).from(CLIENT).to(VIP).syn());
        assert_ne!(here, 0);
        assert_eq!(here, difference(tcp(f).from(VIP).to(BACKENDS[2]).ack(8).payload(b"abc")));
    }
}

#[test]
fn fragments() {
    let v4 = tcp4().from(CLIENT).to(VIP).fragment(3, true).build();
    assert_eq!(word(&v4, 20), 0x2003);
    let v6 = tcp6().from(CLIENT).to(VIP).fragment(3, true).build();
    assert_eq!((v6[20], v6[54], word(&v6, 56)), (44, 6, 3 << 3 | 1));
    for frame in [v4, v6] {
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        assert!(packet.is_ip_payload_fragmented());
    }
}

#[test]
fn extension_headers_are_chained() {
    let frame = tcp6().from(CLIENT).to(VIP).hop_by_hop().destination_options().build();
    assert_eq!((frame[20], frame[54], frame[62]), (0, 60, 6));
    assert_eq!(word(&frame, 18), 8 + 8 + 20);
}

#[test]
fn padding_and_cutting() {
    let frame = tcp4().from(CLIENT).to(VIP).syn().pad_to(60).build();
    assert_eq!((frame.len(), word(&frame, 16)), (60, 40));
    assert_eq!(tcp4().from(CLIENT).to(VIP).syn().cut(20).build().len(), 20);
}

#[test]
fn arp_frames() {
    let frame = arp_request((CLIENT.mac, CLIENT.v4), VIP.v4).build();
    assert_eq!(frame.len(), 42);
    assert_eq!((&frame[0..6], word(&frame, 12), word(&frame, 20)), (&[0xff; 6][..], 0x0806, 1));
    let packet = SlicedPacket::from_ethernet(&frame).unwrap();
    let Some(NetSlice::Arp(arp)) = packet.net else { panic!("not ARP") };
    assert_eq!(
        (arp.sender_protocol_addr(), arp.target_protocol_addr()),
        (&CLIENT.v4.octets()[..], &VIP.v4.octets()[..])
    );
    let reply = arp_reply((VIP.mac, VIP.v4), (STRANGER_MAC, CLIENT.v4)).build();
    assert_eq!((&reply[0..6], &reply[6..12], word(&reply, 20)), (&STRANGER_MAC[..], &LB_MAC[..], 2));
}

#[test]
fn solicitations_go_to_the_group() {
    let frame = neighbor_solicitation(VIP.v6, None).from(CLIENT).build();
    assert_eq!(&frame[0..6], &[0x33, 0x33, 0xff, 0, 1, 0]);
    assert_eq!((frame[21], frame[54], frame.len()), (255, 135, 78));
    assert_eq!(verify(&frame), Ok(()));
}
