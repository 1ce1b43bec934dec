use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::SystemTime;

use lb_common::backend::{BACKEND_LIVE, Backend};
use lb_common::node::Node;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use super::*;
use crate::dataplane::Tables;
use crate::metrics::Metrics;
use crate::metrics::ledger::Holder;
use crate::metrics::testing::FakeCounters;
use crate::status::Status;
use crate::status::testing::sample_status;

struct Fixture {
    address: SocketAddr,
    publish: watch::Sender<Published>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn tables() -> Tables {
    Tables {
        node: Node::EMPTY,
        snat: BTreeMap::new(),
        backends: BTreeMap::from([(
            7,
            Backend {
                addr: std::net::Ipv4Addr::new(10, 77, 0, 11).into(),
                port: 8088u16.to_be(),
                flags: BACKEND_LIVE,
                generation: 3,
                ..Backend::EMPTY
            },
        )]),
        rings: BTreeMap::new(),
        services: BTreeMap::new(),
        vips: BTreeMap::new(),
        service_ids: BTreeMap::new(),
    }
}

async fn start() -> Fixture {
    let tables = Arc::new(tables());
    let status = Arc::new(sample_status(SystemTime::UNIX_EPOCH));
    let (publish, published) = watch::channel(Published { status, desired: tables.clone(), actual: tables });
    let counters = Arc::new(FakeCounters::default());
    let source = published.clone();
    let metrics =
        Arc::new(Metrics::new(Box::new(move || source.borrow().status.clone()), counters.clone()).unwrap());
    let holder = |b: &str, id| Holder {
        labels: ("superset".to_owned(), b.to_owned()),
        id,
        generation: 1,
        adopted: true,
    };
    metrics.assign([], [holder("superset-1", 1), holder("superset-2", 2)]);
    counters.set(|v| {
        let stats =
            lb_common::stats::BackendStats { new_flows: 4711, ..lb_common::stats::BackendStats::ZERO };
        v.backends.insert(1, stats);
    });
    // There is no loop: nobody takes commands.
    let ((commands, _), (reloads, _)) = (mpsc::channel(1), mpsc::channel(1));
    let (heartbeat, scan) = (Arc::default(), ScanCache::default());
    let view = Arc::new(View { published, metrics, counters, heartbeat, commands, reloads, scan });
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    Fixture { address, publish, server: tokio::spawn(serve(listener, watch::channel(Access::Full).1, view)) }
}

/// Sends bytes and returns all that comes back until the server closes.
async fn raw(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn status_and_state_carry_the_numbers_of_the_moment() {
    let f = start().await;
    let body = client::get(f.address, "/status").await.unwrap();
    let status: Status = serde_json::from_slice(&body).unwrap();
    let b = &status.services[0].backends[0];
    assert_eq!((b.flows, b.waiting, b.new_flows), (Some(10), Some(1), Some(4711)));
    assert_eq!(status.flow_table.unwrap().capacity, 152);

    let state: serde_json::Value =
        serde_json::from_slice(&client::get(f.address, "/state").await.unwrap()).unwrap();
    assert_eq!(state["in_sync"], true);
    assert_eq!(state["desired"]["backends"]["7"]["address"], "10.77.0.11:8088");
    assert_eq!(state["status"]["services"][0]["name"], "superset");

    f.publish.send_modify(|p| p.desired = Arc::new(Tables { backends: BTreeMap::new(), ..tables() }));
    let state: serde_json::Value =
        serde_json::from_slice(&client::get(f.address, "/state").await.unwrap()).unwrap();
    assert_eq!(state["in_sync"], false);
    assert_eq!(state["actual"]["backends"]["7"]["generation"], 3);
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let f = start().await;
    let answer = raw(f.address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4\r\n"), "{answer}");
    assert!(answer.contains("\n# TYPE lb_backend_new_flows_total counter\n"), "{answer}");
    assert!(
        answer.contains("lb_backend_new_flows_total{backend=\"superset-1\",service=\"superset\"} 4711\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn ready_is_503_with_the_reasons_until_it_is_200() {
    let f = start().await;
    assert_eq!(&client::get(f.address, "/readyz").await.unwrap()[..], b"ready\n");
    f.publish.send_modify(|p| {
        let mut s = Status::clone(&p.status);
        s.not_ready = vec!["superset/superset-2: not checked yet".into()];
        p.status = Arc::new(s);
    });
    let e = client::get(f.address, "/readyz").await.unwrap_err().to_string();
    assert!(e.contains("503") && e.contains("superset/superset-2: not checked yet"), "{e}");
}

#[tokio::test]
async fn other_methods_and_paths_are_refused() {
    let f = start().await;
    let answer = raw(f.address, b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc").await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(answer.contains("allow: GET, HEAD\r\n"), "{answer}");
    assert!(raw(f.address, b"GET /flag HTTP/1.1\r\nHost: x\r\n\r\n").await.starts_with("HTTP/1.1 404 "));
    assert!(raw(f.address, b"nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
    let head = raw(f.address, b"HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
}

#[tokio::test]
async fn a_loop_that_has_ended_takes_no_commands() {
    let f = start().await;
    let answer = raw(f.address, b"DELETE /v1/drain/superset/superset-1 HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("does not take commands"), "{answer}");
}

/// The clock is paused, so the deadlines pass as soon as nothing else happens.
#[tokio::test(start_paused = true)]
async fn a_client_that_sends_nothing_is_closed_and_a_full_house_recovers() {
    let f = start().await;
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS {
        silent.push(TcpStream::connect(f.address).await.unwrap());
    }
    let answer = raw(f.address, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
    for mut s in silent {
        let mut rest = Vec::new();
        s.read_to_end(&mut rest).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_stands_still_is_not_alive() {
    let h = Heartbeat::default();
    tokio::time::advance(STALLED_AFTER * 2).await;
    assert!(h.age() > STALLED_AFTER);
    h.beat();
    assert!(h.age() < Duration::from_secs(1));
}

#[tokio::test]
async fn nobody_there_is_one_clear_line() {
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let e = client::get(address, "/status").await.unwrap_err().to_string();
    assert!(e.contains(&address.to_string()) && e.contains("refused") && !e.contains('\n'), "{e}");
}
