//! Which proofs there are. Shared with `cargo xtask`, which lists them without building anything.

use clap::ValueEnum;

/// A claim about the balancer that is put to the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Name {
    /// A server is killed under 500 new connections a second: no attempt fails
    Kill,
    /// A server hangs under load: who sends it connections, and what becomes of those that it has
    Hang,
    /// A backend's link is cut under load: who notices, and how soon
    Cut,
    /// Requests of very different cost: how even the waiting work is, and how long the slowest take
    Uneven,
    /// After two million flows of every kind the counters are what the flow table says
    Accounting,
    /// Every backend is drained and restarted under load with 30-second queries: nobody notices
    Rolling,
    /// Queries of 300 s in silence outlive a million other flows and a SYN flood
    Silence,
}

impl Name {
    /// As it is called on the command line, in tables and in files.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Hang => "hang",
            Self::Cut => "cut",
            Self::Uneven => "uneven",
            Self::Accounting => "accounting",
            Self::Rolling => "rolling",
            Self::Silence => "silence",
        }
    }
}
