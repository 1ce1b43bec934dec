//! Small exchanges and bulk data over plain sockets: no HTTP stands between the clock and the network.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_tests::lab::Lab;
use socket2::SockRef;

use super::cpu;

/// Bytes of a ping, and of its answer.
const PING: usize = 64;
/// Bytes that are handed to the kernel at once in bulk transfers.
const BULK: usize = 256 * 1024;
/// Start of a bulk transfer that is not measured: windows grow.
const WARM_UP: Duration = Duration::from_millis(200);
/// Longer than any exchange should take.
const LIMIT: Duration = Duration::from_secs(5);

/// First byte of a stream: what the client wants.
const PING_PONG: u8 = b'p';
const DOWN: u8 = b'd';
const UP: u8 = b'u';

/// Which way bulk data goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Direction {
    /// To the client.
    Down,
    /// To the server.
    Up,
}

/// The server's side, in threads of this process.
#[derive(Debug)]
pub(super) struct Server {
    listeners: Vec<TcpListener>,
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    /// Bytes received by uploads.
    uploaded: Arc<AtomicU64>,
}

impl Server {
    /// Starts two servers in a host of the lab: one connection, one answer, at `answers`; streams at `streams`.
    ///
    /// # Errors
    /// When a port is taken.
    pub(super) fn start(lab: &Lab, host: &str, answers: u16, streams: u16) -> Result<Self> {
        let listen = |port| lab.in_ns(host, || listener(port))?;
        let mut server = Self {
            listeners: vec![listen(answers)?, listen(streams)?],
            threads: Vec::new(),
            stop: Arc::default(),
            uploaded: Arc::default(),
        };
        let clone = |listener: &TcpListener| listener.try_clone().context("duplicate a socket");
        let (answering, streaming) = (clone(&server.listeners[0])?, clone(&server.listeners[1])?);
        let (stop, uploaded) = (Arc::clone(&server.stop), Arc::clone(&server.uploaded));
        let start = |work: Box<dyn FnOnce() + Send>| cpu::on(cpu::SERVER_CPU, || std::thread::spawn(work));
        let answering_stop = Arc::clone(&stop);
        server.threads.push(start(Box::new(move || answer_each(&answering, &answering_stop)))?);
        server.threads.push(start(Box::new(move || serve_streams(&streaming, &stop, &uploaded)))?);
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for listener in &self.listeners {
            // Ends `accept`; fails only for a socket that is closed.
            let _ = SockRef::from(listener).shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            // A panic in it was printed already.
            let _ = thread.join();
        }
    }
}

fn listener(port: u16) -> Result<TcpListener> {
    TcpListener::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), port))
        .with_context(|| format!("listen on port {port}"))
}

/// One request and one answer a connection, one connection after the other.
fn answer_each(listener: &TcpListener, stop: &AtomicBool) {
    while let Ok((mut stream, _)) = listener.accept() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let _ = stream.set_read_timeout(Some(LIMIT));
        let mut request = [0; PING];
        // A health check connects and says nothing.
        if stream.read_exact(&mut request).is_ok() {
            let _ = stream.write_all(&request);
        }
    }
}

fn serve_streams(listener: &TcpListener, stop: &Arc<AtomicBool>, uploaded: &Arc<AtomicU64>) {
    let mut threads = Vec::new();
    while let Ok((stream, _)) = listener.accept() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (stop, uploaded) = (Arc::clone(stop), Arc::clone(uploaded));
        // Ends when the client closes, or when nothing moves for a while and the server is to stop.
        threads.push(std::thread::spawn(move || drop(serve_stream(stream, &stop, &uploaded))));
    }
    for thread in threads {
        let _ = thread.join();
    }
}

fn serve_stream(mut stream: TcpStream, stop: &AtomicBool, uploaded: &AtomicU64) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let mut wish = [0];
    stream.read_exact(&mut wish)?;
    let mut buffer = vec![0; BULK];
    while !stop.load(Ordering::Relaxed) {
        match wish[0] {
            PING_PONG => {
                stream.read_exact(&mut buffer[..PING])?;
                stream.write_all(&buffer[..PING])?;
            }
            DOWN => stream.write_all(&buffer)?,
            _ => match stream.read(&mut buffer)? {
                0 => return Ok(()),
                n => _ = uploaded.fetch_add(n as u64, Ordering::Relaxed),
            },
        }
    }
    Ok(())
}

/// Connects, asks, is answered and closes, again and again. Returns how long each took until its answer.
///
/// # Errors
/// When a connection fails.
pub(super) fn connect_request_response(target: SocketAddr, duration: Duration) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed() < duration {
        times.push(one(target)?);
    }
    Ok(times)
}

/// One connection, one request, one answer.
///
/// # Errors
/// When it fails.
pub(super) fn one(target: SocketAddr) -> Result<Duration> {
    let mut buffer = [7; PING];
    let start = Instant::now();
    let mut stream = connect(target)?;
    stream.write_all(&buffer).context("send a request")?;
    stream.read_exact(&mut buffer).with_context(|| format!("read the answer of {target}"))?;
    let time = start.elapsed();
    // The server closes first and keeps TIME_WAIT, so that the client's port is free at once.
    let end = stream.read(&mut buffer).context("wait for the end")?;
    ensure!(end == 0, "{target} says more than it should");
    Ok(time)
}

/// Sends pings over one connection and waits for each answer. Returns how long each took.
///
/// # Errors
/// When the connection fails.
pub(super) fn ping_pong(target: SocketAddr, duration: Duration) -> Result<Vec<Duration>> {
    let mut stream = connect(target)?;
    stream.write_all(&[PING_PONG]).context("start pings")?;
    let mut buffer = [7; PING];
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed() < duration {
        let sent = Instant::now();
        stream.write_all(&buffer).context("send a ping")?;
        stream.read_exact(&mut buffer).with_context(|| format!("read the pong of {target}"))?;
        times.push(sent.elapsed());
    }
    Ok(times)
}

/// Moves bulk data over one connection. Returns Gbit/s of payload as the receiver saw it.
///
/// # Errors
/// When the connection fails.
pub(super) fn bulk(
    target: SocketAddr,
    server: &Server,
    direction: Direction,
    duration: Duration,
) -> Result<f64> {
    let mut stream = connect(target)?;
    stream.set_write_timeout(Some(LIMIT)).context("set a timeout")?;
    stream.write_all(&[if matches!(direction, Direction::Down) { DOWN } else { UP }]).context("start")?;
    let mut buffer = vec![0; BULK];
    let mut received = 0;
    let start = Instant::now();
    let mut warm = None;
    loop {
        match direction {
            Direction::Down => received += stream.read(&mut buffer).context("receive bulk data")? as u64,
            Direction::Up => {
                stream.write_all(&buffer).context("send bulk data")?;
                received = server.uploaded.load(Ordering::Relaxed);
            }
        }
        let now = Instant::now();
        let (since, before) = *match &mut warm {
            Some(warm) => warm,
            None if now - start < WARM_UP => continue,
            none => none.insert((now, received)),
        };
        if now - since >= duration {
            #[expect(clippy::cast_precision_loss, reason = "53 bits are enough for a rate")]
            let bits = (received - before) as f64 * 8.0;
            return Ok(bits / (now - since).as_secs_f64() / 1e9);
        }
    }
}

fn connect(target: SocketAddr) -> Result<TcpStream> {
    let connected = TcpStream::connect_timeout(&target, LIMIT);
    let stream = connected.with_context(|| format!("connect to {target}"))?;
    stream.set_nodelay(true).context("set TCP_NODELAY")?;
    stream.set_read_timeout(Some(LIMIT)).context("set a timeout")?;
    Ok(stream)
}

/// The value below which `share` of the times are, in microseconds.
///
/// # Errors
/// When there are none.
pub(super) fn quantile(times: &mut [Duration], share: f64) -> Result<f64> {
    ensure!(!times.is_empty(), "nothing was measured");
    times.sort_unstable();
    #[expect(clippy::cast_precision_loss, reason = "counts of exchanges are far below 2^53")]
    let at = (times.len() - 1) as f64 * share;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 ≤ at < length")]
    Ok(times[at.round() as usize].as_secs_f64() * 1e6)
}
