//! `/v1/drain` over real sockets, answered by a real loop on a fake kernel.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use hyper::{Method, StatusCode};
use lb_common::flow::{Ctrl, Slot, State};
use lb_common::stats::BackendLoad;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::*;
use crate::admin::access::Access;
use crate::admin::client::{Target, request};
use crate::admin::command::Reload;
use crate::admin::token::TokenFile;
use crate::admin::{AdminSocket, ScanCache, View, bind, serve};
use crate::status::reload::{ReloadReport, ReloadResult};

const TOKEN: &str = "0123456789abcdef0123";
const FIRST: &str = "/v1/drain/superset/superset-1";
const RELOAD: &str = "/v1/reload";

struct Server {
    lab: Lab,
    files: TempDir,
    address: SocketAddr,
    tasks: [JoinHandle<()>; 2],
    /// Reloads that somebody asks for.
    wanted: mpsc::Receiver<Reload>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Server {
    /// Two healthy backends; at TCP with this access.
    async fn start(access: fn(PathBuf) -> Access) -> Self {
        let mut lab = Lab::start(2);
        all_healthy(&mut lab).await;
        let (reloads, wanted) = mpsc::channel(1);
        let view = Arc::new(View {
            published: lab.published.clone(),
            metrics: lab.metrics.clone(),
            counters: lab.counters.clone(),
            heartbeat: Arc::default(),
            commands: lab.commands.clone(),
            reloads,
            scan: ScanCache::default(),
        });
        let files = tempfile::tempdir().unwrap();
        write_token(&files, TOKEN, 0o600);
        let socket = AdminSocket::bind(&files.path().join("admin.sock")).unwrap();
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let access = access(files.path().join("token"));
        let tasks = [
            tokio::spawn(serve(listener, watch::channel(access).1, view.clone())),
            tokio::spawn(serve(socket, watch::channel(Access::Full).1, view)),
        ];
        Self { lab, files, address, tasks, wanted }
    }

    /// Over the unix socket.
    async fn ask(&self, method: Method, path: &str) -> (u16, Value) {
        let target = Target::Socket(self.files.path().join("admin.sock"));
        let (status, body) = request(&target, method, path).await.unwrap();
        assert_eq!(
            String::from_utf8_lossy(&body).matches("\"error\"").count(),
            usize::from(status != StatusCode::OK)
        );
        (status.as_u16(), serde_json::from_slice(&body).unwrap())
    }

    /// Over TCP, with these header lines.
    async fn tcp(&self, method: &str, path: &str, headers: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
    }

    fn state(&self) -> String {
        self.lab.published.borrow().status.services[0].backends[0].state.clone()
    }
}

fn write_token(files: &TempDir, text: &str, mode: u32) {
    let path = files.path().join("token");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

#[tokio::test]
async fn a_drain_over_the_socket_from_its_beginning_to_its_end() {
    let server = Server::start(|_| Access::ReadOnly).await;
    let slot = |waiting_since, waiting| Slot {
        ctrl: Ctrl::new(State::Established, 0, 1, 1).with_waiting(waiting).0,
        waiting_since,
        ..Slot::EMPTY
    };
    server.lab.counters.set(|v| {
        v.loads.insert(1, BackendLoad { flows: 2, waiting: 1, ..BackendLoad::ZERO });
        (v.now, v.slots) = (1_000_000, vec![slot(1_000_000 - 30_518, true), slot(0, false)]);
    });
    let (status, before) = server.ask(Method::GET, FIRST).await;
    assert_eq!((status, &before["state"], &before["drain"]), (200, &Value::from("healthy"), &Value::Null));
    assert_eq!(server.lab.counters.scans(), 0, "nobody wants to know");

    let (status, p) = server.ask(Method::POST, &format!("{FIRST}?deadline=90s")).await;
    assert_eq!(status, 200);
    assert_eq!((&p["service"], &p["backend"]), (&Value::from("superset"), &Value::from("superset-1")));
    assert_eq!((&p["state"], &p["flows"], &p["waiting"]), (&Value::from("draining"), &2.into(), &1.into()));
    assert_eq!((&p["in_ring"], &p["pending"]), (&false.into(), &false.into()), "the kernel has it by now");
    assert_eq!(server.lab.kernel.ring(), [2]);
    assert_eq!(p["drain"]["oldest_wait_ms"], 2000);
    assert_eq!((&p["drain"]["result"], &p["drain"]["ended"]), (&Value::Null, &Value::Null));
    let time = |p: &Value, key: &str| humantime::parse_rfc3339(p["drain"][key].as_str().unwrap()).unwrap();
    assert_eq!(time(&p, "deadline").duration_since(time(&p, "since")).unwrap(), Duration::from_secs(90));

    // The table is scanned once a second at most.
    for _ in 0..5 {
        assert_eq!(server.ask(Method::GET, FIRST).await.1["drain"]["oldest_wait_ms"], 2000);
    }
    assert!(server.lab.counters.scans() <= 2, "{}", server.lab.counters.scans());

    // An answer is news at once, whatever the last scan has found.
    server.lab.counters.set(|v| {
        v.loads.insert(1, BackendLoad { flows: 2, waiting: 0, ..BackendLoad::ZERO });
    });
    assert_eq!(server.ask(Method::GET, FIRST).await.1["drain"]["oldest_wait_ms"], Value::Null);

    let (status, after) = server.ask(Method::DELETE, FIRST).await;
    assert_eq!((status, &after["state"], &after["in_ring"]), (200, &Value::from("healthy"), &true.into()));
    assert_eq!(server.lab.kernel.ring(), [1, 2]);
    let (status, again) = server.ask(Method::DELETE, FIRST).await;
    assert_eq!((status, again), (200, after));
}

#[tokio::test]
async fn what_is_wrong_is_said_and_changes_nothing() {
    let server = Server::start(|_| Access::ReadOnly).await;
    for (method, path, status, why) in [
        (
            Method::POST,
            "/v1/drain/superset/x",
            404,
            "service superset has no backend x; it has superset-1, superset-2",
        ),
        (Method::DELETE, "/v1/drain/web/x", 404, "there is no service web; there is superset"),
        (Method::GET, "/v1/drain/web/x", 404, "there is no service web; there is superset"),
        (
            Method::POST,
            "/v1/drain/superset",
            404,
            "no /v1/drain/superset here: /v1/drain/SERVICE/BACKEND /v1/reload",
        ),
        (
            Method::POST,
            "/v1/drain/superset/",
            404,
            "no /v1/drain/superset/ here: /v1/drain/SERVICE/BACKEND /v1/reload",
        ),
        (
            Method::POST,
            "/v1/drain/superset/a/b",
            404,
            "no /v1/drain/superset/a/b here: /v1/drain/SERVICE/BACKEND /v1/reload",
        ),
        (Method::POST, "/v1/detach", 404, "no /v1/detach here: /v1/drain/SERVICE/BACKEND /v1/reload"),
        (Method::PUT, FIRST, 405, "another method is wanted here: GET, HEAD, POST, DELETE"),
        (Method::GET, RELOAD, 405, "another method is wanted here: POST"),
        (
            Method::POST,
            "/v1/drain/superset/superset-1?deadline=soon",
            400,
            "deadline: \"soon\" is no deadline; give a duration of 1s to 24h, as 10m or 600s",
        ),
        (
            Method::POST,
            "/v1/drain/superset/superset-1?force=1",
            400,
            "force=1: unknown; deadline=DURATION is known",
        ),
    ] {
        let (got, answer) = server.ask(method, path).await;
        assert_eq!((got, answer["error"].as_str()), (status, Some(why)));
    }
    assert_eq!((server.state().as_str(), server.lab.kernel.ring()), ("healthy", vec![1, 2]));
    // All the rest is served here as well.
    let target = Target::Socket(server.files.path().join("admin.sock"));
    let (status, body) = request(&target, Method::GET, "/livez").await.unwrap();
    assert_eq!((status, &body[..]), (StatusCode::OK, &b"alive\n"[..]));
    // A name may be written with percent signs.
    assert_eq!(server.ask(Method::POST, "/v1/drain/superset/superset%2D1").await.0, 200);
    assert_eq!(server.state(), "draining");
}

#[tokio::test]
async fn without_a_token_file_nothing_is_changed_over_tcp() {
    let server = Server::start(|_| Access::ReadOnly).await;
    for method in ["GET", "POST", "DELETE", "PUT"] {
        for path in [FIRST, "/v1/drain/superset/x", "/v1/x", RELOAD] {
            let (status, answer) = server.tcp(method, path, &bearer(TOKEN)).await;
            assert_eq!(status, 403, "{method} {path}: {answer}");
            assert!(answer.contains("set agent.admin_token_file"), "{answer}");
        }
    }
    assert_eq!(server.state(), "healthy");
    assert_eq!(server.tcp("GET", "/status", "").await.0, 200);
}

#[tokio::test]
async fn with_a_token_file_the_token_lets_in_and_nothing_else_does() {
    let server = Server::start(|path| Access::Token(TokenFile::new(path))).await;
    let wrong = [
        String::new(),
        bearer(""),
        bearer("0123456789abcdef0124"),
        bearer(&TOKEN[1..]),
        bearer(&format!("{TOKEN}0")),
        format!("Authorization: Basic {TOKEN}\r\n"),
        bearer(TOKEN).repeat(2),
        format!("X-Authorization: Bearer {TOKEN}\r\n"),
    ];
    for headers in &wrong {
        for (method, path) in [
            ("GET", FIRST),
            ("POST", FIRST),
            ("DELETE", FIRST),
            ("POST", RELOAD),
            ("POST", "/v1/drain/web/x"),
        ] {
            let (status, answer) = server.tcp(method, path, headers).await;
            assert_eq!(status, 401, "{method} {path} {headers}: {answer}");
            assert!(answer.contains("www-authenticate: Bearer realm=\"lb-agent\"\r\n"), "{answer}");
        }
    }
    assert_eq!(server.state(), "healthy");
    assert_eq!(server.tcp("GET", "/status", "").await.0, 200, "reading needs no token");

    let (status, answer) = server.tcp("POST", FIRST, &bearer(TOKEN)).await;
    assert!(status == 200 && answer.contains("\"state\": \"draining\""), "{answer}");
    assert_eq!(server.state(), "draining");
    assert_eq!(server.tcp("GET", FIRST, &bearer(TOKEN)).await.0, 200);
    assert_eq!(server.tcp("POST", "/v1/drain/superset/x", &bearer(TOKEN)).await.0, 404);
    assert_eq!(server.tcp("PATCH", FIRST, &bearer(TOKEN)).await.0, 405);

    // Another token takes its place while the agent runs.
    write_token(&server.files, "fedcba9876543210fedc\n", 0o600);
    assert_eq!(server.tcp("DELETE", FIRST, &bearer(TOKEN)).await.0, 401);
    assert_eq!(server.state(), "draining");
    assert_eq!(server.tcp("DELETE", FIRST, &bearer("fedcba9876543210fedc")).await.0, 200);
    assert_eq!(server.state(), "healthy");
}

/// The token of a file that is wrong by now lets nobody in, and the answer does not say what is wrong.
#[tokio::test]
async fn a_token_file_that_is_open_to_others_lets_nobody_in() {
    let server = Server::start(|path| Access::Token(TokenFile::new(path))).await;
    for (text, mode) in [(TOKEN, 0o644), ("", 0o600)] {
        write_token(&server.files, text, mode);
        for headers in [bearer(TOKEN), bearer("")] {
            let (status, answer) = server.tcp("POST", FIRST, &headers).await;
            assert_eq!(status, 503, "{answer}");
            assert!(!answer.contains("0644") && !answer.contains("empty"), "{answer}");
        }
    }
    std::fs::remove_file(server.files.path().join("token")).unwrap();
    assert_eq!(server.tcp("POST", FIRST, &bearer(TOKEN)).await.0, 503);
    assert_eq!(server.state(), "healthy");
}

/// The status says what came of it, and the body why.
#[tokio::test]
async fn a_reload_is_answered_with_what_came_of_it() {
    let mut server = Server::start(|path| Access::Token(TokenFile::new(path))).await;
    for (result, status) in
        [(ReloadResult::Success, 200), (ReloadResult::Invalid, 422), (ReloadResult::RestartNeeded, 409)]
    {
        let report = ReloadReport {
            config: "lb.toml".into(),
            result,
            changes: vec!["nat: changed rest".into()],
            errors: vec!["lb.toml:1: a: b; c".into()],
            warnings: vec![],
            pending: result == ReloadResult::Success,
        };
        let answered = async {
            let Reload { reply, .. } = server.wanted.recv().await.unwrap();
            reply.send(report.clone()).unwrap();
        };
        let target = Target::Socket(server.files.path().join("admin.sock"));
        let (answer, ()) = tokio::join!(request(&target, Method::POST, RELOAD), answered);
        let (got, body) = answer.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((got.as_u16(), body["error"].is_string()), (status, status != 200), "{body}");
        // By the time of the answer the kernel has it.
        let want = ReloadReport { pending: false, ..report };
        assert_eq!(serde_json::from_value::<ReloadReport>(body).unwrap(), want);
    }
    // With the token, but nobody is there who could do it.
    server.wanted.close();
    let (status, answer) = server.tcp("POST", RELOAD, &bearer(TOKEN)).await;
    assert!(status == 503 && answer.contains("does not take commands"), "{answer}");
}
