//! What a packet costs without a part of what is done with it: the difference is what that part costs.

use lb_agent::model::{Scheduler, ServiceSpec};

/// A part that a service can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Knowing which flows wait for an answer, and how long: `requests`.
    Requests,
    /// Asking two backends for their work: `scheduler`.
    Comparing,
    /// Keeping a SYN's options, to be sent to another backend: `retries`.
    Retries,
}

impl Part {
    /// The program without it, in rows.
    pub(super) const fn without(self) -> &'static str {
        match self {
            Self::Requests => "requests off",
            Self::Comparing => "scheduler maglev",
            Self::Retries => "retries 0",
        }
    }

    /// Configures a service so that it does without.
    pub(super) const fn leave_out(self, service: &mut ServiceSpec) {
        match self {
            Self::Requests => service.requests = false,
            Self::Comparing => service.scheduler = Scheduler::Maglev,
            Self::Retries => service.policy.retries = 0,
        }
    }
}
