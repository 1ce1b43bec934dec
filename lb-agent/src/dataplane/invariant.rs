//! What must hold of the maps between any two writes.
#![forbid(unsafe_code)]

use std::sync::Arc;

use lb_common::addr::Addr;
use lb_common::backend::Backend;
use lb_common::node::Node;
use lb_common::ring::{RING_SIZE, Ring};
use lb_common::service::{SERVICE_NEAR, ServiceKey};

use super::{RingKey, Tables};
use crate::maglev::members_of;

/// Checks tables; remembers rings, because most are the same in one check and the next.
#[derive(Debug, Default)]
pub struct Checker {
    rings: Vec<(Arc<Ring>, Vec<u16>)>,
}

/// How many rings are remembered: 128 KiB each.
const REMEMBERED: usize = 64;

/// See [`Checker::check`].
///
/// # Errors
/// The first violation that is found.
pub fn check(tables: &Tables) -> Result<(), String> {
    Checker::default().check(tables)
}

impl Checker {
    /// Checks that every id that a packet can reach names something complete. The error says what does not.
    ///
    /// # Errors
    /// The first violation that is found.
    pub fn check(&mut self, tables: &Tables) -> Result<(), String> {
        for (key, &id) in &tables.service_ids {
            self.check_service(tables, key, id)
                .map_err(|why| format!("service {id} ({}): {why}", key.vip))?;
        }
        for (id, backend) in &tables.backends {
            check_port(&tables.node, backend)
                .map_err(|why| format!("backend {id} ({}): {why}", backend.addr))?;
        }
        check_snat(tables)
    }

    fn check_service(&mut self, tables: &Tables, key: &ServiceKey, id: u16) -> Result<(), String> {
        let service = tables.services.get(&id).filter(|s| s.is_live()).ok_or("is reachable and not live")?;
        if (service.vip, service.port, service.protocol) != (key.vip, key.port, key.protocol) {
            return Err(format!("is the service of {}", service.vip));
        }
        if !tables.vips.contains_key(&key.vip) {
            return Err("its address is no VIP".into());
        }
        self.check_ring(tables, tables.rings.get(&RingKey::All(id)).ok_or("has no ring")?, id)?;
        if service.flags & SERVICE_NEAR == 0 {
            return Ok(());
        }
        let near = tables.rings.get(&RingKey::Near(id)).filter(|ring| ring.backends > 0);
        self.check_ring(tables, near.ok_or("has no ring of near backends")?, id)
            .map_err(|why| format!("near: {why}"))
    }

    fn check_ring(&mut self, tables: &Tables, ring: &Arc<Ring>, service: u16) -> Result<(), String> {
        if ring.backends == 0 {
            return Ok(());
        }
        if ring.length == 0 || ring.length as usize > RING_SIZE {
            return Err(format!("ring of length {}", ring.length));
        }
        let members = self.members(ring);
        if members.len() != ring.backends as usize {
            return Err(format!("ring of {} backends claims {}", members.len(), ring.backends));
        }
        for id in members {
            let backend = tables.backends.get(id).filter(|b| b.is_live());
            let backend = backend.ok_or_else(|| format!("ring names backend {id}, which is not live"))?;
            if backend.is_dead() {
                return Err(format!("ring names backend {id}, which is called dead"));
            }
            if backend.service != service {
                return Err(format!("ring names backend {id} of service {}", backend.service));
            }
        }
        Ok(())
    }

    /// Everybody whom the ring names, also 0.
    fn members(&mut self, ring: &Arc<Ring>) -> &[u16] {
        let known = self.rings.iter().position(|(r, _)| Arc::ptr_eq(r, ring) || r == ring);
        let index = known.unwrap_or_else(|| {
            if self.rings.len() >= REMEMBERED {
                self.rings.clear();
            }
            self.rings.push((Arc::clone(ring), members_of(ring)));
            self.rings.len() - 1
        });
        self.rings.get(index).map_or(&[], |(_, members)| members)
    }
}

fn check_port(node: &Node, backend: &Backend) -> Result<(), String> {
    let index = backend.port_index;
    let port = node.ports.get(usize::from(index)).filter(|p| p.ifindex != 0);
    let used = u32::from(index) < node.port_count && port.is_some();
    if backend.is_live() && backend.is_resolved() && !used {
        return Err(format!("resolved by interface {index}, which the node does not have"));
    }
    Ok(())
}

fn check_snat(tables: &Tables) -> Result<(), String> {
    let node = &tables.node;
    if node.v4_first != 0 || node.v6_first != node.v4_blocks {
        return Err("blocks of IPv6 do not follow those of IPv4".into());
    }
    for range in node.ranges.iter().take(node.range_count as usize) {
        for i in 0..range.count {
            let block = range.first_block + i;
            let address = tables.snat.get(&block).copied().unwrap_or(Addr::UNSPECIFIED);
            if address.offset_from(&range.base) != Some(i) {
                return Err(format!("block {block} has address {address}, not {i} after {}", range.base));
            }
        }
    }
    let blocks = node.ranges.iter().take(node.range_count as usize).map(|r| r.count).sum::<u32>();
    if blocks != node.v4_blocks + node.v6_blocks {
        return Err(format!("{blocks} SNAT addresses for {} blocks", node.v4_blocks + node.v6_blocks));
    }
    Ok(())
}
