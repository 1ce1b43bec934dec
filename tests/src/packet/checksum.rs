//! Internet checksums by etherparse: on purpose not the code that the data path uses.

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;

/// What is added, in ones' complement, to make a checksum wrong. Incremental updates keep the difference.
const ERROR: u16 = 0x5a5a;

/// Sum of the pseudo-header of RFC 9293 §3.1 and RFC 8200 §8.1. Nothing when the families differ.
pub(super) fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, length: usize) -> Sum16BitWords {
    let length = u32::try_from(length).expect("a packet is shorter than 4 GiB").to_be_bytes();
    let mut sum = Sum16BitWords::new();
    match (src, dst) {
        (IpAddr::V4(s), IpAddr::V4(d)) => sum = sum.add_4bytes(s.octets()).add_4bytes(d.octets()),
        (IpAddr::V6(s), IpAddr::V6(d)) => sum = sum.add_16bytes(s.octets()).add_16bytes(d.octets()),
        _ => panic!("a packet from {src} to {dst}: two families"),
    }
    sum.add_2bytes([0, protocol]).add_4bytes(length)
}

/// Whether `bytes`, which contain their checksum, add up.
pub(super) fn is_valid(sum: Sum16BitWords, bytes: &[u8]) -> bool {
    sum.add_slice(bytes).ones_complement() == 0
}

/// Writes the checksum of `bytes` into them at `at`, wrong by a constant when `broken`.
pub(super) fn write(sum: Sum16BitWords, bytes: &mut [u8], at: usize, broken: bool) {
    bytes[at..at + 2].fill(0);
    let mut value = sum.add_slice(bytes).ones_complement().to_be();
    if broken {
        let (sum, carry) = value.overflowing_add(ERROR);
        value = sum + u16::from(carry);
    }
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
