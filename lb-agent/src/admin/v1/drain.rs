//! `/v1/drain/SERVICE/BACKEND`: no new flows to a backend.
//!
//! `POST` begins a drain, `DELETE` ends it, `GET` says how far it is. All three answer with [`DrainProgress`].

use std::sync::Arc;
use std::time::Duration;

use hyper::{Method, Request, StatusCode};

use super::{PATHS, refused, settle};
use crate::admin::answer::{Answer, Refused, json, off_the_loop};
use crate::admin::command::{Change, ask};
use crate::admin::view::View;
use crate::model::DEADLINES;
use crate::status::drain::DrainProgress;

/// Answers a request for this path.
pub(super) async fn respond<B>(request: &Request<B>, view: Arc<View>) -> Result<Answer, Refused> {
    let target = Target::of(request)?;
    match *request.method() {
        Method::GET | Method::HEAD => {}
        Method::POST => change(&view, target.drain(request.uri().query())?).await?,
        Method::DELETE => change(&view, target.undrain()).await?,
        _ => return Err(Refused::method("GET, HEAD, POST, DELETE")),
    }
    progress(view, target).await
}

/// The backend that a path names.
struct Target {
    service: String,
    backend: String,
}

impl Target {
    fn of<B>(request: &Request<B>) -> Result<Self, Refused> {
        let path = request.uri().path();
        let not_found = || Refused::new(StatusCode::NOT_FOUND, format!("no {path} here: {PATHS}"));
        let names = path.strip_prefix("/v1/drain/").and_then(|names| names.split_once('/'));
        let (service, backend) = names.ok_or_else(not_found)?;
        let decoded = (decoded(service), decoded(backend));
        let (Some(service), Some(backend)) = decoded else { return Err(not_found()) };
        if service.is_empty() || backend.is_empty() || backend.contains('/') {
            return Err(not_found());
        }
        Ok(Self { service, backend })
    }

    fn drain(&self, query: Option<&str>) -> Result<Change, Refused> {
        let Self { service, backend } = self;
        let (service, backend) = (service.clone(), backend.clone());
        Ok(Change::Drain { service, backend, deadline: deadline(query.unwrap_or_default())? })
    }

    fn undrain(&self) -> Change {
        let Self { service, backend } = self;
        Change::Undrain { service: service.clone(), backend: backend.clone() }
    }
}

async fn change(view: &View, change: Change) -> Result<(), Refused> {
    ask(&view.commands, change).await.map_err(|e| refused(&e))?;
    settle(view).await;
    Ok(())
}

async fn progress(view: Arc<View>, Target { service, backend }: Target) -> Result<Answer, Refused> {
    off_the_loop(move || {
        let found = DrainProgress::of(&view.status(), &service, &backend);
        found.map(|progress| json(&progress)).map_err(|unknown| Refused::new(StatusCode::NOT_FOUND, unknown))
    })
    .await?
}

/// `deadline=DURATION`, or nothing.
fn deadline(query: &str) -> Result<Option<Duration>, Refused> {
    let wrong = |why: String| Refused::new(StatusCode::BAD_REQUEST, why);
    let mut found = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let Some(text) = pair.strip_prefix("deadline=") else {
            return Err(wrong(format!("{pair}: unknown; deadline=DURATION is known")));
        };
        // In a query a plus is a space.
        let text = decoded(&text.replace('+', " "));
        let parsed = text.as_deref().ok_or_else(|| "not UTF-8".to_owned()).and_then(parse_deadline);
        found = Some(parsed.map_err(|why| wrong(format!("deadline: {why}")))?);
    }
    Ok(found)
}

/// A deadline as people write it.
///
/// # Errors
/// What is wrong with it, and what to give.
pub fn parse_deadline(text: &str) -> Result<Duration, String> {
    let found = humantime::parse_duration(text).ok().filter(|d| DEADLINES.contains(d));
    found.ok_or_else(|| format!("{text:?} is no deadline; give a duration of 1s to 24h, as 10m or 600s"))
}

/// A part of a URL without its percent signs; `None` when it is not UTF-8 then.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let [high, low] = [rest.next()?, rest.next()?].map(|b| char::from(b).to_digit(16));
            u8::try_from(high? * 16 + low?).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_signs_are_decoded() {
        for (text, want) in [
            ("superset-1", Some("superset-1")),
            ("%5Bfd77::11%5d:8088", Some("[fd77::11]:8088")),
            ("a%2Fb", Some("a/b")),
            ("%", None),
            ("%4", None),
            ("%zz", None),
            ("%ff", None),
        ] {
            assert_eq!(decoded(text).as_deref(), want, "{text}");
        }
    }

    #[test]
    fn deadlines() {
        for (query, want) in [
            ("", Some(None)),
            ("deadline=600s", Some(Some(600))),
            ("deadline=1h%2030m", Some(Some(5400))),
            ("deadline=1m+30s", Some(Some(90))),
            ("deadline=24h", Some(Some(86_400))),
            ("deadline=0s", None),
            ("deadline=25h", None),
            ("deadline=", None),
            ("deadline=600", None),
            ("deadline=%ff", None),
            ("dead=600s", None),
            ("deadline", None),
        ] {
            let got = deadline(query).ok().map(|d| d.map(|d| d.as_secs()));
            assert_eq!(got, want, "{query}");
        }
    }
}
