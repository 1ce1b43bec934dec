//! A headless Chromium on the client's host, steered by WebDriver (W3C) through Debian's chromedriver.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hyper::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::http::Ask;
use super::stand::Stand;
use crate::e2e::Client;
use crate::lab::{CLIENT, Process, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

/// A browser; it ends when this is dropped.
#[derive(Debug)]
pub struct Browser {
    client: Client,
    driver: SocketAddr,
    session: String,
    // In this order they end.
    _process: Process,
    _profile: TempDir,
}

impl Browser {
    /// Starts it.
    ///
    /// # Errors
    /// When it is not installed, or does not start.
    pub fn start(stand: &Stand) -> Result<Self> {
        let profile = tempfile::tempdir().context("make a directory")?;
        let mut command = Command::new("chromedriver");
        command.args(["--port=9515", "--log-level=WARNING"]).env("HOME", profile.path());
        let process = stand.lab().spawn(CLIENT, command.stdin(Stdio::null()).stdout(Stdio::null()))?;
        let driver = SocketAddr::from(([127, 0, 0, 1], 9515));
        wait_until("chromedriver answers", LIMIT, || stand.lab().get(CLIENT, driver, "/status").is_ok())?;
        let client = stand.client()?;
        let mut browser =
            Self { client, driver, session: String::new(), _process: process, _profile: profile };
        let args = [
            "--headless=new",
            // As root there is none.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--no-proxy-server",
            "--window-size=1400,1100",
        ];
        let options = json!({ "binary": "/usr/bin/chromium", "args": args });
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let made = browser.send(Method::POST, "/session", &wanted)?;
        browser.session = made["sessionId"].as_str().context("no WebDriver session")?.to_owned();
        Ok(browser)
    }

    /// Opens a page, and returns when it is loaded.
    ///
    /// # Errors
    /// When it cannot be loaded.
    pub fn open(&self, url: &str) -> Result<()> {
        self.tell("url", &json!({ "url": url })).map(drop)
    }

    /// Keeps a cookie for the page that is open.
    ///
    /// # Errors
    /// When there is none open.
    pub fn set_cookie(&self, name: &str, value: &str) -> Result<()> {
        self.tell("cookie", &json!({ "cookie": { "name": name, "value": value, "httpOnly": true } }))
            .map(drop)
    }

    /// Types into the first element that a CSS selector finds.
    ///
    /// # Errors
    /// When there is none.
    pub fn type_into(&self, selector: &str, text: &str) -> Result<()> {
        let found = self.tell("element", &json!({ "using": "css selector", "value": selector }))?;
        let id = found.as_object().and_then(|map| map.values().next()).and_then(Value::as_str);
        let id = id.with_context(|| format!("no element {selector}"))?;
        self.tell(&format!("element/{id}/value"), &json!({ "text": text })).map(drop)
    }

    /// What a function's body returns in the page.
    ///
    /// # Errors
    /// When it throws.
    pub fn run(&self, script: &str) -> Result<Value> {
        self.tell("execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// What the console said since the last call: level, source and message.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub fn console(&self) -> Result<Vec<[String; 3]>> {
        let entries = self.tell("se/log", &json!({ "type": "browser" }))?;
        let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let fields = |entry| ["level", "source", "message"].map(|key| text(entry, key));
        Ok(entries.as_array().into_iter().flatten().map(fields).collect())
    }

    /// Writes a picture of the page as PNG.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn screenshot(&self, path: &Path) -> Result<()> {
        let picture =
            self.send(Method::GET, &format!("/session/{}/screenshot", self.session), &Value::Null)?;
        let text = picture.as_str().context("no picture")?;
        let file = std::fs::File::create(path).with_context(|| format!("write {}", path.display()))?;
        let mut decoder =
            Command::new("base64").arg("--decode").stdin(Stdio::piped()).stdout(file).spawn()?;
        decoder.stdin.take().context("no input")?.write_all(text.as_bytes())?;
        ensure!(decoder.wait()?.success(), "the picture is no base64");
        Ok(())
    }

    fn tell(&self, command: &str, body: &Value) -> Result<Value> {
        self.send(Method::POST, &format!("/session/{}/{command}", self.session), body)
    }

    fn send(&self, method: Method, path: &str, body: &Value) -> Result<Value> {
        let ask = if body.is_null() {
            Ask { method, ..Ask::get(path) }
        } else {
            Ask::with_body(method, path, "application/json", body.to_string())
        };
        let answer = self.client.wait(self.client.spawn(ask.send(self.driver, 2 * LIMIT)))??;
        let mut all: Value = serde_json::from_slice(&answer.body).context("the driver's answer")?;
        let value = all["value"].take();
        ensure!(answer.status.is_success(), "{path}: {}", value["message"].as_str().unwrap_or_default());
        Ok(value)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends its browser; it may have ended itself.
        let _ = self.send(Method::DELETE, &format!("/session/{}", self.session), &Value::Null);
    }
}
