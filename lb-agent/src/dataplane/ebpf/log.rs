//! Log lines of the data path itself, in development builds (`cargo xtask build --log`). A release object has none, and
//! nothing of this does anything then.

use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::EbpfDataplane;
use super::error::failure;
use crate::dataplane::DataplaneError;

/// Map that the lines come through.
const LINES: &str = "AYA_LOGS";

impl EbpfDataplane {
    /// Passes the data path's log lines on to the agent's log, until the runtime ends. Says whether this object has
    /// any. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the map of the lines cannot be used.
    pub fn forward_log(&mut self) -> Result<bool, DataplaneError> {
        if self.ebpf.map(LINES).is_none() {
            return Ok(false);
        }
        let what = || format!("map {LINES}: read");
        let logger = EbpfLogger::init(&mut self.ebpf).map_err(|e| failure(what(), &e))?;
        // SAFETY: the logger owns the ring buffer, whose descriptor stays open and the same for as long as it lives.
        let lines = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
        let mut lines = lines.map_err(|e| failure(what(), &e.into_parts().1))?;
        tokio::spawn(async move {
            while let Ok(mut ready) = lines.readable_mut().await {
                ready.get_inner_mut().flush();
                ready.clear_ready();
            }
        });
        Ok(true)
    }
}
