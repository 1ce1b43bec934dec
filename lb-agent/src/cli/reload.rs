//! `lb-agent reload`.

use std::io::Write;

use hyper::{Method, StatusCode};

use super::{Failure, RESTART, ReloadArgs, print, runtime};
use crate::admin::client::{Target, request};
use crate::status::reload::{ReloadReport, ReloadResult};

pub(super) fn reload(args: &ReloadArgs) -> Result<(), Failure> {
    let target = Target::Socket(args.at.socket.clone());
    let report = runtime()?.block_on(ask(&target))?;
    if args.at.json {
        let line = serde_json::to_string(&report).map_err(|e| Failure::failed(format!("json: {e}")))? + "\n";
        print(&line)?;
    } else {
        for warning in &report.warnings {
            // Nobody listens on standard error: nothing can be done about it.
            let _ = writeln!(std::io::stderr(), "warning: {warning}");
        }
    }
    match report.result {
        ReloadResult::Success if args.at.json => Ok(()),
        ReloadResult::Success => print(&text(&report)),
        ReloadResult::Invalid => Err(Failure::usage(report.errors.join("\n"))),
        ReloadResult::RestartNeeded => Err(Failure { status: RESTART, text: report.errors.join("\n") }),
    }
}

async fn ask(target: &Target) -> Result<ReloadReport, Failure> {
    let (status, body) = request(target, Method::POST, "/v1/reload").await.map_err(Failure::failed)?;
    let ours = [StatusCode::OK, StatusCode::UNPROCESSABLE_ENTITY, StatusCode::CONFLICT];
    if ours.contains(&status) {
        return serde_json::from_slice(&body).map_err(|e| {
            Failure::failed(format!("{target}: the answer is not an lb-agent's of this version: {e}"))
        });
    }
    let why = serde_json::from_slice::<serde_json::Value>(&body).ok();
    let why = why.as_ref().and_then(|v| v["error"].as_str()).unwrap_or("no reason given");
    Err(Failure::failed(format!("{target}: {status}: {why}")))
}

fn text(report: &ReloadReport) -> String {
    let mut out = match report.changes.len() {
        0 => format!("{}: reloaded, nothing in it is new\n", report.config),
        1 => format!("{}: reloaded, 1 change:\n", report.config),
        n => format!("{}: reloaded, {n} changes:\n", report.config),
    };
    for change in &report.changes {
        out.push_str("  ");
        out.push_str(change);
        out.push('\n');
    }
    if report.pending {
        out.push_str("PENDING: the kernel does not have it yet\n");
    }
    out
}
