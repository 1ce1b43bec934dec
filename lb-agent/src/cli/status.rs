//! `lb-agent status`.

use std::time::SystemTime;

use super::{Failure, StatusArgs, print, runtime};
use crate::admin::client;
use crate::status::Status;
use crate::status::render::render;

pub(super) fn status(args: &StatusArgs) -> Result<(), Failure> {
    let body = runtime()?.block_on(client::get(args.admin, "/status")).map_err(Failure::failed)?;
    let not_ours = |e: serde_json::Error| {
        Failure::failed(format!("{}: the answer is not an lb-agent's of this version: {e}", args.admin))
    };
    let status: Status = serde_json::from_slice(&body).map_err(not_ours)?;
    if args.json {
        return print(&String::from_utf8_lossy(&body));
    }
    print(&render(&status, SystemTime::now()))
}
