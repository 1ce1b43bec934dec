//! TLS passes through: nginx with HTTP/2 behind the VIP ends it in front of each replica, and curl logs in.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::lab::CLIENT;
use crate::proof::Report;
use crate::superset::session::hidden_token;
use crate::superset::views::PAGE;
use crate::superset::{Scenario, Stand};

/// Pages after the login.
const PAGES: usize = 20;

/// What curl says of an answer.
struct Answer {
    status: u16,
    protocol: String,
    replica: String,
    location: String,
    body: String,
}

impl Answer {
    /// Whether it is what a login leads to: a redirect, and not back to the form.
    fn is_logged_in(&self) -> bool {
        self.status == 302 && !self.location.contains("/login/")
    }
}

/// A browser's part of curl: cookies that are kept, the stand's certificate trusted.
struct Curl<'a> {
    stand: &'a Stand,
    dir: TempDir,
}

/// The scenario.
///
/// # Errors
/// When curl does not get an answer.
pub fn prove(stand: &Stand) -> Result<Report> {
    let curl = Curl { stand, dir: tempfile::tempdir().context("make a directory")? };
    let form = curl.ask("/login/", &[])?;
    let token = hidden_token(&form.body).context("the login page has no csrf_token")?;
    let fields = format!("csrf_token={token}");
    let login = ["--data", "username=admin&password=admin", "--data-urlencode", &fields];
    // Over HTTPS alone Superset insists on where a form comes from: it knows the protocol by X-Forwarded-Proto.
    let elsewhere = curl.ask("/login/", &login)?;
    let referer = format!("https://{}/login/", stand.https_vip().ip());
    let login = curl.ask("/login/", &[login.as_slice(), &["--referer", &referer]].concat())?;
    let pages = (0..PAGES).map(|_| curl.ask(PAGE, &[])).collect::<Result<Vec<_>>>()?;

    let mut report = Report::new(Scenario::Tls, &["status"]);
    report.row("login without Referer", [Some(f64::from(elsewhere.status))]);
    report.row("login", [Some(f64::from(login.status))]);
    report.aim(login.is_logged_in(), format!("the login over HTTPS leads to {:?}", login.location));
    report.aim(
        !elsewhere.is_logged_in(),
        format!("X-Forwarded-Proto says https: a form without Referer leads to {:?}", elsewhere.location),
    );
    let good = pages.iter().filter(|page| page.status == 200 && page.protocol == "2").count();
    report.aim(good == PAGES, format!("{good} of {PAGES} pages over HTTP/2"));
    let replicas: BTreeSet<&str> = pages.iter().map(|page| page.replica.as_str()).collect();
    let all = usize::from(stand.replicas());
    report.aim(replicas.len() == all, format!("by {} of {all} replicas", replicas.len()));
    Ok(report)
}

impl Curl<'_> {
    /// One request over a connection of its own.
    fn ask(&self, path: &str, words: &[&str]) -> Result<Answer> {
        let [jar, body] = ["jar", "body"].map(|name| self.dir.path().join(name));
        let mut command = Command::new("curl");
        command.args([
            "--silent",
            "--show-error",
            "--http2",
            "--noproxy",
            "*",
            "--max-time",
            "30",
            "--cacert",
        ]);
        command.arg(self.stand.certificate()).arg("--cookie").arg(&jar).arg("--cookie-jar").arg(&jar);
        command
            .args([
                "--write-out",
                "%{http_code} %{http_version} %header{x-replica} %header{location}",
                "--output",
            ])
            .arg(&body);
        command.args(words).arg(format!("https://{}{path}", self.stand.https_vip().ip()));
        let output = self.stand.lab().output(CLIENT, &mut command)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "curl {path}: {}: {}", output.status, said.trim());
        let line = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut fields = line.split(' ').map(str::to_owned);
        let mut field = || fields.next().unwrap_or_default();
        let status = field().parse().with_context(|| format!("curl says {line:?}"))?;
        let body = std::fs::read(&body).context("what curl got")?;
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(Answer { status, protocol: field(), replica: field(), location: field(), body })
    }
}
