//! The loop: the only place of the agent that waits.
#![forbid(unsafe_code)]

use std::future::{Future, pending, ready};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};

use crate::admin::Heartbeat;
use crate::admin::command::Command;
use crate::flows::FlowSummary;
use crate::health::CheckObservation;
use crate::health::passive::WAITING_LOOK;
use crate::net::hops::Hops;

use super::core::Core;
use super::core::reload::NewConfig;
use super::program::Program;
use super::sweep::Swept;

/// How often the maps are read back.
pub const RESYNC: Duration = Duration::from_secs(30);
/// How often flows are expired.
pub const SWEEP: Duration = Duration::from_secs(10);
/// The loop turns at least this often, for `/livez`.
const BEAT: Duration = Duration::from_secs(1);
/// Observations that are taken at once.
const BATCH: usize = 256;

/// Where events come from.
pub struct Events {
    /// Ended checks.
    pub checks: mpsc::Receiver<CheckObservation>,
    /// Next hops and interfaces.
    pub hops: watch::Receiver<Arc<Hops>>,
    /// What somebody asks for.
    pub commands: mpsc::Receiver<Command>,
    /// Configurations that were read.
    pub configs: mpsc::Receiver<NewConfig>,
}

/// Turns until `stop` is ready, and returns what that says.
pub async fn drive<P: Program, S>(
    core: &mut Core<P>,
    mut events: Events,
    heartbeat: &Heartbeat,
    stop: impl Future<Output = S>,
) -> S {
    let mut stop = pin!(stop);
    let mut beat = every(BEAT);
    let mut resync = every(RESYNC);
    let mut sweep = every(SWEEP);
    let mut observed = Vec::with_capacity(BATCH);
    let mut checked = true;
    let mut sweeping: Option<JoinHandle<Swept>> = None;
    let mut waiting = every(WAITING_LOOK);
    let mut search: Option<JoinHandle<Option<FlowSummary>>> = None;
    loop {
        let (due, drains_due, signals_due) = (core.due(), core.drains_due(), core.signals_due());
        // In this order: a flood of checks must not keep a decision from the kernel, nor a signal from being heard.
        tokio::select! {
            biased;
            why = &mut stop => return why,
            () = at(due) => core.write(),
            () = ready(()), if core.is_bereaved() && sweeping.is_none() => {
                sweeping = Some(spawn_blocking(core.sweep()));
            }
            () = changed(&mut events.hops) => {
                let hops = events.hops.borrow_and_update().clone();
                core.network(&hops);
            }
            // After the hops: those of new backends are there before them.
            config = next(&mut events.configs) => core.reload(config),
            command = next(&mut events.commands) => core.command(command),
            () = at(drains_due) => core.observe_drains(),
            () = at(signals_due) => core.observe_signals(),
            n = events.checks.recv_many(&mut observed, BATCH), if checked => {
                // 0 only when the checker is gone.
                checked = n > 0;
                for o in observed.drain(..n) {
                    core.observe(&o);
                }
            }
            swept = ended(&mut sweeping) => core.swept(swept),
            _ = sweep.tick(), if sweeping.is_none() => sweeping = Some(spawn_blocking(core.sweep())),
            summary = ended(&mut search) => core.observe_waiting(summary),
            _ = waiting.tick(), if search.is_none() && core.watches_waiting() => {
                search = Some(spawn_blocking(core.search()));
            }
            _ = resync.tick() => core.resync(),
            _ = beat.tick() => core.beat(),
        }
        heartbeat.beat();
        core.flush();
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => pending().await,
    }
}

/// The result of a task, once. One that panicked has found and done nothing; its message is in the log.
async fn ended<T: Default>(task: &mut Option<JoinHandle<T>>) -> T {
    let Some(running) = task else { return pending().await };
    let result = running.await.unwrap_or_default();
    *task = None;
    result
}

/// When nobody is left who could send, nothing comes any more.
async fn next<T>(from: &mut mpsc::Receiver<T>) -> T {
    match from.recv().await {
        Some(event) => event,
        None => pending().await,
    }
}

/// When the watcher is gone nothing changes any more.
async fn changed(hops: &mut watch::Receiver<Arc<Hops>>) {
    if hops.changed().await.is_err() {
        pending::<()>().await;
    }
}
