//! The frames that programs are measured with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_tests::packet::tcp;
use lb_tests::packet::world::{CLIENT, Family, HOST, Mac, VIP};

use crate::abi::{RESTORED, Reply, client_offset, client_port, service_offset};

/// MAC of the interface that frames come in by, as `World` has it.
pub(super) const OWN_MAC: Mac = [2, 0, 0, 0, 1, 1];
/// MAC of every backend, as `World` has it.
const BACKEND_MAC: Mac = [2, 0, 0, 0, 0, 7];
/// Sequence number of the client's SYN, and of the backend's.
const SEQUENCES: (u32, u32) = (1000, 5000);
/// Bytes of data in a frame that carries some.
const DATA: [u8; 100] = [0x5a; 100];
/// Flows above this number are never opened.
pub(super) const STRANGERS: u32 = 1 << 30;

/// Kinds of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// A client asks for a connection.
    Syn,
    /// A client confirms.
    Ack,
    /// A client sends data.
    Data,
    /// A backend sends data.
    Reply,
    /// A client that nobody knows sends data.
    Stray,
    /// A segment to the host itself.
    NoService,
}

/// Offsets of the last four bytes of both addresses and of the TCP header.
const fn offsets(family: Family) -> (usize, usize, usize) {
    match family {
        Family::V4 => (26, 30, 34),
        Family::V6 => (34, 50, 54),
    }
}

/// A client's frame of flow 0; of the first stranger, for a stray one.
pub(super) fn from_client(shape: Shape, family: Family) -> Vec<u8> {
    let flow = if shape == Shape::Stray { STRANGERS } else { 0 };
    let client = CLIENT.ip(family);
    let target = if shape == Shape::NoService { HOST } else { VIP };
    let packet = tcp(family).from(CLIENT).to(target).dst_mac(OWN_MAC).seq(SEQUENCES.0 + 1);
    let packet = packet.src_ip(nth(client, client_offset(flow))).src_port(client_port(flow));
    let packet = match shape {
        Shape::Syn => packet.seq(SEQUENCES.0).syn().syn_options(),
        Shape::Ack | Shape::NoService => packet.ack(SEQUENCES.1 + 1),
        Shape::Data | Shape::Stray | Shape::Reply => packet.ack(SEQUENCES.1 + 1).psh().payload(&DATA),
    };
    padded(packet.build())
}

/// A backend's frame with data, of a flow whose packets look like `forwarded` but for the last four bytes of their
/// addresses and the ports.
pub(super) fn from_backend(family: Family, reply: &Reply, forwarded: &[u8]) -> Vec<u8> {
    let (src, dst) = addresses(forwarded, family);
    let (backend, snat) = (with_last_word(dst, reply.src), with_last_word(src, reply.dst));
    let packet = tcp(family)
        .src_mac(BACKEND_MAC)
        .dst_mac(OWN_MAC)
        .src_ip(backend)
        .dst_ip(snat)
        .src_port(u16::from_be(reply.sport))
        .dst_port(u16::from_be(reply.dport));
    padded(packet.seq(SEQUENCES.1 + 1).ack(SEQUENCES.0 + 1).psh().payload(&DATA).build())
}

/// A backend's SYN and ACK for the flow whose SYN left as `forwarded`.
pub(super) fn syn_ack(family: Family, forwarded: &[u8]) -> Vec<u8> {
    let ((src, dst), reply) = (addresses(forwarded, family), answer_to(family, forwarded));
    let packet = tcp(family).src_mac(BACKEND_MAC).dst_mac(OWN_MAC).src_ip(dst).dst_ip(src);
    let packet = packet.src_port(u16::from_be(reply.sport)).dst_port(u16::from_be(reply.dport));
    padded(packet.seq(SEQUENCES.1).syn().ack(SEQUENCES.0 + 1).build())
}

/// Where an answer to a forwarded frame comes from and goes to.
pub(super) fn answer_to(family: Family, forwarded: &[u8]) -> Reply {
    let (src, dst, l4) = offsets(family);
    Reply {
        src: u32::from_ne_bytes(bytes(forwarded, dst)),
        dst: u32::from_ne_bytes(bytes(forwarded, src)),
        sport: u16::from_ne_bytes(bytes(forwarded, l4 + 2)),
        dport: u16::from_ne_bytes(bytes(forwarded, l4)),
        reserved: 0,
    }
}

/// Turns a client's frame of flow 0 into the one of another flow, as the wrapper does. Its checksums are wrong then,
/// which no program that updates them can notice.
pub(super) fn set_flow(frame: &mut [u8], family: Family, flow: u32, services: u32, bits: u32) {
    let (src, dst, l4) = offsets(family);
    add(frame, src, client_offset(flow));
    add(frame, dst, service_offset(flow, services, bits));
    put(frame, l4, &client_port(flow).to_be_bytes());
}

/// Turns an answer into the one of another flow.
pub(super) fn set_reply(frame: &mut [u8], family: Family, reply: &Reply) {
    let (src, dst, l4) = offsets(family);
    put(frame, src, &reply.src.to_ne_bytes());
    put(frame, dst, &reply.dst.to_ne_bytes());
    put(frame, l4, &reply.sport.to_ne_bytes());
    put(frame, l4 + 2, &reply.dport.to_ne_bytes());
}

/// The address `n` after another.
pub(super) fn nth(base: IpAddr, n: u32) -> IpAddr {
    match base {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4).wrapping_add(n)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6).wrapping_add(n.into())).into(),
    }
}

/// Source and destination.
fn addresses(frame: &[u8], family: Family) -> (IpAddr, IpAddr) {
    match family {
        Family::V4 => (bytes::<4>(frame, 26).into(), bytes::<4>(frame, 30).into()),
        Family::V6 => (bytes::<16>(frame, 22).into(), bytes::<16>(frame, 38).into()),
    }
}

fn with_last_word(address: IpAddr, word: u32) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::from(word.to_ne_bytes()).into(),
        IpAddr::V6(v6) => {
            let mut octets = v6.octets();
            put(&mut octets, 12, &word.to_ne_bytes());
            octets.into()
        }
    }
}

/// With Ethernet padding up to what the wrapper restores.
fn padded(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(frame.len().max(RESTORED), 0);
    frame
}

fn add(frame: &mut [u8], at: usize, offset: u32) {
    let word = u32::from_be_bytes(bytes(frame, at)).wrapping_add(offset);
    put(frame, at, &word.to_be_bytes());
}

/// Zeros where the frame is too short.
fn bytes<const N: usize>(frame: &[u8], at: usize) -> [u8; N] {
    frame.get(at..at + N).and_then(|b| b.try_into().ok()).unwrap_or([0; N])
}

fn put(frame: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = frame.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::shuffle;
    use lb_tests::packet::verify;
    use std::collections::BTreeSet;

    #[test]
    fn frames_are_valid_and_hold_what_is_restored() {
        for family in Family::BOTH {
            for shape in [Shape::Syn, Shape::Ack, Shape::Data, Shape::Stray, Shape::NoService] {
                let frame = from_client(shape, family);
                assert_eq!(verify(&frame), Ok(()), "{shape:?} {family:?}");
                assert!(frame.len() >= RESTORED);
            }
            let forwarded = from_client(Shape::Syn, family);
            let reply = answer_to(family, &forwarded);
            let mut patched = from_backend(family, &Reply::default(), &forwarded);
            set_reply(&mut patched, family, &reply);
            let built = from_backend(family, &reply, &forwarded);
            assert_eq!(verify(&built), Ok(()));
            let (_, _, l4) = offsets(family);
            assert_eq!(patched.get(12..14), built.get(12..14));
            assert_eq!(patched.get(l4..l4 + 8), built.get(l4..l4 + 8));
            assert_eq!(addresses(&patched, family), addresses(&built, family));
        }
    }

    #[test]
    fn every_flow_comes_once_in_a_turn_and_not_in_order() {
        for bits in [0, 1, 10, 16] {
            let flows: Vec<u32> = (0..1 << bits).map(|run| shuffle(run, bits)).collect();
            assert_eq!(flows.iter().collect::<BTreeSet<_>>().len(), 1 << bits, "{bits}");
            assert!(flows.iter().all(|f| *f < 1 << bits));
            let steps = flows.windows(2).filter(|w| w[0].abs_diff(w[1]) <= 8).count();
            assert!(bits < 10 || steps < flows.len() / 16, "{bits}: {steps} short steps");
        }
    }
}
