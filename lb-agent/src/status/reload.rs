//! What came of a reload: the answer of `/v1/reload`, and what the status says of the last one that was refused.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::rfc3339;

/// How a reload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReloadResult {
    /// The file is the configuration in use, whether anything in it is new or not.
    Success,
    /// The file has errors, or does not fit this node.
    Invalid,
    /// The file asks for what only a restart can do.
    RestartNeeded,
}

impl ReloadResult {
    /// Every result.
    pub const ALL: [Self; 3] = [Self::Success, Self::Invalid, Self::RestartNeeded];

    /// Label in metrics, and as it is written in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Invalid => "invalid",
            Self::RestartNeeded => "restart_needed",
        }
    }
}

/// What came of a reload. When it was refused, nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReport {
    /// Path of the configuration file.
    pub config: String,
    /// How it ended.
    pub result: ReloadResult,
    /// What is different now, one line each; empty when nothing is.
    pub changes: Vec<String>,
    /// Why it was refused, one line each.
    pub errors: Vec<String>,
    /// What is unlikely to do what is wanted, one line each.
    pub warnings: Vec<String>,
    /// The kernel does not have it all yet.
    pub pending: bool,
}

/// The last reload, when it was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedReload {
    /// When.
    #[serde(with = "rfc3339")]
    pub at: SystemTime,
    /// `invalid` or `restart_needed`.
    pub result: ReloadResult,
    /// Why, one line each.
    pub errors: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_metrics_have_the_same_names() {
        for result in ReloadResult::ALL {
            assert_eq!(serde_json::to_value(result).unwrap(), result.name());
        }
    }
}
