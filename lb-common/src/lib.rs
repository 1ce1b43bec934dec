//! Types and arithmetic that the XDP program and the agent must agree on.
//!
//! Everything here is `no_std`, free of I/O and clocks, and tested on the host. A type that crosses the
//! kernel boundary is declared with `map_value!`, which refuses padding at compile time: a map value has
//! one meaning for every byte.
#![no_std]
#![expect(
    clippy::cast_possible_truncation,
    reason = "bit fields and indices are cut on purpose; the tests hold the arithmetic"
)]

#[cfg(feature = "aya")]
extern crate alloc;
#[cfg(test)]
extern crate std;

#[cfg(target_endian = "big")]
compile_error!("map values and packet words are laid out for little-endian machines (x86-64, arm64)");

#[macro_use]
pub mod abi;
pub mod addr;
pub mod backend;
pub mod checksum;
pub mod flow;
pub mod hash;
pub mod headers;
pub mod hint;
pub mod node;
pub mod offer;
pub mod reason;
pub mod ring;
pub mod service;
pub mod stats;
pub mod tcp;
pub mod vlan;
