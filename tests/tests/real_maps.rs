//! The agent's own code on the kernel's maps: what was written is read back, scenarios with crashes, what a swap
//! of rings costs, attaching and detaching.
#![expect(clippy::unwrap_used, clippy::panic, reason = "that is how a test fails")]

use std::sync::{Mutex, MutexGuard, PoisonError};

use lb_agent::dataplane::ebpf::{AttachedMode, EbpfDataplane, LoadOptions};
use lb_agent::dataplane::fake::Fake;
use lb_agent::dataplane::{Counters, Dataplane, Op, Tables, scenarios};
use lb_agent::model::XdpMode;
use lb_agent::object;
use lb_common::addr::Addr;
use lb_common::backend::{BACKEND_LIVE, Backend, MAX_BACKENDS};
use lb_common::node::{Node, Port};
use lb_common::ring::{RING_SIZE, Ring};
use lb_common::service::{MAX_SERVICES, SERVICE_LIVE, Service, ServiceKey};
use lb_tests::privilege;

#[path = "real_maps/kernel.rs"]
mod kernel;
