//! The books after an hour's traffic: two CPUs run flows of every kind through the real program, and what it counts is compared
//! with what is in the table, again and again.

mod frames;
mod lives;

use std::sync::{Barrier, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_agent::dataplane::Counters;
use lb_agent::flows::FlowSummary;
use lb_common::reason::Reason;

use super::{Name, Report, progress};
use crate::harness::{Harness, World};
use frames::Frames;
use lives::{Crowd, Tally};

/// CPUs that send.
const CROWDS: u32 = 2;
/// Flows that live at once on each.
const CROWD: usize = 2000;
/// SNAT ports of each family: as many as an address has.
const PORTS: (u16, u16) = (1024, 31_743);
const HOUR: Duration = Duration::from_secs(3600);

/// How much.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Flows in all.
    pub flows: u64,
    /// How often everything stops for a look at the books.
    pub looks: u64,
}

/// One look: flows and waiting flows, summed over the backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Books {
    flows: u64,
    waiting: u64,
}

/// The proof.
///
/// # Errors
/// When the books cannot be read.
pub fn prove() -> Result<Report> {
    progress("accounting: two million flows through the program");
    measure(Size { flows: 2_000_000, looks: 40 })
}

/// The same with any number of flows.
///
/// # Errors
/// When the books cannot be read.
pub fn measure(size: Size) -> Result<Report> {
    let mut world = World::default();
    world.node.snat_ports = PORTS;
    // What is closed is free at once: an hour's flows in a minute.
    world.node.rest = Duration::ZERO;
    world.node.idle = HOUR;
    let mut lb = Harness::new(world);
    let frames = Frames::new();
    let found = Mutex::new(Found::default());
    let meeting = Barrier::new(CROWDS as usize);
    let share = size.flows / u64::from(CROWDS);
    let tallies: Vec<Tally> = thread::scope(|scope| {
        let run = |number| {
            let (lb, frames, found, meeting) = (&lb, &frames, &found, &meeting);
            move || {
                let mut crowd = Crowd::new(lb.dataplane(), frames, (number, CROWDS), CROWD);
                for look in 1..=size.looks {
                    crowd.live_until(share * look / size.looks);
                    if meeting.wait().is_leader() {
                        found.lock().unwrap_or_else(PoisonError::into_inner).look(lb);
                    }
                    meeting.wait();
                }
                crowd.end();
                crowd.tally
            }
        };
        let threads: Vec<_> = (0..CROWDS).map(|number| scope.spawn(run(number))).collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p))).collect()
    });
    let tally = tallies.iter().fold(Tally::default(), Tally::plus);
    // What is left are handshakes that nobody ended: the agent has them closed after a while.
    let embryonic = scan(&lb)?;
    expire(&mut lb)?;
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    report(&lb, &tally, &found, embryonic)
}

/// What the looks under load showed.
#[derive(Clone, Debug, Default)]
struct Found {
    looks: u64,
    wrong: Vec<String>,
    least_waiting: Option<u64>,
    most_waiting: u64,
}

impl Found {
    fn look(&mut self, lb: &Harness) {
        self.looks += 1;
        match compare(lb) {
            Ok(books) => {
                self.least_waiting = Some(self.least_waiting.map_or(books.waiting, |w| w.min(books.waiting)));
                self.most_waiting = self.most_waiting.max(books.waiting);
            }
            Err(e) => self.wrong.push(format!("{e:#}")),
        }
    }
}

/// Compares each backend's counters with the table, slot by slot.
fn compare(lb: &Harness) -> Result<Books> {
    let summary = FlowSummary::of(lb.dataplane().flows().iter().map(|(_, slot)| slot), 0);
    let mut books = Books::default();
    for (id, backend) in &lb.plan().tables.backends {
        let load = lb.dataplane().counters().load(*id).context("map LOAD")?;
        let slots = summary.backend(*id, backend.generation);
        let (flows, waiting) = slots.map_or((0, 0), |s| (u64::from(s.open()), u64::from(s.waiting)));
        ensure!(
            (load.flows, load.waiting) == (flows, waiting),
            "backend {id} is said to have {} flows of which {} wait, and has {flows} and {waiting}",
            load.flows,
            load.waiting
        );
        books.flows += flows;
        books.waiting += waiting;
    }
    Ok(books)
}

fn scan(lb: &Harness) -> Result<Books> {
    compare(lb).context("after the traffic")
}

/// What the agent does with handshakes that are not finished, without the wait.
fn expire(lb: &mut Harness) -> Result<()> {
    let rest = Duration::from_millis(100);
    lb.change(|world| world.node.rest = rest);
    thread::sleep(3 * rest);
    let slots: Vec<u32> = (0..lb.dataplane().flows().len()).collect();
    lb.dataplane().closer().close(&slots).context("close what is over").map(drop)
}

#[expect(clippy::cast_precision_loss, reason = "counts of packets are far below 2^53")]
fn report(lb: &Harness, tally: &Tally, found: &Found, left: Books) -> Result<Report> {
    let mut report = Report::new(Name::Accounting, &["count"]);
    for (name, count) in tally.named() {
        report.row(name, [Some(count as f64)]);
    }
    let reasons = lb.dataplane().counters().reasons().context("map REASON_STATS")?;
    let retried = reasons.get(Reason::SynRetried as usize).copied().unwrap_or_default();
    report.row("SYNs that went on to another backend", [Some(retried as f64)]);
    report.row("looks at the books under load", [Some(found.looks as f64)]);
    report.row("fewest waiting flows in one", [found.least_waiting.map(|w| w as f64)]);
    report.row("most waiting flows in one", [Some(found.most_waiting as f64)]);
    report.row("handshakes left to time out", [Some(left.flows as f64)]);
    let wrong = found.wrong.len();
    let first = found.wrong.first().map(|what| format!(" ({what})")).unwrap_or_default();
    report.aim(
        wrong == 0,
        format!("{wrong} of {} looks under load found another sum over the slots{first}, aim 0", found.looks),
    );
    report.aim(found.least_waiting.is_some_and(|w| w > 0), "flows were waiting at every look");
    report.aim(left.waiting == 0, format!("{} flows wait after the traffic, aim 0", left.waiting));
    match compare(lb) {
        Ok(Books { flows, waiting }) => {
            report.aim(
                (flows, waiting) == (0, 0),
                format!("{flows} flows, {waiting} waiting when all is quiet, aim 0"),
            );
        }
        Err(e) => report.aim(false, format!("when all is quiet {e:#}")),
    }
    Ok(report)
}
