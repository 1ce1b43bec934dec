use std::io::ErrorKind;

use super::*;
use crate::health::testing::{Behaviour, Server, response};
use crate::model::{Header, PassiveSpec};
use BadAnswer::{Body, Closed, Protocol, Status};

/// Far longer than anything on loopback takes.
const LONG: Duration = Duration::from_secs(20);
/// For checks that are to time out.
const SHORT: Duration = Duration::from_millis(150);

fn http(timeout: Duration, body: Option<&str>) -> HealthSpec {
    let kind = ProbeKind::Http {
        path: "/health?full=1".into(),
        host: None,
        headers: vec![],
        status: (200, 204),
        body: body.map(str::to_owned),
    };
    spec(kind, timeout)
}

fn spec(probe: ProbeKind, timeout: Duration) -> HealthSpec {
    let second = Duration::from_secs(1);
    HealthSpec {
        probe,
        interval: second,
        timeout,
        rise: 2,
        fall: 3,
        grace: second,
        dead_after: second,
        passive: PassiveSpec::default(),
    }
}

async fn check(address: SocketAddr, spec: &HealthSpec) -> Checked {
    Probe::new(address, spec).unwrap().run().await
}

fn bad(reason: BadAnswer) -> CheckResult {
    CheckResult::BadAnswer(reason)
}

/// A port of loopback on which nobody listens.
fn closed_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn answers_are_told_apart() {
    let head_only = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n";
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nO\r\n1\r\nK\r\n0\r\n\r\n";
    let continued = [b"HTTP/1.1 100 Continue\r\n\r\n".as_slice(), &response("200 OK", "OK")].concat();
    let long_head = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\nOK", "x".repeat(2 * READ_LIMIT));
    let rows = [
        ("good", Behaviour::answer("200 OK", "OK"), CheckResult::Ok),
        ("last good status", Behaviour::answer("204 No Content", ""), bad(Body)),
        ("in the middle", Behaviour::answer("200 OK", "all is OK here"), CheckResult::Ok),
        ("in chunks", Behaviour::Answer(chunked.to_vec()), CheckResult::Ok),
        ("up to the close", Behaviour::Answer(b"HTTP/1.0 200 OK\r\n\r\nOK".to_vec()), CheckResult::Ok),
        ("after 100 Continue", Behaviour::Answer(continued), CheckResult::Ok),
        ("first bad status", Behaviour::answer("205 Reset", "OK"), bad(Status(205))),
        ("redirect", Behaviour::answer("302 Found", "OK"), bad(Status(302))),
        ("unavailable", Behaviour::answer("503 Service Unavailable", "OK"), bad(Status(503))),
        ("other text", Behaviour::answer("200 OK", "ok"), bad(Body)),
        ("no text", Behaviour::answer("200 OK", ""), bad(Body)),
        ("cut in the body", Behaviour::Answer(head_only.to_vec()), bad(Closed)),
        ("cut in the head", Behaviour::Answer(b"HTTP/1.1 200".to_vec()), bad(Closed)),
        ("no answer at all", Behaviour::Answer(Vec::new()), bad(Closed)),
        ("closed at once", Behaviour::Close, bad(Closed)),
        ("another protocol", Behaviour::Answer(b"220 ready\r\n\r\n".to_vec()), bad(Protocol)),
        ("speaks first", Behaviour::SpeakFirst(b"SSH-2.0-x\r\n\r\n".to_vec()), bad(Protocol)),
        ("endless head", Behaviour::Answer(long_head.into_bytes()), bad(Protocol)),
    ];
    for (what, behaviour, expected) in rows {
        let server = Server::start(behaviour).await;
        let checked = check(server.address, &http(LONG, Some("OK"))).await;
        assert_eq!(checked.result, expected, "{what}");
        assert!(checked.duration < LONG, "{what}");
    }
}

#[tokio::test]
async fn without_a_text_only_the_status_counts() {
    for (status, expected) in [("204 No Content", CheckResult::Ok), ("404 Not Found", bad(Status(404)))] {
        let server = Server::start(Behaviour::answer(status, "")).await;
        assert_eq!(check(server.address, &http(LONG, None)).await.result, expected);
    }
}

#[tokio::test]
async fn the_request_is_plain_and_asks_for_the_close() {
    let mut server = Server::start(Behaviour::answer("200 OK", "OK")).await;
    check(server.address, &http(LONG, None)).await;
    let mut with_host = http(LONG, None);
    with_host.probe = ProbeKind::Http {
        path: "/".into(),
        host: Some("bi.example.org:8088".into()),
        headers: vec![],
        status: (200, 200),
        body: None,
    };
    check(server.address, &with_host).await;

    let first = server.requests.recv().await.unwrap();
    let address = server.address;
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        first,
        format!(
            "GET /health?full=1 HTTP/1.1\r\nhost: {address}\r\nuser-agent: evenkeel/{version}\r\n\
             connection: close\r\n\r\n"
        )
    );
    let second = server.requests.recv().await.unwrap();
    assert!(second.starts_with("GET / HTTP/1.1\r\nhost: bi.example.org:8088\r\n"), "{second}");
}

#[tokio::test]
async fn headers_of_the_configuration_are_sent() {
    let mut server = Server::start(Behaviour::answer("200 OK", "OK")).await;
    let header = |name: &str, value: &str| Header { name: name.into(), value: value.into() };
    let mut checked = http(LONG, None);
    checked.probe = ProbeKind::Http {
        path: "/".into(),
        host: Some("bi.example.org".into()),
        headers: vec![header("cookie", "session=a.b-c; x=1"), header("user-agent", "mine")],
        status: (200, 200),
        body: None,
    };
    assert_eq!(check(server.address, &checked).await.result, CheckResult::Ok);
    let request = server.requests.recv().await.unwrap();
    let (line, headers) = request.trim_end().split_once("\r\n").unwrap();
    assert_eq!(line, "GET / HTTP/1.1");
    let mut headers: Vec<&str> = headers.split("\r\n").collect();
    headers.sort_unstable();
    let want =
        ["connection: close", "cookie: session=a.b-c; x=1", "host: bi.example.org", "user-agent: mine"];
    assert_eq!(headers, want);
    assert!(
        !format!("{checked:?} {:?}", Probe::new(server.address, &checked)).contains("session="),
        "a secret"
    );
}

#[tokio::test]
async fn time_outs_say_how_far_it_came() {
    let whole_head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nO".to_vec();
    for behaviour in [Behaviour::silent(), Behaviour::Stall(whole_head)] {
        let mut server = Server::start(behaviour).await;
        let checked = check(server.address, &http(SHORT, Some("OK"))).await;
        assert_eq!(checked.result, CheckResult::Timeout);
        assert!(checked.duration >= SHORT, "{:?}", checked.duration);
        // The connection is gone with the check.
        let end = server.ends.recv().await.unwrap();
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

/// A listener that never accepts and whose queue is full does not answer a SYN.
#[tokio::test]
async fn a_silent_host_is_a_connect_timeout() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let fill = || std::net::TcpStream::connect_timeout(&address, SHORT);
    let queue: Vec<_> = (0..8).map_while(|_| fill().ok()).collect();
    assert!(queue.len() < 8, "the queue never fills");

    for kind in [http(SHORT, None), spec(ProbeKind::Tcp, SHORT)] {
        let checked = check(address, &kind).await;
        assert_eq!(checked.result, CheckResult::ConnectTimeout);
        assert!(checked.duration >= SHORT);
    }
}

#[tokio::test]
async fn refused_and_unreachable_are_known_at_once() {
    // TCP to a broadcast address is refused with ENETUNREACH whatever the routes are.
    let broadcast = SocketAddr::from(([127, 255, 255, 255], 80));
    for kind in [http(LONG, None), spec(ProbeKind::Tcp, LONG)] {
        assert_eq!(check(closed_port(), &kind).await.result, CheckResult::Refused);
        assert_eq!(check(broadcast, &kind).await.result, CheckResult::Unreachable);
    }
}

#[test]
fn errors_are_blamed_on_whom_they_concern() {
    let rows = [
        (libc::ECONNREFUSED, CheckResult::Refused),
        (libc::EHOSTUNREACH, CheckResult::Unreachable),
        (libc::ENETUNREACH, CheckResult::Unreachable),
        (libc::EHOSTDOWN, CheckResult::Unreachable),
        (libc::EACCES, CheckResult::Unreachable),
        (libc::ETIMEDOUT, CheckResult::ConnectTimeout),
        (libc::EMFILE, CheckResult::Local(libc::EMFILE)),
        (libc::EADDRNOTAVAIL, CheckResult::Local(libc::EADDRNOTAVAIL)),
        (libc::EPERM, CheckResult::Local(libc::EPERM)),
    ];
    for (errno, expected) in rows {
        assert_eq!(connect_failure(&io::Error::from_raw_os_error(errno)), expected);
    }
}

/// Reset by us after a good answer too, although the server closed first: no TIME_WAIT on either side.
#[tokio::test]
async fn a_check_leaves_nothing_behind() {
    for kind in [http(LONG, Some("OK")), spec(ProbeKind::Tcp, LONG)] {
        let mut server = Server::start(Behaviour::answer("200 OK", "OK")).await;
        assert_eq!(check(server.address, &kind).await.result, CheckResult::Ok);
        let end = server.ends.recv().await.unwrap();
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn only_the_start_of_a_huge_body_is_read() {
    let pad = |n: usize| " ".repeat(n);
    let rows = [
        (format!("{}OK{}", pad(READ_LIMIT - 2), pad(8 << 20)), CheckResult::Ok),
        (format!("{}OK{}", pad(READ_LIMIT - 1), pad(8 << 20)), bad(Body)),
    ];
    for (body, expected) in rows {
        let server = Server::start(Behaviour::answer("200 OK", &body)).await;
        assert_eq!(check(server.address, &http(LONG, Some("OK"))).await.result, expected);
    }
}

#[tokio::test]
async fn ipv6_is_checked_too() {
    let server = Server::start_at("[::1]:0".parse().unwrap(), Behaviour::answer("200 OK", "OK")).await;
    assert_eq!(check(server.address, &http(LONG, Some("OK"))).await.result, CheckResult::Ok);
}
