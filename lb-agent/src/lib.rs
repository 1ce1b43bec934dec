//! Evenkeel's agent as a library: the binary, the tests and the benchmarks use the same code.
//!
//! Pure modules (no I/O, no clock): [`model`], [`maglev`], [`plan`], [`reconcile`], [`health::fsm`], [`drain`].
//! `aya` appears only under [`dataplane::ebpf`]; `tokio` in no pure module.

pub mod admin;
pub mod agent;
pub mod cli;
pub mod config;
pub mod dataplane;
pub mod doctor;
pub mod drain;
pub mod flows;
pub mod health;
pub mod logging;
pub mod maglev;
pub mod metrics;
pub mod model;
pub mod net;
pub mod object;
pub mod plan;
pub mod reconcile;
pub mod status;
