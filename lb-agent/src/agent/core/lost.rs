//! Sweeps of the flow table: when, and what is said of them.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::service::Service;
use tracing::{debug, info, warn};

use super::Core;
use crate::agent::program::Program;
use crate::agent::sweep::{Sweep, Swept};
use crate::dataplane::Tables;
use crate::metrics::Operation;

/// Backends whose flows are lost.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// Ids and generations that are dead or gone in the kernel.
    known: BTreeSet<(u16, u16)>,
    /// There are new ones: their flows are to be looked for now.
    news: bool,
    /// The services that the kernel has.
    services: BTreeMap<u16, Service>,
    /// Those that it had, for as long as nobody else has their ids: what their clients are told must come from their VIPs.
    former: BTreeMap<u16, Service>,
}

impl Lost {
    /// Looks at what the kernel has now.
    pub(super) fn look(&mut self, tables: &Tables) {
        let lost = tables.backends.iter().filter(|(_, b)| !b.is_live() || b.is_dead());
        let now: BTreeSet<_> = lost.map(|(id, b)| (*id, b.generation)).collect();
        self.news |= !now.is_subset(&self.known);
        self.known = now;
        self.former.append(&mut self.services);
        self.former.retain(|id, _| !tables.services.contains_key(id));
        self.services.clone_from(&tables.services);
    }

    /// These tables, with the services that are gone.
    fn with_former(&self, mut tables: Tables) -> Tables {
        for (id, service) in &self.former {
            tables.services.entry(*id).or_insert(*service);
        }
        tables
    }
}

impl<P: Program> Core<P> {
    /// Whether a sweep is due at once, because clients wait for a backend that has died.
    #[must_use]
    pub const fn is_bereaved(&self) -> bool {
        self.lost.news
    }

    /// A sweep of the flow table, to be run where it holds up nothing.
    pub fn sweep(&mut self) -> impl FnOnce() -> Swept + Send + 'static {
        self.lost.news = false;
        let dataplane = self.writer.dataplane();
        let sweep = Sweep { scan: dataplane.scanner(), close: dataplane.closer(), send: self.send.clone() };
        let tables = self.lost.with_former(self.writer.plan().tables.clone());
        move || sweep.run(&tables)
    }

    /// A sweep has ended.
    pub fn swept(&mut self, swept: Swept) {
        self.lost.news |= swept.is_partial();
        if swept.closed > 0 {
            debug!(swept.closed, swept.found, "flows expired");
            self.metrics.expired(swept.closed);
        }
        for (&(id, generation), &flows) in &swept.told {
            self.metrics.resets_sent(flows);
            match self.names(id) {
                Some((service, backend)) => {
                    info!(service, backend, flows, "reset sent to the clients of lost connections");
                }
                None => info!(id, generation, flows, "reset sent to the clients of a removed backend"),
            }
        }
        if let Some(e) = swept.not_closed {
            self.failed(Operation::Expire, format!("cannot expire flows: {e}"));
        }
        if let Some((flows, e)) = swept.not_told {
            self.metrics.error(Operation::Reset);
            warn!(
                flows,
                "cannot send a reset to clients of lost connections, they find out by themselves: {e}"
            );
        }
    }

    /// Names of the service and the backend that hold an id.
    fn names(&self, id: u16) -> Option<(&str, &str)> {
        let mut backends = self.writer.plan().services.values().flat_map(|s| &s.backends);
        self.world.names(backends.find(|(_, its)| **its == id)?.0)
    }
}
