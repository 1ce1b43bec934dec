//! What `bench lab` needs in XDP: the smallest forwarder, a packet generator, and receivers for its packets.
//!
//! All of them know IPv4 TCP without options and tags; everything else passes.
#![no_std]
#![no_main]

use aya_ebpf::Global;
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::btf_maps::{Array, DevMap};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use lb_bench_ebpf::packet::{V4, at};
use lb_common::checksum::{apply, delta, fold};
use lb_common::headers::{ETHERTYPE_IPV4, Ethernet, Tcp};
use lb_common::service::PROTOCOL_TCP;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// The interface that [`forward_request`], [`forward_response`] and [`answer`] send by.
#[btf_map]
static OUT: DevMap<1> = DevMap::new();

/// Frames that [`sink`] and [`answer`] have received. One CPU runs them.
#[btf_map]
static RECEIVED: Array<u64, 1> = Array::new();

/// The frame that [`generate`] sends, with zero as source address, source port and checksums.
#[btf_map]
static TEMPLATE: Array<[u64; FRAME_WORDS], 1> = Array::new();

/// Number of the next frame of [`generate`].
#[btf_map]
static CURSOR: Array<u64, 1> = Array::new();

/// Words of eight bytes that hold the headers, within Ethernet's minimum of 60 bytes.
const FRAME_WORDS: usize = 7;

/// Destination address of what is forwarded, network order; other packets pass.
#[unsafe(no_mangle)]
static MATCH: Global<u32> = Global::new(0);
/// Source address that forwarded packets get, network order.
#[unsafe(no_mangle)]
static NEW_SOURCE: Global<u32> = Global::new(0);
/// Destination address that forwarded packets get, network order.
#[unsafe(no_mangle)]
static NEW_DEST: Global<u32> = Global::new(0);
/// Added to the VIP's port for the backend's.
#[unsafe(no_mangle)]
static PORT_SHIFT: Global<u16> = Global::new(0);
/// The first four bytes of the Ethernet header that forwarded frames get.
#[unsafe(no_mangle)]
static ETHERNET_0: Global<u32> = Global::new(0);
/// The next four.
#[unsafe(no_mangle)]
static ETHERNET_4: Global<u32> = Global::new(0);
/// The next four; the ethertype stays.
#[unsafe(no_mangle)]
static ETHERNET_8: Global<u32> = Global::new(0);

/// How many flows [`generate`] sends frames of, in turn.
#[unsafe(no_mangle)]
static FLOWS: Global<u64> = Global::new(1);
/// Sum of the template's IP header, unfolded.
#[unsafe(no_mangle)]
static IP_SUM: Global<u64> = Global::new(0);
/// Sum of the template's TCP header and pseudo header, unfolded.
#[unsafe(no_mangle)]
static TCP_SUM: Global<u64> = Global::new(0);

#[repr(C)]
struct Frame {
    ethernet: Ethernet,
    ip: V4,
    tcp: Tcp,
}

/// From clients to the backend: the least that full NAT must do to a packet, by constants.
#[xdp(frags)]
pub(crate) fn forward_request(context: XdpContext) -> u32 {
    forward(&context, |tcp, shift| {
        tcp.dest = u16::from_be_bytes(tcp.dest).wrapping_add(shift).to_be_bytes();
        delta(0, u64::from(shift.to_be()))
    })
}

/// From the backend to the client.
#[xdp(frags)]
pub(crate) fn forward_response(context: XdpContext) -> u32 {
    forward(&context, |tcp, shift| {
        tcp.source = u16::from_be_bytes(tcp.source).wrapping_sub(shift).to_be_bytes();
        delta(u64::from(shift.to_be()), 0)
    })
}

#[inline(always)]
fn forward(context: &XdpContext, change_port: impl FnOnce(&mut Tcp, u16) -> u16) -> u32 {
    let Some(frame) = frame(context) else { return XDP_PASS };
    let to = MATCH.load();
    if u32::from_ne_bytes(frame.ip.dst) != to || frame.ip.ttl <= 1 {
        return XDP_PASS;
    }
    let from = u32::from_ne_bytes(frame.ip.src);
    let (source, dest) = (NEW_SOURCE.load(), NEW_DEST.load());
    let addresses = delta(u64::from(from) + u64::from(to), u64::from(source) + u64::from(dest));
    let lower_ttl = delta(u64::from(u16::from_ne_bytes([1, 0])), 0);
    frame.ip.src = source.to_ne_bytes();
    frame.ip.dst = dest.to_ne_bytes();
    frame.ip.ttl -= 1;
    frame.ip.check = updated(frame.ip.check, u64::from(addresses) + u64::from(lower_ttl));
    let port = change_port(&mut frame.tcp, PORT_SHIFT.load());
    frame.tcp.check = updated(frame.tcp.check, u64::from(addresses) + u64::from(port));
    let ethernet = (&raw mut frame.ethernet).cast::<u32>();
    // SAFETY: the first twelve of the fourteen bytes of a header that `frame` found, without alignment.
    unsafe {
        ethernet.write_unaligned(ETHERNET_0.load());
        ethernet.add(1).write_unaligned(ETHERNET_4.load());
        ethernet.add(2).write_unaligned(ETHERNET_8.load());
    }
    OUT.redirect(0, u64::from(XDP_DROP)).unwrap_or(XDP_DROP)
}

/// A checksum after changes that sum to `deltas`.
#[inline(always)]
fn updated(check: [u8; 2], deltas: u64) -> [u8; 2] {
    apply(u16::from_ne_bytes(check), fold(deltas)).to_ne_bytes()
}

/// Run by `BPF_PROG_TEST_RUN` with live frames: writes the next flow's frame and sends it by the interface that
/// the run names. Frames are used again as their receiver left them, so all headers are written.
#[xdp]
pub(crate) fn generate(context: XdpContext) -> u32 {
    let (Some(template), Some(cursor)) = (TEMPLATE.get(0), CURSOR.get_ptr_mut(0)) else { return XDP_ABORTED };
    let Some(words) = at::<[u64; FRAME_WORDS]>(&context, 0) else { return XDP_ABORTED };
    // SAFETY: `at` checked all of it; a packet's buffer is aligned to more than eight.
    unsafe { *words = *template };
    let Some(frame) = at::<Frame>(&context, 0) else { return XDP_ABORTED };
    // SAFETY: `at` checked the frame, whose fields have alignment 1; `words` is not used any more.
    let frame = unsafe { &mut *frame };
    // SAFETY: points into the map; one CPU runs the generator.
    let number = unsafe {
        let next = *cursor;
        *cursor = if next + 1 >= FLOWS.load() { 0 } else { next + 1 };
        next
    };
    let address = u32::from_ne_bytes(frame.ip.src).to_be().wrapping_add((number >> 12) as u32).to_be();
    let port = (1024 + (number as u16 & 0xfff)).to_be();
    frame.ip.src = address.to_ne_bytes();
    frame.ip.check = (!fold(IP_SUM.load() + u64::from(address))).to_ne_bytes();
    frame.tcp.source = port.to_ne_bytes();
    frame.tcp.check = (!fold(TCP_SUM.load() + u64::from(address) + u64::from(port))).to_ne_bytes();
    XDP_TX
}

/// Counts and drops.
#[xdp]
pub(crate) fn sink(context: XdpContext) -> u32 {
    if frame(&context).is_none() {
        return XDP_PASS;
    }
    count()
}

/// Answers a SYN with SYN and ACK; counts and drops everything else.
#[xdp]
pub(crate) fn answer(context: XdpContext) -> u32 {
    let Some(frame) = frame(&context) else { return XDP_PASS };
    if frame.tcp.flags & (SYN | ACK) != SYN {
        return count();
    }
    core::mem::swap(&mut frame.ethernet.src, &mut frame.ethernet.dst);
    core::mem::swap(&mut frame.ip.src, &mut frame.ip.dst);
    core::mem::swap(&mut frame.tcp.source, &mut frame.tcp.dest);
    let old = number_sum(&frame.tcp);
    frame.tcp.ack = (u32::from_be_bytes(frame.tcp.seq) + 1).to_be_bytes();
    frame.tcp.seq = [0; 4];
    frame.tcp.flags = SYN | ACK;
    let change = delta(old, number_sum(&frame.tcp));
    frame.tcp.check = updated(frame.tcp.check, u64::from(change));
    OUT.redirect(0, u64::from(XDP_DROP)).unwrap_or(XDP_DROP)
}

/// Sum of what [`answer`] changes, unfolded.
#[inline(always)]
fn number_sum(tcp: &Tcp) -> u64 {
    u64::from(u32::from_ne_bytes(tcp.seq))
        + u64::from(u32::from_ne_bytes(tcp.ack))
        + u64::from(u16::from_ne_bytes([tcp.offset, tcp.flags]))
}

#[inline(always)]
fn count() -> u32 {
    if let Some(received) = RECEIVED.get_ptr_mut(0) {
        // SAFETY: points into the map; one CPU runs the receiver.
        unsafe { *received += 1 };
    }
    XDP_DROP
}

/// The headers of an IPv4 TCP packet without options.
#[inline(always)]
fn frame<'a>(context: &XdpContext) -> Option<&'a mut Frame> {
    // SAFETY: `at` checked it, its fields have alignment 1, and it is the only reference.
    let frame = unsafe { &mut *at::<Frame>(context, 0)? };
    let tcp = frame.ethernet.ethertype() == ETHERTYPE_IPV4 && frame.ip.vihl == 0x45;
    (tcp && frame.ip.protocol == PROTOCOL_TCP).then_some(frame)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never linked in: the verifier would refuse the endless loop.
    loop {}
}

/// The helpers that the kernel keeps for programs under the GPL are used here.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
