//! The node's own entry: interfaces and SNAT addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use lb_common::abi;
use lb_common::addr::Addr;
use lb_common::hash::PORTS_PER_BUCKET;
use lb_common::node::{
    MAX_PORTS, MAX_SNAT_ADDRESSES, MAX_SNAT_RANGES, Node, PORT_TX_BY_REDIRECT, Port, SnatRange,
};

use super::PlanError;
use crate::model::{NodeFacts, PortFacts};

/// The node's entry. An interface keeps its index, because flows and backends name it by that.
pub(super) fn plan(facts: &NodeFacts, previous: &Node) -> Result<Node, PlanError> {
    let NodeFacts { hash_key, reset_rate, .. } = *facts;
    let mut node = Node { hash_key, reset_rate, ..Node::EMPTY };
    let (first, last) = facts.snat_ports;
    node.port_base = u32::from(first);
    node.buckets = (u32::from(last) + 1).saturating_sub(u32::from(first)) / PORTS_PER_BUCKET;
    if node.buckets == 0 {
        return Err(PlanError::TooFewPorts(first, last));
    }
    node.rest_ticks = ticks(facts.rest);
    node.idle_ticks = ticks(facts.idle);
    place_ports(&mut node, &facts.ports, previous)?;
    place_ranges(&mut node, &facts.snat)?;
    Ok(node)
}

/// Address of every block.
pub(super) fn blocks(node: &Node) -> BTreeMap<u32, Addr> {
    let ranges = node.ranges.iter().take(node.range_count as usize);
    ranges.flat_map(|r| (0..r.count).map(|i| (r.first_block + i, nth(r.base, i)))).collect()
}

/// Indices of interfaces.
pub(super) struct Ports(BTreeMap<u32, u8>);

impl Ports {
    pub(super) fn of(node: &Node) -> Self {
        let used = (0..).zip(&node.ports).filter(|(_, p)| p.ifindex != 0);
        Self(used.map(|(index, p)| (p.ifindex, index)).collect())
    }

    /// Index of the interface, when the program is attached to it.
    pub(super) fn index(&self, ifindex: u32) -> Option<u8> {
        self.0.get(&ifindex).copied()
    }
}

fn place_ports(node: &mut Node, ports: &[PortFacts], previous: &Node) -> Result<(), PlanError> {
    let entry = |p: &PortFacts| Port {
        ifindex: p.ifindex,
        flags: if p.tx_by_redirect { PORT_TX_BY_REDIRECT } else { 0 },
        mac: p.mac,
        ..Port::EMPTY
    };
    let before = |p: &PortFacts| previous.ports.iter().position(|q| q.ifindex == p.ifindex && p.ifindex != 0);
    for port in ports {
        if let Some(place) = before(port).and_then(|i| node.ports.get_mut(i)) {
            *place = entry(port);
        }
    }
    for port in ports.iter().filter(|p| before(p).is_none()) {
        // An index that was somebody else's until now is only taken when there is no other.
        let free = |i: &usize| node.ports.get(*i).is_some_and(|p| p.ifindex == 0);
        let fresh = |i: &usize| previous.ports.get(*i).is_some_and(|p| p.ifindex == 0);
        let index = (0..MAX_PORTS).find(|i| free(i) && fresh(i)).or_else(|| (0..MAX_PORTS).find(free));
        match index.and_then(|i| node.ports.get_mut(i)) {
            Some(place) => *place = entry(port),
            None => return Err(PlanError::TooManyPorts(port.name.clone())),
        }
    }
    for (index, port) in (0..).zip(&mut node.ports).filter(|(_, p)| p.ifindex != 0) {
        port.index = index;
    }
    let used = node.ports.iter().rposition(|p| p.ifindex != 0).map_or(0, |last| last + 1);
    node.port_count = u32::try_from(used).unwrap_or(0);
    Ok(())
}

/// IPv4 addresses first, then IPv6, each in the order of the file, so that an address that is added at the end
/// of its family moves the blocks of none before it.
fn place_ranges(node: &mut Node, nets: &[IpNet]) -> Result<(), PlanError> {
    if nets.len() > MAX_SNAT_RANGES {
        return Err(PlanError::TooManyRanges);
    }
    let (v4, v6): (Vec<IpNet>, Vec<IpNet>) = nets.iter().partition(|n| matches!(n, IpNet::V4(_)));
    let mut next = 0;
    for net in v4.iter().chain(&v6) {
        let host_bits = u32::from(net.max_prefix_len() - net.prefix_len());
        let fits = 1u32.checked_shl(host_bits).filter(|n| next + n <= MAX_SNAT_ADDRESSES && host_bits < 32);
        let count = fits.ok_or(PlanError::TooManyAddresses(*net))?;
        let used = node.range_count as usize;
        if let Some(range) = node.ranges.get_mut(used) {
            *range = SnatRange { base: net.network().into(), count, first_block: next };
        }
        node.range_count += 1;
        next += count;
        match net {
            IpNet::V4(_) => node.v4_blocks += count,
            IpNet::V6(_) => node.v6_blocks += count,
        }
    }
    node.v6_first = node.v4_blocks;
    Ok(())
}

/// The address `n` after `base`.
fn nth(base: Addr, n: u32) -> Addr {
    match IpAddr::from(base) {
        IpAddr::V4(v4) => std::net::Ipv4Addr::from(u32::from(v4).wrapping_add(n)).into(),
        IpAddr::V6(v6) => std::net::Ipv6Addr::from(u128::from(v6).wrapping_add(n.into())).into(),
    }
}

/// At most half of what 32 bits count, so that comparing with wrapping subtraction works: 39 hours.
fn ticks(time: Duration) -> u32 {
    let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    u32::try_from(nanoseconds >> abi::TICK_SHIFT).unwrap_or(u32::MAX).min(u32::MAX / 2)
}
