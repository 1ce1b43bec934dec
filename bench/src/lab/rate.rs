//! Packet rate: frames of 64 bytes (with their FCS) from a generator in the kernel, counted and dropped behind the
//! balancer.
//!
//! The balancer's packet processing has a CPU for itself and the receiver, which takes each batch from it as it comes
//! and so has a part in the rate, but not in the time per packet. The generator has the other CPU and sends more than
//! anybody can forward.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::{TestRun, TestRunAttrs, TestRunOptions};
use lb_common::checksum::sum;
use lb_tests::lab::{CLIENT, LB, wait_until};
use lb_tests::packet::world::Family::V4;
use lb_tests::packet::{Packet, tcp4};

use super::cpu;
use super::object::{self, Object};
use super::stand::{Service, Stand};
use super::task_clock::TaskClock;

/// First source address of the flows; each has 4,096 ports.
const CLIENTS: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 0));
/// Where the client must be reached for the answers to SYNs.
const CLIENT_NET: &str = "198.18.0.0/15";
/// Flows of the SYNs: more than can come twice in one measurement.
const NEVER_AGAIN: u64 = 1 << 28;
/// Frames that the kernel makes before it sends them.
const BATCH: u32 = 64;
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
        syns.send(stand, flows)?;
        segments.send(stand, flows)?;
        let before: u64 = answer.read("RECEIVED")?;
        segments.send(stand, flows)?;
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
        generator.send(stand, REPEAT)?;
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

/// A loaded generator for one kind of frame.
struct Generator {
    object: Object,
    frame: Vec<u8>,
    ingress: u32,
}

impl Generator {
    /// Sends this many frames from the client, on the client's CPU.
    fn send(&mut self, stand: &Stand, frames: u64) -> Result<()> {
        let length = u32::try_from(self.frame.len()).context("length of a frame")?;
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context: Vec<u8> =
            [0, length, 0, self.ingress, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
        let program = self.object.program("generate")?;
        let options = TestRunOptions {
            data_in: Some(&self.frame),
            ctx_in: Some(&context),
            repeat: u32::try_from(frames).context("number of frames")?,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        };
        stand.client(|| {
            cpu::run_first(0, 1)?;
            program.test_run(options).context("send live frames").map(drop)
        })
    }
}

fn generator(stand: &Stand, packet: &Packet, flows: u64) -> Result<Generator> {
    let ours = object::interface(&stand.lab, CLIENT, "eth0")?;
    let balancer = object::interface(&stand.lab, LB, "eth0")?;
    let target = stand.target(Service::Web);
    let packet = packet.clone().src_mac(ours.mac).dst_mac(balancer.mac);
    let packet = packet.src_ip(CLIENTS).dst_ip(target.ip()).src_port(0).dst_port(target.port()).pad_to(60);
    let mut frame = packet.build();
    frame[24..26].fill(0);
    frame[50..52].fill(0);
    // The program adds source address and port, whose part of the sum is not here. The pseudo header (RFC 9293
    // §3.1) has addresses, protocol and length.
    let dest = sum(&frame[30..34]);
    let length = u16::try_from(frame[34..54].len()).context("length of a header")?;
    let ip_sum = sum(&frame[14..26]) + dest;
    let tcp_sum = sum(&frame[34..54]) + dest + sum(&[0, 6]) + sum(&length.to_be_bytes());
    let mut object = Object::load(|loader| {
        loader
            .override_global("FLOWS", &flows, true)
            .override_global("IP_SUM", &ip_sum, true)
            .override_global("TCP_SUM", &tcp_sum, true);
    })?;
    let words: Vec<u64> = frame.chunks_exact(8).map(word).collect();
    let words: [u64; 7] = words.try_into().map_err(|_| anyhow::anyhow!("the frame has no seven words"))?;
    object.write("TEMPLATE", &words)?;
    object.program("generate")?;
    Ok(Generator { object, frame, ingress: ours.index })
}

fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(bytes);
    u64::from_ne_bytes(word)
}
