//! The independent judge of every checksum in a frame.

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;
use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice, NetSlice, SlicedPacket};

use super::checksum::{is_valid, pseudo_header};
use super::transport::{ICMP, ICMPV6, TCP, UDP};

/// Checks the checksums of a well-formed Ethernet frame: IPv4 header, TCP, UDP, ICMP, ICMPv6, and inside of
/// ICMP errors the quoted IPv4 header and, when the quote is complete, the quoted transport. Frames that are
/// not IP have none; of fragments only the IPv4 header is looked at.
///
/// # Errors
/// Says which checksum is wrong, or why the frame cannot be parsed.
pub fn verify(frame: &[u8]) -> Result<(), String> {
    let packet = SlicedPacket::from_ethernet(frame).map_err(|e| format!("malformed: {e}"))?;
    let (addresses, payload) = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            check(is_valid(Sum16BitWords::new(), ip.header().slice()), "IPv4 header")?;
            let header = ip.header();
            ((IpAddr::V4(header.source_addr()), IpAddr::V4(header.destination_addr())), ip.payload())
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            ((IpAddr::V6(header.source_addr()), IpAddr::V6(header.destination_addr())), ip.payload())
        }
        Some(NetSlice::Arp(_)) | None => return Ok(()),
    };
    if payload.fragmented {
        return Ok(());
    }
    transport(addresses, payload.ip_number.0, payload.payload, "")?;
    match (payload.ip_number.0, payload.payload) {
        (ICMP, [3 | 4 | 5 | 11 | 12, _, _, _, _, _, _, _, quote @ ..]) => quoted_v4(quote),
        (ICMPV6, [1..=4, _, _, _, _, _, _, _, quote @ ..]) => quoted_v6(quote),
        _ => Ok(()),
    }
}

fn check(valid: bool, what: &str) -> Result<(), String> {
    if valid { Ok(()) } else { Err(format!("wrong {what} checksum")) }
}

fn transport((src, dst): (IpAddr, IpAddr), protocol: u8, bytes: &[u8], prefix: &str) -> Result<(), String> {
    let name = match protocol {
        TCP => "TCP",
        UDP => "UDP",
        ICMP => "ICMP",
        ICMPV6 => "ICMPv6",
        _ => return Ok(()),
    };
    if protocol == UDP && src.is_ipv4() && bytes.get(6..8) == Some(&[0, 0]) {
        return Ok(());
    }
    let sum = match protocol {
        ICMP => Sum16BitWords::new(),
        _ => pseudo_header(src, dst, protocol, bytes.len()),
    };
    check(is_valid(sum, bytes), &format!("{prefix}{name}"))
}

fn quoted_v4(quote: &[u8]) -> Result<(), String> {
    let Ok(header) = Ipv4HeaderSlice::from_slice(quote) else { return Ok(()) };
    check(is_valid(Sum16BitWords::new(), header.slice()), "quoted IPv4 header")?;
    let addresses = (IpAddr::V4(header.source_addr()), IpAddr::V4(header.destination_addr()));
    match quote.get(header.slice().len()..usize::from(header.total_len())) {
        Some(whole) => transport(addresses, header.protocol().0, whole, "quoted "),
        None => Ok(()),
    }
}

fn quoted_v6(quote: &[u8]) -> Result<(), String> {
    let Ok(header) = Ipv6HeaderSlice::from_slice(quote) else { return Ok(()) };
    let addresses = (IpAddr::V6(header.source_addr()), IpAddr::V6(header.destination_addr()));
    match quote.get(40..40 + usize::from(header.payload_length())) {
        Some(whole) => transport(addresses, header.next_header().0, whole, "quoted "),
        None => Ok(()),
    }
}

/// The frame, one line per layer, and the start of its bytes: for messages of failed tests.
#[must_use]
pub fn describe(frame: &[u8]) -> String {
    let mut lines = vec![format!("{} bytes", frame.len())];
    match SlicedPacket::from_ethernet(frame) {
        Ok(packet) => {
            lines.extend(packet.link.iter().filter_map(|l| Some(format!("{:?}", l.to_header()?))));
            lines.extend(packet.link_exts.iter().map(|e| format!("{:?}", e.to_header())));
            lines.extend(packet.net.iter().map(|n| match n {
                NetSlice::Ipv4(ip) => format!("{:?}", ip.header().to_header()),
                NetSlice::Ipv6(ip) => format!("{:?}", ip.header().to_header()),
                NetSlice::Arp(arp) => format!("{arp:?}"),
            }));
            lines.extend(packet.transport.iter().map(|t| format!("{t:?}")));
        }
        Err(e) => lines.push(format!("malformed: {e}")),
    }
    for (i, row) in frame.chunks(16).take(8).enumerate() {
        let bytes: Vec<_> = row.iter().map(|b| format!("{b:02x}")).collect();
        lines.push(format!("{:04x}  {}", i * 16, bytes.join(" ")));
    }
    lines.join("\n  ")
}
