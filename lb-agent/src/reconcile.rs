//! From what the maps hold to what they should hold, one write at a time.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::sync::Arc;

use lb_common::addr::Addr;
use lb_common::backend::{BACKEND_DEAD, BACKEND_RESOLVED, Backend};
use lb_common::node::{MAX_SNAT_RANGES, Node, SnatRange};
use lb_common::ring::{NO_BACKEND, RING_SIZE, Ring};
use lb_common::service::{SERVICE_NEAR, Service, ServiceKey};

use crate::dataplane::{Op, RingKey, Tables};

/// The writes that lead from `actual` to `desired`, in an order in which nothing that a packet can reach ever
/// names something incomplete: backends, rings, services, VIPs, service ids; removal in reverse. That a backend is dead
/// is written when no ring names it any more.
///
/// Nothing is written that is right already. `actual` may come from any agent that died anywhere. A plan
/// never gives an id that is in use to somebody else; when the tables ask for it all the same, a service that
/// stands in the way is unknown, and a backend that moves is out of the rings, until the writes are through.
#[must_use]
pub fn reconcile(actual: &Tables, desired: &Tables) -> Vec<Op> {
    let mut writes = Writes { now: actual.clone(), ops: Vec::new() };
    writes.unreach_renumbered_services(desired);
    writes.free_moving_backends(desired);
    writes.node(desired);
    writes.add(desired);
    writes.remove(desired);
    writes.ops
}

struct Writes {
    /// The tables after `ops`.
    now: Tables,
    ops: Vec<Op>,
}

impl Writes {
    fn push(&mut self, op: Op) {
        self.now.apply(&op);
        self.ops.push(op);
    }

    fn push_all(&mut self, ops: Vec<Op>) {
        ops.into_iter().for_each(|op| self.push(op));
    }

    /// A service whose id is to become another one's.
    fn unreach_renumbered_services(&mut self, desired: &Tables) {
        let renumbered = |key: &ServiceKey, id: &u16| {
            let new = desired.services.get(id);
            new.is_some_and(|s| (s.vip, s.port, s.protocol) != (key.vip, key.port, key.protocol))
        };
        let keys = self.now.service_ids.iter().filter(|(key, id)| renumbered(key, id));
        let ops = keys.map(|(key, _)| Op::RemoveServiceId(*key)).collect();
        self.push_all(ops);
    }

    /// A live backend whose id is to serve another service: no ring of the old one may name it any more.
    fn free_moving_backends(&mut self, desired: &Tables) {
        let live = self.now.backends.iter().filter(|(_, b)| b.is_live());
        let moving: BTreeSet<u16> = live
            .filter(|(id, old)| {
                desired.backends.get(id).is_some_and(|new| new.is_live() && new.service != old.service)
            })
            .map(|(&id, _)| id)
            .collect();
        if moving.is_empty() {
            return;
        }
        let named =
            self.now.rings.iter().filter(|(_, ring)| ring.entries().iter().any(|id| moving.contains(id)));
        let mut ops = Vec::new();
        for (&key, ring) in named {
            let rest = without(ring, &moving);
            if rest.backends == 0
                && let RingKey::Near(id) = key
                && let Some(service) = self.now.services.get(&id)
            {
                // Nobody is near any more: all packets go by the whole ring.
                ops.push(Op::SetService(id, Service { flags: service.flags & !SERVICE_NEAR, ..*service }));
            }
            ops.push(Op::SetRing(key, rest));
        }
        self.push_all(ops);
    }

    /// The node's entry and the addresses of the blocks.
    fn node(&mut self, desired: &Tables) {
        self.unresolve_leaving_ports(desired);
        let changed =
            |(block, address): (&u32, &Addr)| self.now.snat.get(block).is_some_and(|old| old != address);
        if desired.snat.iter().any(changed) {
            // A block is never used with an address that is not its own: new flows wait for the next NODE.
            let ranges = [SnatRange::EMPTY; MAX_SNAT_RANGES];
            let (v4_blocks, v6_blocks, v6_first, range_count) = (0, 0, 0, 0);
            let none = Node { v4_blocks, v6_blocks, v6_first, range_count, ranges, ..self.now.node };
            self.push(Op::SetNode(Box::new(none)));
        }
        let new = desired.snat.iter().filter(|(block, address)| self.now.snat.get(block) != Some(address));
        let ops = new.map(|(&block, &address)| Op::SetSnat(block, address)).collect();
        self.push_all(ops);
        if self.now.node != desired.node {
            self.push(Op::SetNode(Box::new(desired.node)));
        }
        let gone = self.now.snat.keys().filter(|block| !desired.snat.contains_key(block));
        let ops = gone.map(|&block| Op::SetSnat(block, Addr::UNSPECIFIED)).collect();
        self.push_all(ops);
    }

    /// Backends that are reached by an interface that is about to go, or whose index changes hands.
    fn unresolve_leaving_ports(&mut self, desired: &Tables) {
        let stays = |b: &Backend| {
            !b.is_resolved() || same_port(&self.now.node, &desired.node, usize::from(b.port_index))
        };
        let leaving = self.now.backends.iter().filter(|(_, b)| b.is_live() && !stays(b));
        let ops = leaving.map(|(&id, old)| {
            let new = desired.backends.get(&id);
            let new = new.filter(|new| new.is_live() && new.service == old.service && stays(new));
            let unresolved = Backend { flags: old.flags & !BACKEND_RESOLVED, ..*old };
            Op::SetBackend(id, new.map_or(unresolved, |new| before_rings(Some(old), new)))
        });
        let ops = ops.collect();
        self.push_all(ops);
    }

    fn add(&mut self, desired: &Tables) {
        let now = &self.now;
        let mut ops = Vec::new();
        let live = desired.backends.iter().filter(|(_, b)| b.is_live());
        for (&id, backend) in live {
            let old = now.backends.get(&id);
            let new = before_rings(old, backend);
            if old != Some(&new) {
                ops.push(Op::SetBackend(id, new));
            }
        }
        let same = |a: &Arc<Ring>, b: &Arc<Ring>| Arc::ptr_eq(a, b) || a == b;
        for (&key, ring) in &desired.rings {
            if !now.rings.get(&key).is_some_and(|old| same(old, ring)) {
                ops.push(Op::SetRing(key, Arc::clone(ring)));
            }
        }
        for (&id, service) in desired.services.iter().filter(|(id, s)| now.services.get(id) != Some(s)) {
            ops.push(Op::SetService(id, *service));
        }
        for (&vip, &flags) in desired.vips.iter().filter(|(vip, f)| now.vips.get(vip) != Some(f)) {
            ops.push(Op::SetVip(vip, flags));
        }
        for (&key, &id) in desired.service_ids.iter().filter(|(k, id)| now.service_ids.get(k) != Some(id)) {
            ops.push(Op::SetServiceId(key, id));
        }
        self.push_all(ops);
    }

    fn remove(&mut self, desired: &Tables) {
        let now = &self.now;
        let mut ops = Vec::new();
        let unwanted = now.service_ids.keys().filter(|key| !desired.service_ids.contains_key(key));
        ops.extend(unwanted.map(|&key| Op::RemoveServiceId(key)));
        let unwanted = now.vips.keys().filter(|vip| !desired.vips.contains_key(vip));
        ops.extend(unwanted.map(|&vip| Op::RemoveVip(vip)));
        let unwanted = now.services.keys().filter(|id| !desired.services.contains_key(id));
        ops.extend(unwanted.map(|&id| Op::RemoveService(id)));
        let unwanted = now.rings.keys().filter(|key| !desired.rings.contains_key(key));
        ops.extend(unwanted.map(|&key| Op::RemoveRing(key)));
        for (&id, old) in &now.backends {
            // An entry that nobody wants keeps its generation for the next owner of the id.
            let new = desired.backends.get(&id).copied().unwrap_or(Backend { flags: 0, ..*old });
            if new != *old {
                ops.push(Op::SetBackend(id, new));
            }
        }
        for (&id, new) in desired.backends.iter().filter(|(id, _)| !now.backends.contains_key(id)) {
            ops.push(Op::SetBackend(id, *new));
        }
        self.push_all(ops);
    }
}

/// A backend's entry while the rings are not written yet: one of them may still name it, and none may name a dead one.
fn before_rings(old: Option<&Backend>, new: &Backend) -> Backend {
    let known = old.is_some_and(Backend::is_dead);
    let keep = if known { u8::MAX } else { !BACKEND_DEAD };
    Backend { flags: new.flags & keep, ..*new }
}

/// Whether the interface at this index is the same in both.
fn same_port(a: &Node, b: &Node, index: usize) -> bool {
    let port = |node: &Node| node.ports.get(index).map(|p| p.ifindex).filter(|&i| i != 0);
    port(a).is_some() && port(a) == port(b)
}

/// The ring with other members in the place of these; empty when there are no others.
fn without(ring: &Ring, gone: &BTreeSet<u16>) -> Arc<Ring> {
    let mut out = Ring::empty();
    let rest: BTreeSet<u16> = ring.entries().iter().copied().filter(|id| !gone.contains(id)).collect();
    let mut others = rest.iter().copied().cycle();
    for (entry, old) in out.slots.iter_mut().zip(ring.entries()) {
        *entry = if gone.contains(old) { others.next().unwrap_or(NO_BACKEND) } else { *old };
    }
    out.backends = u32::try_from(rest.len()).unwrap_or(0);
    out.length = if rest.is_empty() { 0 } else { ring.length.min(u32::try_from(RING_SIZE).unwrap_or(0)) };
    Arc::from(out)
}

#[cfg(test)]
mod tests;
