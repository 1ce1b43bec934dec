//! `POST /v1/reload`: read the configuration again. Answers with a [`ReloadReport`].

use std::sync::Arc;

use hyper::{Method, Request, StatusCode};
use serde::Serialize;

use super::{refused, settle};
use crate::admin::answer::{Answer, Refused, json_with};
use crate::admin::command::ask_reload;
use crate::admin::view::View;
use crate::status::reload::{ReloadReport, ReloadResult};

/// Answers a request for this path.
pub(super) async fn respond<B>(request: &Request<B>, view: Arc<View>) -> Result<Answer, Refused> {
    if request.method() != Method::POST {
        return Err(Refused::method("POST"));
    }
    let mut report = ask_reload(&view.reloads, "asked for").await.map_err(|e| refused(&e))?;
    if report.result == ReloadResult::Success {
        settle(&view).await;
        report.pending = view.published.borrow().status.dataplane.pending;
    }
    Ok(answer(&report))
}

/// With `error`, as every answer has it that is not what was hoped for.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    #[serde(flatten)]
    report: &'a ReloadReport,
}

fn answer(report: &ReloadReport) -> Answer {
    let (status, error) = match report.result {
        ReloadResult::Success => (StatusCode::OK, None),
        ReloadResult::Invalid => {
            (StatusCode::UNPROCESSABLE_ENTITY, Some("the configuration has errors: the old one stays in use"))
        }
        ReloadResult::RestartNeeded => {
            (StatusCode::CONFLICT, Some("the configuration needs a restart: the old one stays in use"))
        }
    };
    json_with(status, &Body { error, report })
}
