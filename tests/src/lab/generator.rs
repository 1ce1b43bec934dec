//! Frames of many flows, IPv4 TCP, from a generator in the kernel: a program that the kernel runs over and over, and whose frames it sends.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, anyhow, ensure};
use aya::programs::ProgramError;
use aya::{TestRun, TestRunAttrs, TestRunOptions};
use lb_common::checksum::sum;

use super::object::{Object, interface};
use super::{CLIENT, LB, Lab};
use crate::packet::Packet;

/// Frames that the kernel makes before it sends them.
const BATCH: u32 = 64;

/// A loaded generator for one kind of frame. The flows differ by the client's address and port: 4,096 ports at each address,
/// from 1024.
#[derive(Debug)]
pub struct Generator {
    object: Object,
    frame: Vec<u8>,
    ingress: u32,
}

impl Generator {
    /// A generator on the lab's client that sends `packet` to `target` from the addresses that begin at `clients`, for so many
    /// flows in turn. The packet may have up to two bytes of payload.
    ///
    /// # Errors
    /// When the programs are not built, or the kernel refuses them.
    pub fn new(
        lab: &Lab,
        target: SocketAddr,
        packet: &Packet,
        clients: Ipv4Addr,
        flows: u64,
    ) -> Result<Self> {
        let (ours, balancer) = (interface(lab, CLIENT, "eth0")?, interface(lab, LB, "eth0")?);
        let packet = packet.clone().src_mac(ours.mac).dst_mac(balancer.mac);
        let packet = packet.src_ip(clients.into()).dst_ip(target.ip()).src_port(0).dst_port(target.port());
        let mut frame = packet.build();
        let end = frame.len();
        frame.resize(SHORTEST, 0);
        frame[24..26].fill(0);
        frame[50..52].fill(0);
        // The program adds source address and port, whose part of the sum is not here. The pseudo header (RFC 9293
        // §3.1) has addresses, protocol and length.
        let (dest, segment) = (sum(&frame[30..34]), &frame[34..end]);
        let length = u16::try_from(segment.len()).context("length of a segment")?;
        let ip_sum = sum(&frame[14..26]) + dest;
        let tcp_sum = sum(segment) + dest + sum(&[0, 6]) + sum(&length.to_be_bytes());
        let mut object = Object::load(|loader| {
            loader
                .override_global("FLOWS", &flows, true)
                .override_global("IP_SUM", &ip_sum, true)
                .override_global("TCP_SUM", &tcp_sum, true);
        })?;
        let words: Vec<u64> = frame.chunks_exact(8).map(word).collect();
        ensure!(end <= 8 * words.len(), "a frame of {end} bytes does not fit into the template");
        let words: [u64; 7] = words.try_into().map_err(|_| anyhow!("the frame has no seven words"))?;
        object.write("TEMPLATE", &words)?;
        object.program("generate")?;
        Ok(Self { object, frame, ingress: ours.index })
    }

    /// Sends this many frames, from where the last call ended. To be called in the client's network.
    ///
    /// # Errors
    /// When the kernel does not send them, as when nothing that takes frames is at the other end.
    pub fn send(&mut self, frames: u64) -> Result<()> {
        let length = u32::try_from(self.frame.len()).context("length of a frame")?;
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context: Vec<u8> =
            [0, length, 0, self.ingress, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
        let program = self.object.program("generate")?;
        let repeat = u32::try_from(frames).context("number of frames")?;
        loop {
            let options = TestRunOptions {
                data_in: Some(&self.frame),
                ctx_in: Some(&context),
                repeat,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::new()
            };
            match program.test_run(options) {
                // A process that was stopped and goes on: a part was sent, and now all of it.
                Err(ProgramError::SyscallError(e)) if e.io_error.kind() == ErrorKind::Interrupted => {}
                sent => return sent.context("send live frames").map(drop),
            }
        }
    }
}

/// Ethernet's shortest frame without its FCS.
const SHORTEST: usize = 60;

fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(bytes);
    u64::from_ne_bytes(word)
}
