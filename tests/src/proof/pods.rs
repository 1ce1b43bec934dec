//! Backends with a fixed number of threads each, as a Superset pod has, whose work is known exactly.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;

use crate::lab::{Lab, backend_host};
use crate::packet::world::Family;
use crate::server::listen;

/// What is asked of a pod: work that takes so long once a thread is free.
#[must_use]
pub fn request(work: Duration) -> String {
    format!("GET /work?ms={} HTTP/1.1\r\nHost: vip\r\n\r\n", work.as_millis())
}

/// Complete, and the end of the connection.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nServer: pod\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK";

/// A pod on every backend's host of a lab; they end when dropped.
#[derive(Debug)]
pub struct Pods {
    pods: Vec<Arc<Pod>>,
    _runtime: Runtime,
}

#[derive(Debug)]
struct Pod {
    threads: Semaphore,
    /// Requests that have come and are not answered: at work, or in want of a thread.
    waiting: AtomicU32,
}

impl Pods {
    /// Starts them, each with so many threads. They listen when this returns.
    ///
    /// # Errors
    /// When one cannot listen.
    pub fn start(lab: &Lab, threads: usize) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let topology = lab.topology();
        let mut pods = Vec::new();
        for n in 1..=topology.backends {
            let pod = Arc::new(Pod { threads: Semaphore::new(threads), waiting: AtomicU32::new(0) });
            for family in Family::BOTH {
                let address = topology.backend(n, family);
                let listener = bind(lab, &backend_host(n), &runtime, address)?;
                runtime.spawn(serve(listener, Arc::clone(&pod)));
            }
            pods.push(pod);
        }
        Ok(Self { pods, _runtime: runtime })
    }

    /// How many requests each has and has not answered, at this moment.
    #[must_use]
    pub fn waiting(&self) -> Vec<u32> {
        self.pods.iter().map(|pod| pod.waiting.load(Ordering::Relaxed)).collect()
    }
}

fn bind(lab: &Lab, host: &str, runtime: &Runtime, address: SocketAddr) -> Result<TcpListener> {
    let listening = lab.in_ns(host, || {
        let _inside = runtime.enter();
        listen(address)
    })?;
    listening.with_context(|| format!("listen on {address}"))
}

async fn serve(listener: TcpListener, pod: Arc<Pod>) {
    loop {
        // What went away before it was accepted is its client's business.
        if let Ok((stream, _)) = listener.accept().await {
            let pod = Arc::clone(&pod);
            tokio::spawn(async move { drop(pod.answer(stream).await) });
        }
    }
}

impl Pod {
    async fn answer(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut buffer = [0; 512];
        let mut length = 0;
        while !buffer.get(..length).is_some_and(|got| got.ends_with(b"\r\n\r\n")) {
            let Some(free) = buffer.get_mut(length..).filter(|free| !free.is_empty()) else { return Ok(()) };
            match stream.read(free).await? {
                0 => return Ok(()),
                read => length += read,
            }
        }
        // A health check takes no thread: it is to tell whether there is a pod, not whether it is busy.
        if let Some(work) = work(&buffer) {
            self.work(work).await;
        }
        stream.write_all(ANSWER).await?;
        stream.shutdown().await
    }

    async fn work(&self, work: Duration) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // Nobody closes the semaphore.
        if let Ok(_thread) = self.threads.acquire().await {
            tokio::time::sleep(work).await;
        }
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The work that a request asks for; `None` of a health check.
fn work(request: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(request.strip_prefix(b"GET /work?ms=")?.split(|b| *b == b' ').next()?);
    text.ok()?.parse().ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_how_long_it_takes() {
        assert_eq!(work(request(Duration::from_secs(2)).as_bytes()), Some(Duration::from_secs(2)));
        assert_eq!(work(b"GET /health HTTP/1.1\r\n\r\n"), None);
        assert_eq!(work(b"GET /work?ms=x HTTP/1.1\r\n\r\n"), None);
    }
}
