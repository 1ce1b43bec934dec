//! A data plane that fails when a test wants it to.
#![forbid(unsafe_code)]

use super::{Dataplane, DataplaneError, Op, Tables, describe};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Write `n`, counted from 0, is refused; those after it work.
    Refuse(usize),
    /// Write `n` and everything after it fails, as if the agent had been killed.
    Crash(usize),
}

/// Any data plane, with a fault.
#[derive(Debug)]
pub struct Faulty<D> {
    inner: D,
    fault: Fault,
    writes: usize,
}

impl<D: Dataplane> Faulty<D> {
    /// `inner` until the fault.
    #[must_use]
    pub const fn new(inner: D, fault: Fault) -> Self {
        Self { inner, fault, writes: 0 }
    }

    /// Whether the fault has happened.
    #[must_use]
    pub const fn has_failed(&self) -> bool {
        let (Fault::Refuse(n) | Fault::Crash(n)) = self.fault;
        self.writes > n
    }

    /// What was wrapped, for the agent that is started next.
    #[must_use]
    pub fn into_inner(self) -> D {
        self.inner
    }
}

impl<D: Dataplane> Dataplane for Faulty<D> {
    fn read(&self) -> Result<Tables, DataplaneError> {
        match self.fault {
            Fault::Crash(n) if self.writes > n => Err(failure("read all maps".into())),
            Fault::Crash(_) | Fault::Refuse(_) => self.inner.read(),
        }
    }

    fn apply(&mut self, op: &Op) -> Result<(), DataplaneError> {
        let write = self.writes;
        self.writes += 1;
        match self.fault {
            Fault::Refuse(n) if write == n => Err(failure(describe(op))),
            Fault::Crash(n) if write >= n => Err(failure(describe(op))),
            Fault::Refuse(_) | Fault::Crash(_) => self.inner.apply(op),
        }
    }
}

fn failure(what: String) -> DataplaneError {
    DataplaneError { what, source: anyhow::anyhow!("a fault that was asked for") }
}
