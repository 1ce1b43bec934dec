//! A network for one thread: a namespace without a name, with a veth pair in it. It ends with the thread.

use std::io::Write;
use std::panic::resume_unwind;
use std::process::{Command, Stdio};
use std::thread;

use nix::sched::{CloneFlags, unshare};

/// Names of the two ends of the veth pair.
pub const PAIR: [&str; 2] = ["left", "right"];

/// Runs the test on a thread in a network of its own.
///
/// # Panics
/// As the test does, or when there can be no such network: it takes root and `ip`.
pub fn in_pair(test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|e| panic!("make a network namespace: {e}"));
            ip("link add left type veth peer name right\nlink set left up\nlink set right up\nlink set lo up\n");
            test();
        });
        thread.join().unwrap_or_else(|panic| resume_unwind(panic));
    });
}

/// A batch of `ip` commands, one a line, in this thread's namespace.
///
/// # Panics
/// When one of them fails.
pub fn ip(batch: &str) {
    let child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|e| panic!("start ip: {e}"));
    let mut commands = child.stdin.take().expect("a pipe");
    commands.write_all(batch.as_bytes()).unwrap_or_else(|e| panic!("tell ip: {e}"));
    drop(commands);
    assert!(child.wait().is_ok_and(|status| status.success()), "{batch}");
}

/// Index of an interface of this thread's namespace.
///
/// # Panics
/// When there is none with this name.
#[must_use]
pub fn ifindex(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap_or_else(|e| panic!("interface {name}: {e}"))
}
