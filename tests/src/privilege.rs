//! What a test may ask of the machine it runs on.

use std::io::Write;

/// Why this process cannot make namespaces and load programs; `Ok` when it can.
///
/// # Errors
/// The reason, for a message.
pub fn root() -> Result<(), String> {
    if nix::unistd::geteuid().is_root() { Ok(()) } else { Err("needs root".to_owned()) }
}

/// Why this process cannot load the XDP program; `Ok` when it can.
///
/// # Errors
/// The reason, for a message.
pub fn data_path() -> Result<(), String> {
    root()?;
    lb_agent::object::bytes().map(drop).map_err(|e| e.to_string())
}

/// Why this process cannot start the agent with its data path; `Ok` when it can.
///
/// # Errors
/// The reason, for a message.
pub fn agent() -> Result<(), String> {
    data_path()?;
    crate::lab::programs::agent().map(drop).map_err(|e| e.to_string())
}

/// Says on stderr that a test did not run. The runner counts these lines, so they must not be captured.
pub fn skipped(test: &str, why: &str) {
    // A test cannot do anything about a closed stderr.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
}

/// Returns from the test, with a line `SKIPPED: test: why` on stderr, when it does not run as root.
#[macro_export]
macro_rules! require_root {
    ($test:expr) => {
        if let Err(why) = $crate::privilege::root() {
            $crate::privilege::skipped($test, &why);
            return;
        }
    };
}

/// Like [`require_root!`](crate::require_root), for tests that load the XDP program.
#[macro_export]
macro_rules! require_data_path {
    ($test:expr) => {
        if let Err(why) = $crate::privilege::data_path() {
            $crate::privilege::skipped($test, &why);
            return;
        }
    };
}

/// Like [`require_root!`](crate::require_root), for tests that start the agent with the XDP program inside.
#[macro_export]
macro_rules! require_agent {
    ($test:expr) => {
        if let Err(why) = $crate::privilege::agent() {
            $crate::privilege::skipped($test, &why);
            return;
        }
    };
}
