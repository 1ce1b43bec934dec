//! What the benchmarks' XDP programs share.
#![no_std]

pub mod abi;
pub mod packet;
