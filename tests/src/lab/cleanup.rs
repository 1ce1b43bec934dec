//! Nothing of a lab outlives it: not on drop, not after a panic, not after Ctrl-C.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::unistd::Pid;

/// How long a killed process may take to be gone: an agent's maps are freed meanwhile.
const DYING: Duration = Duration::from_secs(5);

/// Every namespace that a lab makes is called `ek-<pid>-…`: `cargo xtask clean-lab` knows them by it.
const PREFIX: &str = "ek-";

/// The name of a namespace of this process; `part` tells them apart.
pub(super) fn name(part: &str) -> String {
    format!("{PREFIX}{}-{part}", std::process::id())
}

static NAMES: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn names() -> MutexGuard<'static, BTreeSet<String>> {
    NAMES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts a namespace on the list of what a signal must remove.
pub(super) fn remember(name: &str) {
    static HANDLERS: Once = Once::new();
    HANDLERS.call_once(install_handlers);
    names().insert(name.to_owned());
}

/// Takes a namespace off that list, because it is to stay.
pub(super) fn forget(name: &str) {
    names().remove(name);
}

/// Does something that a signal's clean-up must see either whole or not at all: it waits for the end, and what
/// comes after it has begun never runs.
pub(super) fn undisturbed<T>(f: impl FnOnce() -> T) -> T {
    let _names = names();
    f()
}

/// Ends what runs in a namespace and removes it. Does nothing when it is gone.
pub(crate) fn remove(name: &str) {
    end(name);
    names().remove(name);
}

fn end(name: &str) {
    let start = Instant::now();
    loop {
        let left = processes(name);
        if left.is_empty() || start.elapsed() > DYING {
            break;
        }
        for pid in left {
            // It may have ended by itself meanwhile.
            let _ = kill(pid, Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // Interfaces go with the namespace, once the last process in it is gone.
    let _ = Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
}

/// The processes in a namespace, other than this one.
fn processes(name: &str) -> Vec<Pid> {
    let Ok(output) = Command::new("ip").args(["netns", "pids", name]).stderr(Stdio::null()).output() else {
        return Vec::new();
    };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.trim().parse().ok().map(Pid::from_raw))
        .filter(|pid| *pid != Pid::this())
        .collect()
}

static SIGNALLED: AtomicBool = AtomicBool::new(false);

/// Whether a signal has come that ends this process: labs are being removed, and what fails now fails because
/// of that.
#[must_use]
pub fn is_ending() -> bool {
    SIGNALLED.load(Ordering::Relaxed)
}

/// Where the signal handler writes to; a handler may do little more than write.
static PIPE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn on_signal(signal: i32) {
    SIGNALLED.store(true, Ordering::Relaxed);
    let byte = signal.to_ne_bytes();
    // SAFETY: `write` is async-signal-safe and reads four bytes that live on this stack.
    unsafe { libc::write(PIPE.load(Ordering::Relaxed), byte.as_ptr().cast(), byte.len()) };
}

/// SIGINT, SIGTERM and SIGHUP remove every namespace on the list and then end the process as a shell
/// expects it (128 and the signal's number). Handlers that are there already stay, and so does what `nohup` asks for.
/// A shell lets what it starts in the background ignore SIGINT; whoever sends it all the same means it.
fn install_handlers() {
    let Ok((reader, writer)) = nix::unistd::pipe() else { return };
    let writer: RawFd = {
        let raw = writer.as_raw_fd();
        // The handler needs it for as long as the process lives.
        std::mem::forget::<OwnedFd>(writer);
        raw
    };
    PIPE.store(writer, Ordering::Relaxed);
    std::thread::spawn(move || {
        let mut number = [0; 4];
        if std::fs::File::from(reader).read_exact(&mut number).is_ok() {
            let number = i32::from_ne_bytes(number);
            // Held to the end: nothing is made any more.
            let left = names();
            for name in left.iter() {
                end(name);
            }
            let signal = Signal::try_from(number).map_or("a signal", Signal::as_str);
            let _ = writeln!(std::io::stderr(), "ended by {signal}: {} namespaces removed", left.len());
            std::process::exit(128 + number);
        }
    });
    let action = SigAction::new(SigHandler::Handler(on_signal), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only uses atomics and calls `write`.
        let before = unsafe { sigaction(signal, &action) };
        let stays = |before: &SigAction| match before.handler() {
            SigHandler::SigDfl => false,
            SigHandler::SigIgn => signal == Signal::SIGHUP,
            SigHandler::Handler(_) | SigHandler::SigAction(_) => true,
        };
        if let Ok(before) = before
            && stays(&before)
        {
            // SAFETY: puts back the handler that was there.
            let _ = unsafe { sigaction(signal, &before) };
        }
    }
}
