//! `lb-agent drain` and `lb-agent undrain`.

use std::io::{IsTerminal, Write};
use std::time::{Duration, SystemTime};

use hyper::{Method, StatusCode};
use tokio::time::sleep;

use super::{DEADLINE, DrainArgs, Failure, UndrainArgs, print, runtime};
use crate::admin::client::{Target, request};
use crate::drain::Outcome;
use crate::status::drain::DrainProgress;
use crate::status::render::drain_line;

/// How often `--wait` asks.
const POLL: Duration = Duration::from_millis(500);
/// How often it says something where nobody looks on.
const REPORT: Duration = Duration::from_secs(10);

pub(super) fn drain(args: &DrainArgs) -> Result<(), Failure> {
    let target = Target::Socket(args.at.socket.clone());
    runtime()?.block_on(async {
        let progress = ask(&target, Method::POST, &path(args)).await?;
        if !args.wait {
            return say(&progress, args.at.json);
        }
        wait(&target, progress, args).await
    })
}

pub(super) fn undrain(args: &UndrainArgs) -> Result<(), Failure> {
    let target = Target::Socket(args.at.socket.clone());
    let progress = runtime()?.block_on(ask(&target, Method::DELETE, &args.backend.path()))?;
    say(&progress, args.at.json)
}

fn path(args: &DrainArgs) -> String {
    let deadline = args.deadline.map(|d| format!("?deadline={}ms", d.as_millis()));
    args.backend.path() + &deadline.unwrap_or_default()
}

/// A backend as the command line names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BackendName {
    service: String,
    backend: String,
}

impl BackendName {
    /// `SERVICE/BACKEND`. A backend without a name of its own is called by its address.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let good = |name: &str| {
            let good = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
            !name.is_empty() && name.chars().all(good)
        };
        match text.split_once('/') {
            Some((service, backend)) if good(service) && good(backend) => {
                Ok(Self { service: service.to_owned(), backend: backend.to_owned() })
            }
            Some(_) | None => Err("want SERVICE/BACKEND, as superset/superset-1".to_owned()),
        }
    }

    fn path(&self) -> String {
        format!("/v1/drain/{}/{}", self.service, self.backend)
    }
}

/// Watches the drain until its end.
async fn wait(target: &Target, mut progress: DrainProgress, args: &DrainArgs) -> Result<(), Failure> {
    let mut screen = Screen::new(args.at.json);
    loop {
        let name = format!("{}/{}", progress.service, progress.backend);
        let Some(drain) = &progress.drain else {
            screen.close();
            return Err(Failure::failed(format!(
                "{name}: somebody wanted it back: it is not drained any more"
            )));
        };
        screen.show(&progress, drain.result.is_some())?;
        match drain.result.as_deref() {
            None => {}
            Some(result) if result == Outcome::Complete.name() => return Ok(()),
            Some(_) => {
                let left = drain.left_waiting.map_or_else(String::new, |n| format!(", flows that wait: {n}"));
                let text = format!("lb-agent: {name}: the deadline came before the end of the drain{left}");
                return Err(Failure { status: DEADLINE, text });
            }
        }
        sleep(POLL).await;
        progress = ask(target, Method::GET, &args.backend.path()).await.inspect_err(|_| screen.close())?;
    }
}

async fn ask(target: &Target, method: Method, path: &str) -> Result<DrainProgress, Failure> {
    let (status, body) = request(target, method, path).await.map_err(Failure::failed)?;
    if status == StatusCode::OK {
        return serde_json::from_slice(&body).map_err(|e| {
            Failure::failed(format!("{target}: the answer is not an lb-agent's of this version: {e}"))
        });
    }
    let why = serde_json::from_slice::<serde_json::Value>(&body).ok();
    let why = why.as_ref().and_then(|v| v["error"].as_str()).unwrap_or("no reason given");
    Err(match status {
        // A backend that there is not, or a deadline that cannot be.
        StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => Failure::usage(format!("lb-agent: {why}")),
        _ => Failure::failed(format!("{target}: {status}: {why}")),
    })
}

/// The one answer of a command that does not wait.
fn say(progress: &DrainProgress, json: bool) -> Result<(), Failure> {
    if json {
        return print(&(json_line(progress)? + "\n"));
    }
    print(&(drain_line(progress, SystemTime::now()) + "\n"))
}

fn json_line(progress: &DrainProgress) -> Result<String, Failure> {
    serde_json::to_string(progress).map_err(|e| Failure::failed(format!("json: {e}")))
}

/// Shows progress: on a terminal one line that changes, elsewhere a line now and then, or JSON.
struct Screen {
    json: bool,
    is_terminal: bool,
    /// What was shown last, and when.
    last: Option<(String, tokio::time::Instant)>,
}

impl Screen {
    fn new(json: bool) -> Self {
        Self { json, is_terminal: std::io::stderr().is_terminal(), last: None }
    }

    fn show(&mut self, progress: &DrainProgress, is_end: bool) -> Result<(), Failure> {
        let line = if self.json { json_line(progress)? } else { drain_line(progress, SystemTime::now()) };
        let now = tokio::time::Instant::now();
        let (is_new, age) =
            self.last.as_ref().map_or((true, Duration::MAX), |(last, at)| (*last != line, now - *at));
        let is_due = self.json || self.is_terminal || is_end || age >= REPORT;
        if is_new && is_due {
            if self.json {
                print(&format!("{line}\n"))?;
            } else if self.is_terminal {
                to_stderr(&format!("\r{line}\x1b[K"));
            } else {
                to_stderr(&format!("{line}\n"));
            }
            self.last = Some((line, now));
        }
        if is_end {
            self.close();
        }
        Ok(())
    }

    /// Leaves the line that changed.
    fn close(&self) {
        if self.is_terminal && !self.json && self.last.is_some() {
            to_stderr("\n");
        }
    }
}

fn to_stderr(text: &str) {
    // Nobody listens on standard error: nothing can be done about it.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_are_named_by_service_and_name_or_address() {
        for (text, path) in [
            ("superset/superset-1", "/v1/drain/superset/superset-1"),
            ("s.v4/10.77.0.11:8088", "/v1/drain/s.v4/10.77.0.11:8088"),
            ("six/[fd77::11]:8088", "/v1/drain/six/[fd77::11]:8088"),
        ] {
            assert_eq!(BackendName::parse(text).unwrap().path(), path);
        }
        for wrong in ["", "superset", "/", "a/", "/b", "a/b/c", "a/b?deadline=1s", "a/b c", "a/ä"] {
            assert!(BackendName::parse(wrong).is_err(), "{wrong}");
        }
    }
}
