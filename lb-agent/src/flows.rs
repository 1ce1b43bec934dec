//! What the flow table's slots say: counts, single flows, and which are over. Pure: slots in, values out.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};

use lb_common::backend::{Backend, MAX_BACKENDS};
use lb_common::flow::{Ctrl, Slot, State};
use lb_common::hash::PORTS_PER_BUCKET;
use lb_common::node::Node;

use crate::dataplane::{SlotCensus, Tables};

/// The table in one pass.
#[derive(Clone, Debug)]
pub struct FlowSummary {
    /// Slots by state.
    pub census: SlotCensus,
    /// By backend id; each generation that has flows.
    backends: Vec<Vec<BackendFlows>>,
}

/// The flows of one generation of a backend id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendFlows {
    /// See [`lb_common::backend::Backend::generation`].
    pub generation: u16,
    /// Flows by [`State`], in the order of [`State::ALL`]; 0 for those that are no flow.
    pub by_state: [u32; State::ALL.len()],
    /// Of these, flows that one side has closed.
    pub half_closed: u32,
    /// Flows that wait for an answer.
    pub waiting: u32,
    /// How long the oldest of them has waited, in ticks; 0 when none waits.
    pub oldest_waiting: u32,
}

impl FlowSummary {
    /// Counts slots; `now` in ticks of `CLOCK_MONOTONIC`, by which waiting is timed.
    #[must_use]
    pub fn of(slots: impl IntoIterator<Item = Slot>, now: u32) -> Self {
        let mut summary =
            Self { census: SlotCensus::default(), backends: vec![Vec::new(); MAX_BACKENDS as usize] };
        // Faster than a loop: the iterator over the table is a chain of two ranges.
        slots.into_iter().for_each(|slot| summary.add(&slot, now));
        summary
    }

    /// Every backend that has flows, by id and then by generation as they were found.
    pub fn backends(&self) -> impl Iterator<Item = (u16, &BackendFlows)> {
        (0..=u16::MAX).zip(&self.backends).flat_map(|(id, all)| all.iter().map(move |flows| (id, flows)))
    }

    /// The flows of a backend, if it has any.
    #[must_use]
    pub fn backend(&self, id: u16, generation: u16) -> Option<&BackendFlows> {
        self.backends.get(usize::from(id))?.iter().find(|flows| flows.generation == generation)
    }

    fn add(&mut self, slot: &Slot, now: u32) {
        let ctrl = Ctrl(slot.ctrl);
        let state = ctrl.state();
        self.census.add(state);
        if !ctrl.is_used() {
            return;
        }
        let Some(flows) = self.entry(ctrl) else { return };
        if let Some(count) = flows.by_state.get_mut(state as usize) {
            *count += 1;
        }
        flows.half_closed += u32::from(ctrl.is_half_closed());
        if ctrl.is_waiting() {
            flows.waiting += 1;
            flows.oldest_waiting = flows.oldest_waiting.max(age(slot.waiting_since, now));
        }
    }

    /// Few backends have flows of more than one generation, and few generations at that.
    fn entry(&mut self, ctrl: Ctrl) -> Option<&mut BackendFlows> {
        let all = self.backends.get_mut(usize::from(ctrl.backend()))?;
        let generation = ctrl.generation();
        let known = all.iter().position(|flows| flows.generation == generation);
        let index = known.unwrap_or_else(|| {
            all.push(BackendFlows::none(generation));
            all.len() - 1
        });
        all.get_mut(index)
    }
}

impl BackendFlows {
    const fn none(generation: u16) -> Self {
        Self { generation, by_state: [0; _], half_closed: 0, waiting: 0, oldest_waiting: 0 }
    }

    /// Flows that are not over.
    #[must_use]
    pub fn open(&self) -> u32 {
        State::ALL
            .iter()
            .zip(self.by_state)
            .filter(|(s, _)| Ctrl::new(**s, 0, 0, 0).is_open())
            .map(|(_, n)| n)
            .sum()
    }
}

/// One moment on the two clocks that a slot's times are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The data path's own clock, in ticks: when a side was last seen.
    pub seen: u32,
    /// `CLOCK_MONOTONIC` in ticks: since when a flow waits.
    pub exact: u32,
}

/// One flow, for listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Slot in the table.
    pub index: u32,
    /// Which SNAT address: an index in [`Tables::snat`].
    pub block: u32,
    /// SNAT port.
    pub port: u16,
    /// The client.
    pub client: SocketAddr,
    /// Service id.
    pub service: u16,
    /// Backend id.
    pub backend: u16,
    /// The id's generation when the flow was made.
    pub generation: u16,
    /// Where it is in its life.
    pub state: State,
    /// Whether one side has closed it.
    pub half_closed: bool,
    /// Ticks since the client's last packet.
    pub client_silent: u32,
    /// Ticks since the backend's last packet; while there was none, since the client's.
    pub backend_silent: u32,
    /// Ticks since the request that is not answered yet.
    pub waiting: Option<u32>,
}

impl Flow {
    /// The flow in a slot, or `None` when there is none.
    #[must_use]
    pub fn of(index: u32, slot: &Slot, node: &Node, now: Now) -> Option<Self> {
        let ctrl = Ctrl(slot.ctrl);
        if !ctrl.is_used() {
            return None;
        }
        let per_block = node.buckets * PORTS_PER_BUCKET;
        let (block, offset) = (index.checked_div(per_block)?, index.checked_rem(per_block)?);
        Some(Self {
            index,
            block,
            port: u16::try_from(node.port_base + offset).ok()?,
            client: SocketAddr::new(IpAddr::from(slot.client), u16::from_be(slot.client_port)),
            service: ctrl.service(),
            backend: ctrl.backend(),
            generation: ctrl.generation(),
            state: ctrl.state(),
            half_closed: ctrl.is_half_closed(),
            client_silent: age(slot.client_seen, now.seen),
            backend_silent: age(
                if ctrl.is_unheard() { slot.client_seen } else { slot.backend_seen },
                now.seen,
            ),
            waiting: ctrl.is_waiting().then(|| age(slot.waiting_since, now.exact)),
        })
    }
}

/// Whether the flow in this slot is to be closed: it is stale ([`Slot::is_stale`]), or lost.
#[must_use]
pub fn is_over(slot: &Slot, tables: &Tables, now: u32) -> bool {
    let ctrl = Ctrl(slot.ctrl);
    is_lost(ctrl, tables)
        || (ctrl.is_open() && slot.is_stale(ctrl, now, tables.node.idle_ticks, tables.node.rest_ticks))
}

/// Whether the flow is open and its backend will never answer: it is dead, was removed, or its id was given to another.
#[must_use]
pub fn is_lost(ctrl: Ctrl, tables: &Tables) -> bool {
    let serves = |b: &Backend| b.is_live() && !b.is_dead() && b.generation == ctrl.generation();
    ctrl.is_open() && !tables.backends.get(&ctrl.backend()).is_some_and(serves)
}

/// A packet may come in after `now` was read. What is up to a minute ahead is now, and not 78 hours ago.
const AHEAD: u32 = lb_common::abi::ticks_of_seconds(60);

/// Ticks from `then` to `now`.
const fn age(then: u32, now: u32) -> u32 {
    if then.wrapping_sub(now) <= AHEAD { 0 } else { now.wrapping_sub(then) }
}

#[cfg(test)]
mod tests;
