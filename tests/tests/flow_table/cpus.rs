//! Two CPUs at once.

use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// How often a CPU that is ahead looks for the other before it lets somebody else run.
const SPINS: u32 = 10_000;

/// Runs the work on two threads, each pinned to a CPU of its own (where there are two), and told which it is.
pub(crate) fn on_each_cpu(work: impl Fn(u32) + Sync) {
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("the CPUs of this process");
    let cpus: Vec<usize> = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).collect();
    std::thread::scope(|scope| {
        for index in 0..2 {
            let (cpu, work) = (cpus[index as usize % cpus.len()], &work);
            scope.spawn(move || {
                let mut only = CpuSet::new();
                only.set(cpu).expect("a CPU number");
                sched_setaffinity(Pid::from_raw(0), &only).expect("pin a thread");
                work(index);
            });
        }
    });
}

/// Keeps two CPUs in step.
#[derive(Default)]
pub(crate) struct Step([AtomicU32; 2]);

impl Step {
    /// Returns when both CPUs have called it equally often.
    pub(crate) fn meet(&self, cpu: u32) {
        let [own, other] = [cpu, 1 - cpu].map(|c| &self.0[c as usize]);
        let round = own.fetch_add(1, Ordering::AcqRel) + 1;
        let mut spins = 0_u32;
        while other.load(Ordering::Acquire) < round {
            spins += 1;
            if spins.is_multiple_of(SPINS) {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}
