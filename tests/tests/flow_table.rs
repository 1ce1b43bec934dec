//! The flow table in the kernel: who gets a slot and who keeps it, what packets do to a flow, and two CPUs at once.
//!
//! Packets run through the data path by `BPF_PROG_TEST_RUN`; what they did is read from the table itself.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic here is how a test fails"
)]

#[path = "flow_table/claims.rs"]
mod claims;
#[path = "flow_table/concurrent.rs"]
mod concurrent;
#[path = "flow_table/cpus.rs"]
mod cpus;
#[path = "flow_table/expire.rs"]
mod expire;
#[path = "flow_table/flood.rs"]
mod flood;
#[path = "flow_table/life.rs"]
mod life;
#[path = "flow_table/model.rs"]
mod model;
#[path = "flow_table/retries.rs"]
mod retries;
#[path = "flow_table/schedulers.rs"]
mod schedulers;
#[path = "flow_table/states.rs"]
mod states;
#[path = "flow_table/table.rs"]
mod table;
#[path = "flow_table/traffic.rs"]
mod traffic;
#[path = "flow_table/waiting.rs"]
mod waiting;
