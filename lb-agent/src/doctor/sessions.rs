//! Whether the replicas of a Superset share their sessions and their `SECRET_KEY`, found out without credentials.
//!
//! A visit to the login page gives a session, by its cookie, and a CSRF token, which is signed with the key and whose secret is in the
//! session (Flask-WTF). Both are shown to another replica, with a request that is refused in any case: how it is refused
//! says what that replica could read. Without shared sessions a login bounces between replicas; with different keys, pages
//! work and everything that is sent fails.

use std::collections::BTreeMap;

use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, COOKIE};
use hyper::{Method, Request, StatusCode};

use super::backends::Reachable;
use super::exchange::{Answer, ask};
use super::{Finding, Level};

const LOGIN: &str = "/login/";
/// Takes nothing from somebody who is not logged in, and looks at the token before that.
const REFUSES: &str = "/api/v1/sqllab/execute/";
const TOKEN_HEADER: &str = "X-CSRFToken";
const TOKEN_FIELD: &str = "csrf_token";

pub(super) async fn examine(reachable: &[Reachable<'_>]) -> Vec<Finding> {
    let mut services: BTreeMap<&str, Vec<&Reachable<'_>>> = BTreeMap::new();
    for backend in reachable {
        services.entry(&backend.service.name).or_default().push(backend);
    }
    let mut findings = Vec::new();
    for (service, replicas) in services {
        let Some((first, others)) = replicas.split_first().filter(|(_, others)| !others.is_empty()) else {
            continue;
        };
        match visit(first).await {
            Ok(visit) => {
                for other in others {
                    findings.push(compare(first, &visit, other).await);
                }
            }
            Err(why) => findings.push(not_compared(service, &why)),
        }
    }
    findings
}

fn not_compared(subject: &str, why: &str) -> Finding {
    Finding::ok(subject, format!("sessions not compared: {why}"))
}

/// What a visit to the login page gave.
struct Visit {
    cookies: String,
    token: String,
}

async fn visit(replica: &Reachable<'_>) -> Result<Visit, String> {
    let request = Request::get(LOGIN).body(Full::default()).map_err(|e| e.to_string())?;
    let answer = ask(replica.backend.address, request).await;
    let Answer { status, cookies, body } =
        answer.map_err(|e| format!("{}: {LOGIN}: {e}", replica.subject()))?;
    let token = token(&body).filter(|_| status == StatusCode::OK && !cookies.is_empty());
    let token = token
        .ok_or_else(|| format!("{} shows no login page of Superset with a CSRF token", replica.subject()))?;
    Ok(Visit { cookies, token: token.to_owned() })
}

/// The value of the page's hidden field.
fn token(page: &str) -> Option<&str> {
    let tags = page.split('<').filter_map(|rest| rest.split_once('>').map(|(tag, _)| tag));
    let tag = tags.into_iter().find(|tag| {
        attribute(tag, "name") == Some(TOKEN_FIELD) || attribute(tag, "id") == Some(TOKEN_FIELD)
    })?;
    attribute(tag, "value").filter(|token| !token.is_empty())
}

fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = tag.split_once(&format!(" {name}="))?;
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    rest.get(1..)?.split_once(quote).map(|(value, _)| value)
}

async fn compare(first: &Reachable<'_>, shown: &Visit, other: &Reachable<'_>) -> Finding {
    let (a, b) = (first.subject(), other.subject());
    let own = match visit(other).await {
        Ok(own) => own,
        Err(why) => return not_compared(&b, &why),
    };
    let with_session = send(other, &shown.cookies, &shown.token).await;
    let with_token = send(other, &own.cookies, &shown.token).await;
    match (with_session, with_token) {
        (Ok(session), Ok(key)) => verdict(&a, &b, &session, &key),
        (Err(why), _) | (_, Err(why)) => not_compared(&b, &why),
    }
}

async fn send(replica: &Reachable<'_>, cookies: &str, token: &str) -> Result<Answer, String> {
    // JSON, or the refusal is a redirect that says nothing.
    let request = Request::builder()
        .method(Method::POST)
        .uri(REFUSES)
        .header(CONTENT_TYPE, "application/json")
        .header(COOKIE, cookies)
        .header(TOKEN_HEADER, token)
        .body(Full::from("{}"))
        .map_err(|e| e.to_string())?;
    ask(replica.backend.address, request).await.map_err(|e| format!("{}: {REFUSES}: {e}", replica.subject()))
}

/// What refusals of the other replica say: of the first one's session with its token, and of its own session with the first one's
/// token.
fn verdict(a: &str, b: &str, session: &Answer, key: &Answer) -> Finding {
    let says =
        |answer: &Answer, text: &str| answer.status == StatusCode::BAD_REQUEST && answer.body.contains(text);
    let shared = session.status == StatusCode::UNAUTHORIZED
        || (says(session, "token is invalid") && !says(session, "session token is missing"));
    let same_key = match () {
        () if session.status == StatusCode::UNAUTHORIZED || says(key, "tokens do not match") => Some(true),
        () if says(key, "token is invalid") => Some(false),
        () => None,
    };
    let split = says(session, "session token is missing");
    let (level, text, advice) = match (shared, split, same_key) {
        (true, _, Some(true)) => (Level::Ok, format!("shares sessions and SECRET_KEY with {a}"), ""),
        (true, _, Some(false)) => (
            Level::Fail,
            format!("shares sessions with {a}, and has another SECRET_KEY: whatever is sent fails with 400"),
            "give all replicas the same SECRET_KEY",
        ),
        (false, true, Some(true)) => (
            Level::Fail,
            format!("does not share sessions with {a}: logins bounce between them"),
            "set SESSION_SERVER_SIDE = True with SESSION_TYPE = \"redis\" and the same SESSION_REDIS on all replicas",
        ),
        (false, true, Some(false)) => (
            Level::Fail,
            format!("shares neither sessions nor SECRET_KEY with {a}"),
            "give all replicas the same SECRET_KEY and the same SESSION_REDIS",
        ),
        _ => {
            return not_compared(
                b,
                &format!("unexpected answers, status {} and {}", session.status, key.status),
            );
        }
    };
    Finding { level, subject: b.to_owned(), text, advice: advice.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_found() {
        for page in [
            r#"<html><input id="csrf_token" name="csrf_token" type="hidden" value="Im.x-y"></html>"#,
            r#"<p>csrf_token</p><input type='hidden' name='csrf_token' value='Im.x-y' />"#,
            r#"<a><input type="hidden" value="Im.x-y" id="csrf_token"/>"#,
        ] {
            assert_eq!(token(page), Some("Im.x-y"), "{page}");
        }
        for page in ["", "<", "<input name=csrf_token value=x>", r#"<input name="csrf_token">"#, "csrf_token"]
        {
            assert_eq!(token(page), None, "{page}");
        }
    }

    #[test]
    fn each_pair_of_refusals_has_its_verdict() {
        let answer = |status: u16, body: &str| Answer {
            status: StatusCode::from_u16(status).unwrap(),
            body: format!(r#"{{"errors":[{{"message":"400 Bad Request: {body}"}}]}}"#),
            ..Answer::default()
        };
        let (missing, invalid, mismatch) = (
            "The CSRF session token is missing.",
            "The CSRF token is invalid.",
            "The CSRF tokens do not match.",
        );
        for (session, key, level, part) in [
            (
                answer(401, "Missing Authorization Header"),
                answer(400, mismatch),
                Level::Ok,
                "shares sessions and SECRET_KEY",
            ),
            (answer(400, invalid), answer(400, invalid), Level::Fail, "another SECRET_KEY"),
            (answer(400, missing), answer(400, mismatch), Level::Fail, "does not share sessions"),
            (answer(400, missing), answer(400, invalid), Level::Fail, "neither"),
            (answer(404, ""), answer(404, ""), Level::Ok, "not compared"),
            (answer(500, missing), answer(400, mismatch), Level::Ok, "not compared"),
        ] {
            let found = verdict("s/a", "s/b", &session, &key);
            assert_eq!((found.level, found.subject.as_str()), (level, "s/b"), "{found:?}");
            assert!(found.text.contains(part), "{found:?}");
        }
    }
}
