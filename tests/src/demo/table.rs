//! The live table: what the balancer says of each backend beside what the client sees of it.

use std::time::{Duration, Instant};

use lb_agent::status::{BackendStatus, ServiceStatus};

use super::screen::count;
use super::traffic::{BEAT, Tally, Traffic};

/// How far back the rate looks.
const WINDOW: Duration = Duration::from_secs(1);
/// Requests a second that one block of the bar stands for.
const BLOCK: u64 = 30;

/// One moment.
#[derive(Debug)]
pub(super) struct Moment<'a> {
    /// Since the traffic began.
    pub(super) elapsed: Duration,
    pub(super) service: &'a ServiceStatus,
    /// Everything until now.
    pub(super) total: Tally,
    /// The last [`WINDOW`].
    pub(super) recent: Tally,
    /// What the balancer had counted when the traffic began, by backend.
    pub(super) base: &'a [u64],
}

impl<'a> Moment<'a> {
    pub(super) fn now(
        begin: Instant,
        service: &'a ServiceStatus,
        base: &'a [u64],
        traffic: &Traffic,
    ) -> Self {
        let now = Instant::now();
        // The latest beat is not complete.
        let complete = now.checked_sub(BEAT).unwrap_or(now);
        let from = complete.checked_sub(WINDOW).unwrap_or(complete);
        let recent = traffic.tally(from..complete);
        Self { elapsed: now - begin, service, total: traffic.tally(..), recent, base }
    }

    /// Several lines for a person.
    pub(super) fn table(&self) -> Vec<String> {
        let mut lines = vec![row(["server", "address", "state", "flows", "open", "requests", "a second"])];
        for (backend, base) in self.service.backends.iter().zip(self.base) {
            let rate = self.recent.answers_of(&backend.name);
            let bar = "#".repeat(usize::try_from(rate.div_ceil(BLOCK)).unwrap_or_default());
            lines.push(row([
                &backend.name,
                &backend.address.to_string(),
                &backend.state,
                &count(flows_since(backend, *base)),
                &backend.flows.map_or_else(|| "?".to_owned(), count),
                &count(self.total.answers_of(&backend.name)),
                &format!("{rate:>4} {bar}"),
            ]));
        }
        lines.push(format!(
            "after {:.1} s: {} connections made, {} answered, {} failed",
            self.elapsed.as_secs_f64(),
            count(self.total.attempts),
            count(self.total.ok),
            count(self.total.failures()),
        ));
        lines
    }

    /// The same in one line, for a log.
    pub(super) fn line(&self) -> String {
        let backends: Vec<_> = self
            .service
            .backends
            .iter()
            .map(|b| format!("{} {} {}/s", b.name, b.state, self.recent.answers_of(&b.name)))
            .collect();
        format!(
            "{:>4.1} s  {}, {} failed in all",
            self.elapsed.as_secs_f64(),
            backends.join(", "),
            self.total.failures()
        )
    }
}

fn row(cells: [&str; 7]) -> String {
    let [server, address, state, flows, open, requests, second] = cells;
    let line = format!("{server:<11} {address:<16} {state:<8} {flows:>6} {open:>5} {requests:>9}  {second}");
    line.trim_end().to_owned()
}

/// Flows that a backend was given since `base`.
pub(super) fn flows_since(backend: &BackendStatus, base: u64) -> u64 {
    backend.new_flows.unwrap_or_default().saturating_sub(base)
}
