//! Servers on loopback that answer a check well, badly or not at all.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// What a server does with a connection.
#[derive(Clone, Debug)]
pub(super) enum Behaviour {
    /// Reads the request, writes these bytes, closes its side.
    Answer(Vec<u8>),
    /// Reads the request, writes these bytes, and then nothing more.
    Stall(Vec<u8>),
    /// Writes these bytes before it reads.
    SpeakFirst(Vec<u8>),
    /// Closes the connection as soon as it is accepted.
    Close,
}

impl Behaviour {
    pub(super) fn answer(status: &str, body: &str) -> Self {
        Self::Answer(response(status, body))
    }

    /// Accepts, and never says a word.
    pub(super) fn silent() -> Self {
        Self::Stall(Vec::new())
    }
}

pub(super) fn response(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").into_bytes()
}

/// Stops listening and drops its connections when it is dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    /// Each connection's request head.
    pub(super) requests: mpsc::UnboundedReceiver<String>,
    /// How the client ended each connection: 0 bytes for an orderly close, or an error.
    pub(super) ends: mpsc::UnboundedReceiver<io::Result<usize>>,
    _accept: JoinSet<()>,
}

impl Server {
    pub(super) async fn start(behaviour: Behaviour) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), behaviour).await
    }

    pub(super) async fn start_at(address: SocketAddr, behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (request, requests) = mpsc::unbounded_channel();
        let (end, ends) = mpsc::unbounded_channel();
        let mut accept = JoinSet::new();
        accept.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, behaviour.clone(), request.clone(), end.clone()));
            }
        });
        Self { address, requests, ends, _accept: accept }
    }

    /// Stops, and returns when connections are refused.
    pub(super) async fn stop(mut self) {
        self._accept.shutdown().await;
    }
}

async fn serve(
    mut stream: TcpStream,
    behaviour: Behaviour,
    requests: mpsc::UnboundedSender<String>,
    ends: mpsc::UnboundedSender<io::Result<usize>>,
) {
    if let Behaviour::SpeakFirst(bytes) = &behaviour {
        stream.write_all(bytes).await.unwrap();
    }
    if matches!(behaviour, Behaviour::Close) {
        return;
    }
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) => {
                let _ = ends.send(Err(error));
                return;
            }
        }
    }
    let _ = requests.send(String::from_utf8(head).unwrap());
    match behaviour {
        Behaviour::Answer(bytes) => {
            // The client may have seen enough before it has all.
            if stream.write_all(&bytes).await.is_ok() {
                let _ = stream.shutdown().await;
            }
        }
        Behaviour::Stall(bytes) => stream.write_all(&bytes).await.unwrap(),
        Behaviour::SpeakFirst(_) | Behaviour::Close => {}
    }
    let _ = ends.send(stream.read(&mut [0; 64]).await);
}
