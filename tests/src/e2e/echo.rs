//! ICMP and ICMPv6 echo, as `ping` does it.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use super::LIMIT;
use crate::lab::Lab;

/// Types of request and reply.
const ICMP: [u8; 2] = [8, 0];
const ICMPV6: [u8; 2] = [128, 129];
/// Type, code, checksum, identifier and sequence number.
const HEADER: usize = 8;

/// Sends echo requests of `length` bytes of data from a host until one is answered as it must be. The kernel cuts
/// into fragments what is longer than the MTU.
///
/// # Errors
/// When none is answered, or an answer holds something else than was sent.
pub fn ping(lab: &Lab, host: &str, address: IpAddr, length: usize) -> Result<()> {
    let [request, reply] = if address.is_ipv4() { ICMP } else { ICMPV6 };
    let (socket, data) = (lab.in_ns(host, || socket(address))??, data(length));
    let start = Instant::now();
    for sequence in 1..u16::MAX {
        let mut message = vec![request, 0, 0, 0, 0, 0];
        message.extend(sequence.to_be_bytes());
        message.extend(&data);
        socket.send(&message).with_context(|| format!("ping {address}"))?;
        match answer(&socket, length) {
            Ok(got) => {
                ensure!(got[0] == reply && got[HEADER..] == data, "ping {address}: a wrong answer");
                return Ok(());
            }
            Err(_) if start.elapsed() < LIMIT => {}
            Err(e) => return Err(e).with_context(|| format!("ping {address} with {length} bytes")),
        }
    }
    bail!("ping {address}: no answer")
}

/// A ping socket: the kernel numbers it, sums up and checks, and gives it only its own answers (icmp(7)).
fn socket(address: IpAddr) -> Result<Socket> {
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").context("allow ping sockets")?;
    let (domain, protocol) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(protocol)).context("a ping socket")?;
    socket.set_read_timeout(Some(LIMIT / 60))?;
    socket.connect(&SocketAddr::new(address, 0).into())?;
    Ok(socket)
}

fn answer(socket: &Socket, length: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; HEADER + length + 1];
    let received = (&mut &*socket).read(&mut buffer)?;
    buffer.truncate(received);
    if received < HEADER { Err(io::Error::other("a short answer")) } else { Ok(buffer) }
}

/// Bytes none of whose halves is like another.
fn data(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 256).to_le_bytes()[0]).collect()
}
