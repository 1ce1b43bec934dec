//! Packet rate: frames of 64 bytes (with their FCS) from a generator in the kernel, counted and dropped behind the
//! balancer.
//!
//! The balancer's packet processing has a CPU for itself and the receiver, which takes each batch from it as it comes
//! and so has a part in the rate, but not in the time per packet. The generator has the other CPU and sends more than
//! anybody can forward.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use lb_tests::lab::generator::Generator;
use lb_tests::lab::object::{self, Object};
use lb_tests::lab::{LB, wait_until};
use lb_tests::packet::world::Family::V4;
use lb_tests::packet::{Packet, tcp4};

use super::cpu;
use super::stand::{Service, Stand};
use super::task_clock::TaskClock;

/// First source address of the flows; each has 4,096 ports.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// Where the client must be reached for the answers to SYNs.
const CLIENT_NET: &str = "198.18.0.0/15";
/// Flows of the SYNs: more than can come twice in one measurement.
const NEVER_AGAIN: u64 = 1 << 28;
/// Frames of one system call while measuring.
const REPEAT: u64 = 1 << 18;
/// How often flows that are missing are sent again.
const TRIES: u32 = 4;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Traffic {
    /// Segments of this many established flows, in turn.
    Flows(u64),
    /// SYNs, each from another client.
    Syns,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// Million packets a second that arrive behind the balancer.
    pub(super) mpps: f64,
    /// CPU time of the balancer per forwarded packet, driver included.
    pub(super) nanoseconds: f64,
}

/// Measures a forwarding balancer with each kind of traffic, in this order, for `duration` each.
///
/// # Errors
/// When flows cannot be established, or nothing arrives.
pub(super) fn measure(stand: &Stand, traffic: &[Traffic], duration: Duration) -> Result<Vec<Rate>> {
    let backend = stand.lab.topology().host_of(1);
    let client = stand.lab.topology().client(V4);
    stand.lab.exec(LB, &["ip", "route", "add", CLIENT_NET, "via", &client.to_string()])?;
    for kind in traffic {
        if let Traffic::Flows(flows) = kind {
            establish(stand, &backend, *flows)?;
        }
    }
    let mut sink = Object::load(|_| ())?;
    sink.attach(&stand.lab, &backend, "eth0", "sink")?;
    let apart = stand.set_apart()?;
    cpu::pin_process(apart.servers, cpu::BALANCER_CPU)?;
    // Each before what else the machine does; the receiver before the balancer, or its 256 places are full
    // before it gets its turn.
    cpu::run_first(apart.servers, 2)?;
    cpu::run_first(apart.front, 1)?;
    traffic.iter().map(|kind| forward(stand, &sink, apart.front, *kind, duration)).collect()
}

/// Makes flows as a handshake does: SYN, SYN and ACK, ACK. Everything happens on one CPU, batch by batch.
fn establish(stand: &Stand, backend: &str, flows: u64) -> Result<()> {
    let mut answer = Object::load(|_| ())?;
    answer.send_by(&stand.lab, backend, object::interface(&stand.lab, backend, "eth0")?.index)?;
    answer.attach(&stand.lab, backend, "eth0", "answer")?;
    let mut syns = generator(stand, &tcp4().syn(), flows)?;
    let mut segments = generator(stand, &tcp4().ack(1).seq(1), flows)?;
    let mut missing = flows;
    // What is lost on the way is sent again.
    for _ in 0..TRIES {
        send(stand, &mut syns, flows)?;
        send(stand, &mut segments, flows)?;
        let before: u64 = answer.read("RECEIVED")?;
        send(stand, &mut segments, flows)?;
        let arrived = settle(&answer)? - before;
        missing = flows.saturating_sub(arrived);
        if missing * 1000 <= flows {
            return Ok(());
        }
    }
    bail!("{}: {missing} of {flows} flows cannot be established", stand.balancer.label())
}

fn forward(stand: &Stand, sink: &Object, thread: u32, kind: Traffic, duration: Duration) -> Result<Rate> {
    let mut generator = match kind {
        Traffic::Flows(flows) => generator(stand, &tcp4().ack(1).seq(1), flows)?,
        Traffic::Syns => generator(stand, &tcp4().syn(), NEVER_AGAIN)?,
    };
    let (clock, received) = (TaskClock::start(thread)?, settle(sink)?);
    let start = Instant::now();
    while start.elapsed() < duration {
        send(stand, &mut generator, REPEAT)?;
    }
    let (took, forwarded) = (start.elapsed(), settle(sink)? - received);
    let spent = clock.read()?;
    ensure!(forwarded > 0, "{} forwards nothing of {kind:?}", stand.balancer.label());
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let forwarded = forwarded as f64;
    Ok(Rate {
        mpps: forwarded / took.as_secs_f64() / 1e6,
        nanoseconds: spent.as_secs_f64() * 1e9 / forwarded,
    })
}

/// What a receiver has counted, once nothing is under way any more.
fn settle(receiver: &Object) -> Result<u64> {
    let mut last: u64 = receiver.read("RECEIVED")?;
    let mut error = None;
    let mut quiet = 0;
    wait_until("no frame is under way", Duration::from_secs(5), || {
        match receiver.read("RECEIVED") {
            Ok(now) => {
                quiet = if now == last { quiet + 1 } else { 0 };
                last = now;
            }
            Err(e) => error = Some(e),
        }
        quiet >= 3 || error.is_some()
    })?;
    error.map_or(Ok(last), Err)
}

/// Sends frames from the client, on the client's CPU and before all else there.
fn send(stand: &Stand, generator: &mut Generator, frames: u64) -> Result<()> {
    stand.client(|| {
        cpu::run_first(0, 1)?;
        generator.send(frames)
    })
}

fn generator(stand: &Stand, packet: &Packet, flows: u64) -> Result<Generator> {
    Generator::new(&stand.lab, stand.target(Service::Web), packet, CLIENTS, flows)
}
