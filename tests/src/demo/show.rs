//! The live table while time passes, and what is waited for.

use std::time::{Duration, Instant};

use anyhow::Result;
use lb_agent::status::{BackendStatus, ServiceStatus, Status};

use super::screen::Screen;
use super::stage::{Stage, backend, service};
use super::table::Moment;
use super::traffic::Traffic;

/// From one look at the agent's status to the next.
const LOOK: Duration = Duration::from_millis(10);
/// From one drawing of the table to the next, on a terminal.
const REDRAW: Duration = Duration::from_millis(200);
/// From one line to the next, elsewhere.
const RELOG: Duration = Duration::from_secs(1);

/// A backend as the agent described it when something came true.
#[derive(Debug)]
pub(super) struct Sight {
    /// When the answer was there.
    pub(super) at: Instant,
    pub(super) backend: BackendStatus,
}

/// Shows the table while time passes.
#[derive(Debug)]
pub(super) struct Show<'a> {
    stage: &'a Stage,
    screen: &'a mut Screen,
    traffic: &'a Traffic,
    base: &'a [u64],
    begin: Instant,
    events: Vec<String>,
    due: Instant,
}

impl<'a> Show<'a> {
    /// `base` is what the balancer had counted before the traffic, by backend.
    pub(super) fn new(
        stage: &'a Stage,
        screen: &'a mut Screen,
        traffic: &'a Traffic,
        base: &'a [u64],
    ) -> Self {
        let begin = Instant::now();
        Self { stage, screen, traffic, base, begin, events: Vec::new(), due: begin + RELOG }
    }

    /// Lets time pass.
    pub(super) fn go_on(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.look()?;
        }
        Ok(())
    }

    /// Lets time pass until something holds of a backend and of what the kernel knows: whether a decision is not
    /// there yet. `None` when it does not within `limit`.
    pub(super) fn until(
        &mut self,
        name: &str,
        limit: Duration,
        holds: impl Fn(&BackendStatus, bool) -> bool,
    ) -> Result<Option<Sight>> {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            let status = self.look()?;
            let at = Instant::now();
            let (pending, backend) = (status.dataplane.pending, backend(service(status)?, name)?);
            if holds(&backend, pending) {
                return Ok(Some(Sight { at, backend }));
            }
        }
        Ok(None)
    }

    /// Something that the reader should know has happened.
    pub(super) fn event(&mut self, text: &str) {
        let line = format!("{:>4.1} s  {text}", self.begin.elapsed().as_secs_f64());
        if self.screen.is_live() {
            self.events.push(line);
        } else {
            self.screen.draw(&[line]);
        }
    }

    /// Leaves the table on the screen as it is at the end.
    pub(super) fn finish(&mut self) -> Result<()> {
        let service = self.stage.service()?;
        self.draw(&service);
        Ok(())
    }

    /// Waits for a moment, asks the agent, and draws when it is time to.
    fn look(&mut self) -> Result<Status> {
        std::thread::sleep(LOOK);
        let status = self.stage.status()?;
        let now = Instant::now();
        if now >= self.due {
            let service = service(status.clone())?;
            if self.screen.is_live() {
                self.due = now + REDRAW;
                self.draw(&service);
            } else {
                self.due += RELOG;
                self.screen.draw(&[self.moment(&service).line()]);
            }
        }
        Ok(status)
    }

    fn draw(&mut self, service: &ServiceStatus) {
        let mut lines = self.moment(service).table();
        if self.screen.is_live() {
            lines.extend(self.events.iter().cloned());
        }
        self.screen.draw(&lines);
    }

    fn moment<'b>(&'b self, service: &'b ServiceStatus) -> Moment<'b> {
        Moment::now(self.begin, service, self.base, self.traffic)
    }
}
