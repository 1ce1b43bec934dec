//! The demo: a balancer at work in a lab, told in chapters to somebody who sees it for the first time.
//!
//! Every sentence that it prints about the balancer is checked, and counts in the end.

mod config;
mod outage;
mod screen;
mod show;
mod stage;
mod story;
mod table;
mod traffic;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::lab::is_ending;
use screen::Screen;
use stage::Stage;

/// What the demo is to do, and with what.
#[derive(Clone, Debug)]
pub struct Options {
    /// The agent's program.
    pub agent: PathBuf,
    /// The program `lab-server` of this package.
    pub server: PathBuf,
    /// Where the configuration and the agent's log are written; made when it is not there.
    pub directory: PathBuf,
    /// Leave everything running at the end.
    pub keep: bool,
}

/// Plays the demo. Returns a line that says how it went.
///
/// After SIGINT, SIGTERM or SIGHUP it does not return: the lab is removed, and the process ends.
///
/// # Errors
/// Why it was given up, or which of its claims did not hold. The lab is gone then as well, unless it is kept.
pub fn play(options: &Options) -> Result<String> {
    let start = Instant::now();
    let mut screen = Screen::new();
    let result = perform(options, &mut screen);
    while is_ending() {
        // The process ends from another thread, which may not be done yet.
        std::thread::sleep(Duration::from_millis(100));
    }
    result?;
    screen.verdict(start.elapsed())
}

fn perform(options: &Options, screen: &mut Screen) -> Result<()> {
    let stage = Stage::new(options)?;
    let told = story::tell(&stage, screen);
    if is_ending() {
        return told;
    }
    if options.keep {
        screen.heading("The lab stays");
        for line in stage.keep() {
            screen.line(&line);
        }
        return told;
    }
    screen.heading("6. The end");
    let told = told.and_then(|()| story::stop(&stage, screen));
    let left = stage.leave();
    screen.claim(
        left.is_empty(),
        &match left.as_slice() {
            [] => "the lab is gone: no network namespace and no process is left".to_owned(),
            left => format!("left behind: {}", left.join(", ")),
        },
    );
    told
}
