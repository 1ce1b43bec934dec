//! Which CPU does what, and what it does first.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lb_tests::lab::Lab;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Where clients run, and servers too while the balancer has a CPU of its own.
pub(super) const CLIENT_CPU: usize = 0;
/// Where servers run, and the balancer while it has a CPU of its own.
pub(super) const SERVER_CPU: usize = 1;
/// The balancer's own CPU, when it has one.
pub(super) const BALANCER_CPU: usize = SERVER_CPU;

/// Runs `f` on one CPU. Threads and processes that it starts stay there.
///
/// # Errors
/// When there is no such CPU.
pub(super) fn on<T>(cpu: usize, f: impl FnOnce() -> T) -> Result<T> {
    let me = Pid::from_raw(0);
    let before = sched_getaffinity(me).context("read the CPUs of this thread")?;
    pin(me, cpu)?;
    let result = f();
    sched_setaffinity(me, &before).context("give this thread its CPUs back")?;
    Ok(result)
}

/// Moves every thread of a process to one CPU.
///
/// # Errors
/// When the process is gone.
pub(super) fn pin_process(pid: u32, cpu: usize) -> Result<()> {
    threads_of(pid)?.into_iter().try_for_each(|thread| pin(Pid::from_raw(thread.cast_signed()), cpu))
}

fn pin(task: Pid, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu).with_context(|| format!("CPU {cpu}"))?;
    sched_setaffinity(task, &set)
        .with_context(|| format!("move {task} to CPU {cpu} (the lab needs two CPUs: 0 and 1)"))
}

/// All threads of a process.
///
/// # Errors
/// When the process is gone.
pub(super) fn threads_of(pid: u32) -> Result<Vec<u32>> {
    let dir = format!("/proc/{pid}/task");
    let entries = std::fs::read_dir(&dir).with_context(|| format!("read {dir}"))?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// Gives an interface's packet processing a kernel thread of its own, on one CPU; returns the thread.
///
/// # Errors
/// When the interface has no NAPI (neither XDP nor GRO) or more than one queue.
pub(super) fn napi_thread(lab: &Lab, host: &str, device: &str, cpu: usize) -> Result<u32> {
    let before = napi_threads(device)?;
    // `ip netns exec` mounts the namespace's own /sys; the lab does not.
    let output = Command::new("ip")
        .args(["netns", "exec", lab.namespace(host)?, "sh", "-c"])
        .arg(format!("echo 1 > /sys/class/net/{device}/threaded"))
        .output()
        .context("start ip")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "threaded NAPI for {device} of {host}: {}", said.trim());
    let new: Vec<u32> = napi_threads(device)?.difference(&before).copied().collect();
    ensure!(new.len() == 1, "{device} of {host} has {} new NAPI threads, not one", new.len());
    pin_process(new[0], cpu)?;
    Ok(new[0])
}

/// Kernel threads are called `napi/DEVICE-ID`.
fn napi_threads(device: &str) -> Result<BTreeSet<u32>> {
    let prefix = format!("napi/{device}-");
    let entries = std::fs::read_dir("/proc").context("read /proc")?;
    Ok(entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with(&prefix))
        })
        .collect())
}

/// Lets a thread (0: this one) run before all of lower priority on its CPU whenever it has work; those that nobody
/// asked this for have priority 0.
///
/// # Errors
/// When the thread is gone.
pub(super) fn run_first(pid: u32, priority: i32) -> Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: reads the struct, which lives on this stack.
    let result =
        unsafe { libc::sched_setscheduler(pid.cast_signed(), libc::SCHED_FIFO, &raw const parameters) };
    ensure!(result == 0, "make thread {pid} the first: {}", std::io::Error::last_os_error());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_starts_on_a_cpu_stays_there() {
        let set =
            on(0, || std::thread::spawn(|| sched_getaffinity(Pid::from_raw(0)).unwrap()).join().unwrap())
                .unwrap();
        let cpus: Vec<_> = (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap()).collect();
        assert_eq!(cpus, [0]);
        assert!(threads_of(std::process::id()).unwrap().contains(&std::process::id()));
    }
}
