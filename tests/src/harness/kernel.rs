//! The agent's own data path, loaded for one test.

use lb_agent::config::XdpMode;
use lb_agent::dataplane::ebpf::{EbpfDataplane, LoadOptions};
use lb_agent::dataplane::{Counters, ReasonCounts};
use lb_common::node::Node;

/// Loads the embedded object with room for what the node needs.
pub(super) fn load(node: &Node) -> anyhow::Result<EbpfDataplane> {
    let blocks = node.v4_blocks + node.v6_blocks;
    Ok(EbpfDataplane::load(&LoadOptions::embedded(node.slots(), blocks, XdpMode::Auto)?)?)
}

pub(super) fn reasons(dataplane: &EbpfDataplane) -> ReasonCounts {
    dataplane.counters().reasons().unwrap_or_else(|e| panic!("{e}"))
}
