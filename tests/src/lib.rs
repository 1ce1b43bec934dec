//! What the tests that need a kernel stand on: a packet builder, network-namespace labs, real servers and
//! load, and the check for privileges.
//!
//! This crate is test support: a panic here is a failed test, with the reason in its message.
#![expect(clippy::panic, clippy::expect_used, reason = "a panic here is how a test fails")]

pub mod content;
pub mod demo;
pub mod e2e;
pub mod harness;
pub mod lab;
pub mod limits;
pub mod load;
pub mod machine;
pub mod metrics;
pub mod packet;
pub mod pair;
pub mod privilege;
pub mod proof;
pub mod server;
pub mod superset;
pub mod vm;
