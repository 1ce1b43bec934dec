//! Kernel settings that the configuration must agree with.
#![forbid(unsafe_code)]

use std::fs;
use std::io;

use crate::net::NetError;

const LOCAL_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// First and last port that the kernel gives to connections of its own, inclusive
/// (`net.ipv4.ip_local_port_range`, which counts for IPv6 too), in the network namespace of the calling thread.
///
/// # Errors
/// When the setting cannot be read.
pub fn local_port_range() -> Result<(u16, u16), NetError> {
    let fail = |source| NetError::Io { what: format!("read {LOCAL_PORTS}"), source };
    let text = fs::read_to_string(LOCAL_PORTS).map_err(fail)?;
    parse_range(&text)
        .ok_or_else(|| fail(io::Error::other(format!("expected two ports, found {:?}", text.trim()))))
}

/// How strictly the kernel asks whether a packet came in by the interface that its source is reached by: 0 not at all, 1 strictly,
/// 2 whether there is any (RFC 3704); the higher of the interface's own setting and that for all. `None` when it cannot be read.
#[must_use]
pub fn reverse_path_filter(interface: &str) -> Option<u8> {
    let read = |of: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{of}/rp_filter")).ok()?;
        text.trim().parse::<u8>().ok()
    };
    read("all").into_iter().chain(read(interface)).max()
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    let mut words = text.split_ascii_whitespace();
    let range = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    words.next().is_none().then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range() {
        assert_eq!(parse_range("32768\t60999\n"), Some((32768, 60999)));
        for bad in ["", "1", "1 2 3", "a b", "1 65536"] {
            assert_eq!(parse_range(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn this_node_has_one() {
        let (first, last) = local_port_range().unwrap();
        assert!(first <= last);
    }
}
