//! Frames of many flows, made by writing a few fields of a template: ten times as quick as building each.
//!
//! Their TCP checksums are wrong. Nobody looks: a balancer changes a checksum by what it changes in the packet.

use std::net::Ipv4Addr;

use crate::packet::tcp;
use crate::packet::world::{BACKENDS, CLIENT, Family, Mac, SNAT, VIP};

/// What is in a segment besides where it comes from and goes to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// Sequence number.
    pub(super) seq: u32,
    /// Acknowledgement number.
    pub(super) ack: u32,
    /// TCP flags.
    pub(super) flags: u8,
    /// Whether it carries [`DATA`] bytes.
    pub(super) data: bool,
}

/// Bytes of payload where there is any.
pub(super) const DATA: u32 = 8;

/// Where the TCP header begins, and how the IP addresses are written, by family.
const TCP_AT: [usize; 2] = [34, 54];
const SOURCE_AT: [usize; 2] = [26, 22];

/// Templates: from a client and from each backend, of both families, without and with data.
#[derive(Debug)]
pub(super) struct Frames {
    client: [[Vec<u8>; 2]; 2],
    /// A SYN with the options that systems send.
    syn: [Vec<u8>; 2],
    backend: Vec<[[Vec<u8>; 2]; 2]>,
}

impl Frames {
    pub(super) fn new() -> Self {
        let payload = [&[][..], &[0x51; DATA as usize]];
        let of = |from, to| {
            Family::BOTH.map(|f| payload.map(|data| tcp(f).from(from).to(to).payload(data).build()))
        };
        Self {
            client: of(CLIENT, VIP),
            syn: Family::BOTH.map(|f| tcp(f).from(CLIENT).to(VIP).syn().syn_options().build()),
            backend: BACKENDS.iter().map(|backend| of(*backend, SNAT)).collect(),
        }
    }

    /// A client's SYN.
    pub(super) fn syn(&self, family: Family, client: u32, seq: u32) -> Vec<u8> {
        let mut frame = self.syn[family as usize].clone();
        from_client(&mut frame, family, client);
        put(&mut frame, TCP_AT[family as usize] + 4, &seq.to_be_bytes());
        frame
    }

    /// Another packet of a client.
    pub(super) fn of_client(&self, family: Family, client: u32, segment: Segment) -> Vec<u8> {
        let mut frame = self.client[family as usize][usize::from(segment.data)].clone();
        from_client(&mut frame, family, client);
        write(&mut frame, family, segment);
        frame
    }

    /// A packet of a backend to a SNAT port.
    pub(super) fn of_backend(&self, family: Family, backend: usize, port: u16, segment: Segment) -> Vec<u8> {
        let mut frame = self.backend[backend][family as usize][usize::from(segment.data)].clone();
        put(&mut frame, TCP_AT[family as usize] + 2, &port.to_be_bytes());
        write(&mut frame, family, segment);
        frame
    }
}

/// Which backend a frame goes to, and from which port; `None` when it goes elsewhere.
pub(super) fn destination(frame: &[u8], family: Family) -> Option<(usize, u16)> {
    let mac: Mac = frame.get(..6)?.try_into().ok()?;
    let backend = BACKENDS.iter().position(|backend| backend.mac == mac)?;
    let at = TCP_AT[family as usize];
    let port = frame.get(at..at + 2)?.try_into().ok()?;
    Some((backend, u16::from_be_bytes(port)))
}

/// Address and port of client number `n`: eight ports at each address.
fn from_client(frame: &mut [u8], family: Family, n: u32) {
    let host = n >> 3;
    let port = 20_000 + 5_000 * (n & 7);
    let at = SOURCE_AT[family as usize];
    match family {
        Family::V4 => put(frame, at, &(u32::from(Ipv4Addr::new(100, 64, 0, 0)) + host).to_be_bytes()),
        Family::V6 => put(frame, at + 12, &host.to_be_bytes()),
    }
    let [_, _, high, low] = port.to_be_bytes();
    put(frame, TCP_AT[family as usize], &[high, low]);
}

fn write(frame: &mut [u8], family: Family, Segment { seq, ack, flags, .. }: Segment) {
    let at = TCP_AT[family as usize];
    put(frame, at + 4, &seq.to_be_bytes());
    put(frame, at + 8, &ack.to_be_bytes());
    put(frame, at + 13, &[flags]);
}

fn put(frame: &mut [u8], at: usize, bytes: &[u8]) {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv6Addr};

    use super::*;

    /// What is written into a template is what the packet builder makes, but for the TCP checksum and, of IPv4, its own.
    #[test]
    fn fields_are_where_they_belong() {
        let frames = Frames::new();
        let segment = Segment { seq: 7, ack: 9, flags: 0x11, data: false };
        for family in Family::BOTH {
            let address = match family {
                Family::V4 => IpAddr::from(Ipv4Addr::new(100, 64, 1, 2)),
                Family::V6 => {
                    let mut octets = CLIENT.v6.octets();
                    octets[12..].copy_from_slice(&258_u32.to_be_bytes());
                    IpAddr::from(Ipv6Addr::from(octets))
                }
            };
            let built = |from_client: bool| {
                let packet = tcp(family).seq(7).ack(9).tcp_flags(0x11);
                if from_client {
                    packet.from(CLIENT).to(VIP).src_ip(address).src_port(35_000).build()
                } else {
                    packet.from(BACKENDS[1]).to(SNAT).dst_port(4321).build()
                }
            };
            let checksum = TCP_AT[family as usize] + 16;
            for (mut ours, mut wanted) in [
                (frames.of_client(family, 8 * 258 + 3, segment), built(true)),
                (frames.of_backend(family, 1, 4321, segment), built(false)),
            ] {
                for frame in [&mut ours, &mut wanted] {
                    put(frame, checksum, &[0; 2]);
                    if family == Family::V4 {
                        put(frame, 24, &[0; 2]);
                    }
                }
                assert_eq!(ours, wanted);
            }
            assert_eq!(destination(&frames.syn(family, 1, 1), family), None);
        }
    }
}
