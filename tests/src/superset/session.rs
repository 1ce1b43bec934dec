//! A user of Superset: logs in by the form, opens pages, runs queries in SQL Lab.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hyper::header::{COOKIE, HeaderName};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::http::{Answer, Ask};
use super::stand::Stand;
use crate::e2e::Client;

/// Longer than any page and any query of ours.
const PATIENCE: Duration = Duration::from_secs(150);
const TOKEN: HeaderName = HeaderName::from_static("x-csrftoken");

/// Who is logged in, and where.
#[derive(Clone, Debug)]
pub struct User {
    target: SocketAddr,
    cookie: String,
    token: String,
}

impl User {
    /// Logs in by the form, as a browser does.
    ///
    /// # Errors
    /// When the form is not there, or the session that it gives is no user's.
    pub async fn log_in(target: SocketAddr) -> Result<Self> {
        let form = Ask::get("/login/").send(target, PATIENCE).await?;
        let cookie = form.cookie("session").context("the login page sets no session cookie")?;
        let token = hidden_token(&form.text()).context("the login page has no csrf_token")?;
        let fields = format!("username=admin&password=admin&csrf_token={token}");
        let login = Ask::with_body(Method::POST, "/login/", "application/x-www-form-urlencoded", fields);
        let answer = login.header(COOKIE, &format!("session={cookie}")).send(target, PATIENCE).await?;
        ensure!(
            answer.status == StatusCode::FOUND && !answer.header("location").contains("login"),
            "the login is answered with {} to {:?}",
            answer.status,
            answer.header("location")
        );
        let cookie = answer.cookie("session").unwrap_or(cookie);
        let mut user = Self { target, cookie, token: String::new() };
        let answer = user.get("/api/v1/security/csrf_token/").await?;
        let token: Value = serde_json::from_slice(&answer.body).context("the CSRF token")?;
        user.token = token["result"].as_str().context("no CSRF token")?.to_owned();
        Ok(user)
    }

    /// The Cookie header of the session.
    #[must_use]
    pub fn cookie(&self) -> String {
        format!("session={}", self.cookie)
    }

    /// The same user at another address.
    #[must_use]
    pub fn at(&self, target: SocketAddr) -> Self {
        Self { target, ..self.clone() }
    }

    /// Opens a page or asks the API.
    ///
    /// # Errors
    /// When the answer is not 200; a redirect to the login is another status.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.send(Ask::get(path)).await
    }

    /// Sends JSON to the API.
    ///
    /// # Errors
    /// When the answer is neither 200 nor 201.
    pub async fn send_json(&self, method: Method, path: &str, body: &Value) -> Result<Value> {
        let ask = Ask::with_body(method, path, "application/json", body.to_string());
        let answer = self.send(ask.header(TOKEN, &self.token)).await?;
        serde_json::from_slice(&answer.body).with_context(|| format!("the answer to {path}"))
    }

    /// Runs a statement in SQL Lab and waits for its result.
    ///
    /// # Errors
    /// When it fails, or is not answered.
    pub async fn query(&self, database: i64, sql: &str) -> Result<Value> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // Unique, of at most eleven characters.
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:05x}{number:06x}", std::process::id() & 0xf_ffff);
        let body = json!({
            "database_id": database, "schema": "public", "sql": sql, "client_id": id, "runAsync": false,
            "select_as_cta": false, "queryLimit": 1000, "expand_data": true,
        });
        let answer = self.send_json(Method::POST, "/api/v1/sqllab/execute/", &body).await?;
        ensure!(answer["status"] == "success", "{sql}: {answer}");
        Ok(answer)
    }

    async fn send(&self, ask: Ask) -> Result<Answer> {
        let path = ask.path.clone();
        let answer = ask.header(COOKIE, &self.cookie()).send(self.target, PATIENCE).await?;
        let good = [StatusCode::OK, StatusCode::CREATED].contains(&answer.status);
        ensure!(good, "{path}: {}: {}", answer.status, answer.text().chars().take(300).collect::<String>());
        Ok(answer)
    }
}

/// The value of the hidden field of the login form.
#[must_use]
pub fn hidden_token(page: &str) -> Option<String> {
    let field = page.split("<input").find(|field| field.contains("name=\"csrf_token\""))?;
    let (_, rest) = field.split_once("value=\"")?;
    rest.split('"').next().map(str::to_owned)
}

/// A user at the client's host, one step after the other.
#[derive(Debug)]
pub struct Session {
    /// What the steps are taken with.
    pub client: Client,
    /// Who takes them.
    pub user: User,
}

impl Session {
    /// Logs in through the VIP.
    ///
    /// # Errors
    /// When that fails.
    pub fn log_in(stand: &Stand) -> Result<Self> {
        Self::log_in_at(stand, stand.vip())
    }

    /// Logs in at another balancer's address, or at a replica.
    ///
    /// # Errors
    /// When that fails.
    pub fn log_in_at(stand: &Stand, target: SocketAddr) -> Result<Self> {
        let client = stand.client()?;
        let user = client.wait(client.spawn(User::log_in(target)))?.context("log in")?;
        Ok(Self { client, user })
    }

    /// See [`User::get`].
    ///
    /// # Errors
    /// See there.
    pub fn get(&self, path: &str) -> Result<Answer> {
        let (user, path) = (self.user.clone(), path.to_owned());
        self.client.wait(self.client.spawn(async move { user.get(&path).await }))?
    }

    /// The answer to [`Session::get`] as JSON.
    ///
    /// # Errors
    /// See there.
    pub fn get_json(&self, path: &str) -> Result<Value> {
        serde_json::from_slice(&self.get(path)?.body).with_context(|| format!("the answer to {path}"))
    }

    /// See [`User::send_json`].
    ///
    /// # Errors
    /// See there.
    pub fn send_json(&self, method: Method, path: &str, body: &Value) -> Result<Value> {
        let (user, path, body) = (self.user.clone(), path.to_owned(), body.clone());
        self.client.wait(self.client.spawn(async move { user.send_json(method, &path, &body).await }))?
    }

    /// See [`User::query`].
    ///
    /// # Errors
    /// See there.
    pub fn query(&self, database: i64, sql: &str) -> Result<Value> {
        self.client.wait(self.start_query(database, sql))?
    }

    /// The same without waiting.
    pub fn start_query(&self, database: i64, sql: &str) -> JoinHandle<Result<Value>> {
        let (user, sql) = (self.user.clone(), sql.to_owned());
        self.client.spawn(async move { user.query(database, &sql).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_token_of_the_form() {
        let page = r#"<form><input type="text" name="a" value="1"><input id="csrf_token" name="csrf_token" type="hidden" value="abc.d"></form>"#;
        assert_eq!(hidden_token(page).as_deref(), Some("abc.d"));
        assert_eq!(hidden_token("<form></form>"), None);
    }
}
