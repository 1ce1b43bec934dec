//! The test server and the load generator keep each other honest, on loopback and in a lab.
#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use lb_tests::content::Hasher;
use lb_tests::lab::{CLIENT, Lab, Topology, backend_host, wait_until};
use lb_tests::load::{Failure, Load, Pattern, Report, Request, run};
use lb_tests::packet::world::Family;
use lb_tests::require_root;
use lb_tests::server::{Server, listen};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const LIMIT: Duration = Duration::from_secs(10);

async fn start(server: &Server) -> SocketAddr {
    let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let server = server.clone();
    tokio::spawn(async move { server.serve(listener).await });
    address
}

fn get(target: SocketAddr, path: &str, requests: u64) -> Load {
    Load {
        target,
        request: Request::Get(path.to_owned()),
        pattern: Pattern::NewPerRequest { rate: 1000 },
        requests,
        duration: LIMIT,
        timeout: LIMIT,
    }
}

fn keep_alive(connections: u32) -> Pattern {
    Pattern::KeepAlive { connections, pause: Duration::ZERO }
}

#[tokio::test]
async fn every_request_has_its_connection() {
    let server = Server::new("one", false);
    let report = run(&get(start(&server).await, "/health", 40)).await;
    assert_eq!((report.attempts, report.ok), (40, 40));
    assert_eq!(report.servers, BTreeMap::from([("one".to_owned(), 40)]));
    let stats = server.stats();
    assert_eq!((stats.connections, stats.requests["/health"]), (40, 40));
}

#[tokio::test]
async fn connections_are_kept_alive() {
    let server = Server::new("one", false);
    let load = Load { pattern: keep_alive(7), ..get(start(&server).await, "/", 100) };
    assert_eq!(run(&load).await.ok, 100);
    assert_eq!(server.stats().connections, 7);
}

#[tokio::test]
async fn content_is_checked_both_ways() {
    let server = Server::new("one", false);
    let address = start(&server).await;
    for request in [Request::Download(3_000_001), Request::Upload(3_000_001)] {
        let report = run(&Load { request, pattern: keep_alive(1), ..get(address, "", 2) }).await;
        assert_eq!((report.ok, report.bytes), (2, 6_000_002));
    }
    let liar = lies(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong").await;
    for request in [Request::Download(5), Request::Upload(5)] {
        let report = run(&Load { request, ..get(liar, "", 1) }).await;
        assert_eq!(report.failed, BTreeMap::from([(Failure::Content, 1)]));
    }
}

/// A server that answers every connection with the same bytes and closes it.
async fn lies(answer: &'static [u8]) -> SocketAddr {
    let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(answer).await;
        }
    });
    address
}

#[tokio::test]
async fn failures_have_their_reason() {
    let server = Server::new("one", false);
    let address = start(&server).await;
    let silent = start(&Server::new("mute", true)).await;
    let unused = listen("127.0.0.1:0".parse().unwrap()).unwrap().local_addr().unwrap();
    let short = lies(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc").await;
    let babble = lies(b"this is not HTTP\r\n\r\n").await;
    for (target, path, failure) in [
        (unused, "/", Failure::Refused),
        (address, "/nothing", Failure::Status),
        (address, "/hang", Failure::Timeout),
        (silent, "/health", Failure::Timeout),
        (short, "/", Failure::Closed),
        (babble, "/", Failure::Http),
    ] {
        let load = Load { timeout: Duration::from_millis(300), ..get(target, path, 2) };
        let report = run(&load).await;
        assert_eq!(report.failed, BTreeMap::from([(failure, 2)]), "{target} {path}");
        assert_eq!((report.attempts, report.ok), (2, 0));
    }
}

#[tokio::test]
async fn slow_answers_are_seen_in_the_latency() {
    let address = start(&Server::new("one", false)).await;
    let report = run(&Load { pattern: keep_alive(1), ..get(address, "/sleep?ms=50", 3) }).await;
    assert!(report.p50_us >= 50_000 && report.longest_gap_us >= 50_000, "{report:?}");
    assert!(report.elapsed_us >= 150_000, "{report:?}");
}

/// Both as processes, across a lab, over both families: the end-to-end tests' building blocks.
#[test]
fn servers_and_clients_meet_in_a_lab() {
    require_root!("servers_and_clients_meet_in_a_lab");
    let lab = Lab::new(Topology::one_arm(1)).unwrap();
    let addresses = Family::BOTH.map(|family| lab.topology().backend(1, family));
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab-server"));
    command.args(["--name", "backend-1"]).stdout(Stdio::null());
    for address in addresses {
        command.args(["--listen", &address.to_string()]);
    }
    let mut server = lab.spawn(&backend_host(1), &mut command).unwrap();
    let client = |target: SocketAddr, arguments: &[&str]| -> Report {
        let target = target.to_string();
        let command = [&[env!("CARGO_BIN_EXE_lab-client"), &target], arguments].concat();
        serde_json::from_str(&lab.exec(CLIENT, &command).unwrap()).unwrap()
    };
    for target in addresses {
        let health = || lab.exec(CLIENT, &["curl", "-sf", &format!("http://{target}/health")]);
        wait_until("the server answers", LIMIT, || health().is_ok_and(|body| body == "OK")).unwrap();
        let report = client(target, &["--connections", "500", "--pause-ms", "0", "--requests", "1000"]);
        assert_eq!(report.servers, BTreeMap::from([("backend-1".to_owned(), 1000)]));
        assert_eq!(client(target, &["--upload", "2000000", "--requests", "1"]).bytes, 2_000_000);
    }
    server.signal(nix::sys::signal::Signal::SIGTERM).unwrap();
    server.wait(LIMIT).unwrap();
    let error =
        lab.exec(CLIENT, &[env!("CARGO_BIN_EXE_lab-client"), &addresses[0].to_string(), "--requests", "1"]);
    assert!(error.unwrap_err().to_string().contains("refused"));
}

/// What `curl` and the load generator would read is what the server says it sent.
#[tokio::test]
async fn the_body_is_the_content() {
    let address = start(&Server::new("one", false)).await;
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = b"GET /bytes?n=100000 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let body = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let mut hasher = Hasher::default();
    hasher.update(&answer[body..]);
    assert_eq!((hasher.length(), hasher.finish()), (100_000, lb_tests::content::hash(100_000)));
}
