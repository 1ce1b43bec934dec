//! The demo, as a user starts it: it holds what it says, and leaves nothing behind however it ends.
#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lb_tests::lab::wait_until;
use lb_tests::require_root;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// In the environment of a demo and of all that it starts.
const MARK: &str = "EVENKEEL_DEMO_TEST";

/// One demo at a time: it measures how long things take.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A demo that was started, and what tells its programs from others.
struct Demo {
    process: Child,
    files: TempDir,
}

impl Demo {
    fn start() -> Self {
        let files = tempfile::tempdir().unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_demo"))
            .arg("--directory")
            .arg(files.path())
            .env(MARK, files.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { process, files }
    }

    /// Its namespaces, and the processes that it started.
    fn left(&self) -> Vec<String> {
        let mut left = self.namespaces();
        let mark = format!("{MARK}={}", self.files.path().display());
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            // Inherited from the demo; a process that ends meanwhile has none.
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            if environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) {
                left.push(entry.path().display().to_string());
            }
        }
        left
    }

    fn namespaces(&self) -> Vec<String> {
        let prefix = format!("ek-{}-", self.process.id());
        let names = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
        names.map(|e| e.file_name().into_string().unwrap()).filter(|name| name.starts_with(&prefix)).collect()
    }

    fn interrupt(&mut self) -> Option<i32> {
        kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGINT).unwrap();
        self.process.wait().unwrap().code()
    }
}

fn rest(mut stream: impl Read) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn every_check_holds_and_nothing_is_left() {
    require_root!("every_check_holds_and_nothing_is_left");
    let _alone = alone();
    let mut demo = Demo::start();
    let text = rest(demo.process.stdout.take().unwrap());
    let errors = rest(demo.process.stderr.take().unwrap());
    assert!(demo.process.wait().unwrap().success(), "{text}{errors}");
    assert!(text.lines().last().unwrap().starts_with("All "), "{text}");
    assert!(!text.contains("FAILED") && !text.contains('\x1b'), "{text}");
    assert_eq!(demo.left(), Vec::<String>::new());
}

#[test]
fn ctrl_c_under_traffic_leaves_nothing() {
    require_root!("ctrl_c_under_traffic_leaves_nothing");
    let _alone = alone();
    let mut demo = Demo::start();
    let mut lines = BufReader::new(demo.process.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains(" is killed") && line.contains(" s  ")), "it never came to that");
    assert!(demo.left().len() > 6, "six namespaces and some processes: {:?}", demo.left());
    assert_eq!(demo.interrupt(), Some(130));
    assert_eq!(demo.left(), Vec::<String>::new());
    let rest: Vec<_> = lines.collect();
    assert!(!rest.iter().any(|line| line.contains("FAILED")), "what the end breaks is no failure: {rest:?}");
}

#[test]
fn ctrl_c_while_the_lab_is_made_leaves_nothing() {
    require_root!("ctrl_c_while_the_lab_is_made_leaves_nothing");
    let _alone = alone();
    for namespaces in 1..=3 {
        let mut demo = Demo::start();
        let wanted = || demo.namespaces().len() >= namespaces;
        wait_until("it makes namespaces", Duration::from_secs(10), wanted).unwrap();
        assert_eq!(demo.interrupt(), Some(130));
        assert_eq!(demo.left(), Vec::<String>::new());
    }
}
