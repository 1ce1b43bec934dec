//! The maps in memory.
#![forbid(unsafe_code)]

use super::{Dataplane, DataplaneError, Op, Tables};

/// Behaves like the maps: it can hold what they can hold, and refuses what they refuse.
#[derive(Clone, Debug, Default)]
pub struct Fake {
    tables: Tables,
    writes: usize,
}

impl Fake {
    /// Maps that an agent before this one has left.
    #[must_use]
    pub const fn holding(tables: Tables) -> Self {
        Self { tables, writes: 0 }
    }

    /// What it holds now.
    #[must_use]
    pub const fn tables(&self) -> &Tables {
        &self.tables
    }

    /// How many writes there were.
    #[must_use]
    pub const fn writes(&self) -> usize {
        self.writes
    }
}

impl Dataplane for Fake {
    fn read(&self) -> Result<Tables, DataplaneError> {
        Ok(self.tables.clone())
    }

    fn apply(&mut self, op: &Op) -> Result<(), DataplaneError> {
        refuse(&self.tables, op)
            .map_err(|why| DataplaneError { what: super::describe(op), source: anyhow::Error::msg(why) })?;
        self.tables.apply(op);
        self.writes += 1;
        Ok(())
    }
}

/// What the kernel would say.
fn refuse(tables: &Tables, op: &Op) -> Result<(), &'static str> {
    use lb_common::{backend::MAX_BACKENDS, node::MAX_SNAT_ADDRESSES, service::MAX_SERVICES};
    let (too_large, missing) =
        ("Argument list too long (os error 7)", "No such file or directory (os error 2)");
    let (max_services, full) = (MAX_SERVICES as usize, "Argument list too long (os error 7)");
    let index = |index: u32, size: u32| if index < size { Ok(()) } else { Err(too_large) };
    let found = |found: bool| if found { Ok(()) } else { Err(missing) };
    match op {
        Op::SetNode(_) => Ok(()),
        Op::SetSnat(block, _) => index(*block, MAX_SNAT_ADDRESSES),
        Op::SetBackend(0, _) => Err("backend id 0 means none"),
        Op::SetBackend(id, _) => index(u32::from(*id), MAX_BACKENDS),
        Op::SetRing(key, _) => key.index().map(|_| ()).ok_or(too_large),
        Op::SetService(id, _) | Op::RemoveService(id) => index(u32::from(*id), MAX_SERVICES),
        Op::RemoveRing(key) => found(tables.rings.contains_key(key)),
        Op::SetVip(vip, _) if tables.vips.len() >= max_services && !tables.vips.contains_key(vip) => {
            Err(full)
        }
        Op::SetServiceId(key, _)
            if tables.service_ids.len() >= max_services && !tables.service_ids.contains_key(key) =>
        {
            Err(full)
        }
        Op::SetVip(..) | Op::SetServiceId(..) => Ok(()),
        Op::RemoveVip(vip) => found(tables.vips.contains_key(vip)),
        Op::RemoveServiceId(key) => found(tables.service_ids.contains_key(key)),
    }
}
