//! New flows, and the rewriting of packets.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use aya_ebpf::programs::XdpContext;
use lb_bench_ebpf::abi::{REF_PORT_BASE, REF_PORT_BITS, RefFlow, RefKey, RefNode};
use lb_bench_ebpf::packet::{self, read, write};
use lb_common::addr::Addr;
use lb_common::backend::Backend;
use lb_common::checksum::{addr_sum, apply, delta, negate};
use lb_common::hash::{RING_KEY, flow_hash};
use lb_common::headers::{Ethernet, Tcp};
use lb_common::reason::Reason;
use lb_common::ring::{RING_SIZE, ring_index};
use lb_common::service::PROTOCOL_TCP;

use crate::parse::{Family, L3, Segment};
use crate::{maps, now};

/// Source ports that are tried before a SYN is dropped.
const TRIES: u32 = 8;

/// Chooses a backend and a source port, and makes the entries of both directions.
#[inline(always)]
pub(crate) fn create<F: Family>(
    context: &XdpContext,
    node: &RefNode,
    segment: &Segment,
    key: &RefKey,
    service: u32,
) -> Result<RefFlow, Reason> {
    let (id, backend) = choose(segment, service)?;
    let ethernet = packet::at::<Ethernet>(context, 0).ok_or(Reason::ShortFrame)?;
    // SAFETY: in bounds, by `at`.
    let mac = unsafe { mac_words(&raw const (*ethernet).src) };
    let seen = now();
    // Built from its parts each time: a copy from one place of the stack to another is done in words that the
    // verifier finds misaligned.
    let entry = |src, dst, sport, dport, l4_delta, ip_delta, is_reply| RefFlow {
        src,
        dst,
        sport,
        dport,
        l4_delta,
        ip_delta,
        seen,
        backend: id,
        generation: backend.generation,
        service: service as u16,
        flags: 0,
        is_reply,
        reserved: 0,
        mac_high: mac.0,
        mac_low: mac.1,
        reserved_too: 0,
    };
    let mut reply = entry(segment.dst, segment.src, segment.dport, segment.sport, 0, 0, 1);
    let (snat, port) = claim::<F>(node, segment, backend, &mut reply)?;
    let (l4_delta, ip_delta) = (negate(reply.l4_delta), negate(reply.ip_delta));
    let flow = entry(snat, backend.addr, port, backend.port, l4_delta, ip_delta, 0);
    maps::FLOWS.insert(key, &flow, u64::from(BPF_ANY)).map_err(|_| Reason::TableFull)?;
    for stats in [maps::SERVICE_STATS.get_ptr_mut(service), maps::BACKEND_STATS.get_ptr_mut(u32::from(id))]
        .into_iter()
        .flatten()
    {
        // SAFETY: this CPU's own value.
        unsafe { (*stats).new_flows += 1 };
    }
    Ok(flow)
}

#[inline(always)]
fn choose(segment: &Segment, service: u32) -> Result<(u16, &'static Backend), Reason> {
    let ring = maps::RINGS.get(service).ok_or(Reason::NoBackend)?;
    let hash = flow_hash(RING_KEY, &segment.src, segment.sport, &segment.dst, segment.dport);
    let position = ring_index((hash >> 32) as u32, RING_SIZE as u32) as usize;
    if position >= RING_SIZE {
        return Err(Reason::Internal);
    }
    // SAFETY: in bounds by the check above.
    let id = unsafe { *ring.slots.as_ptr().add(position) };
    let backend = maps::BACKENDS.get(u32::from(id)).ok_or(Reason::Internal)?;
    if !backend.is_live() {
        return Err(Reason::BackendGone);
    }
    if !backend.is_resolved() {
        return Err(Reason::Unresolved);
    }
    Ok((id, backend))
}

/// Takes the next source port that is free for the backend, by making the entry of its replies.
#[inline(always)]
fn claim<F: Family>(
    node: &RefNode,
    segment: &Segment,
    backend: &Backend,
    reply: &mut RefFlow,
) -> Result<(Addr, u16), Reason> {
    let cursor = maps::CURSOR.get_ptr_mut(0).ok_or(Reason::Internal)?;
    let client = addr_sum(&segment.src) + addr_sum(&segment.dst);
    let client_ports = u64::from(segment.sport) + u64::from(segment.dport);
    for _ in 0..TRIES {
        // SAFETY: this CPU's own value.
        let turn = unsafe {
            *cursor = (*cursor).wrapping_add(1);
            *cursor
        };
        let snat = nth(F::snat(node), turn >> REF_PORT_BITS & node.snat_mask);
        let port = (REF_PORT_BASE | turn & (REF_PORT_BASE - 1)) as u16;
        let key = RefKey {
            src: backend.addr,
            dst: snat,
            sport: backend.port,
            dport: port.to_be(),
            protocol: u32::from(PROTOCOL_TCP),
        };
        let server = addr_sum(&backend.addr) + addr_sum(&snat);
        let server_ports = u64::from(backend.port) + u64::from(port.to_be());
        reply.ip_delta = delta(server, client);
        reply.l4_delta = delta(server + server_ports, client + client_ports);
        if maps::FLOWS.insert(&key, &*reply, u64::from(BPF_NOEXIST)).is_ok() {
            return Ok((snat, port.to_be()));
        }
    }
    Err(Reason::TableFull)
}

/// The address `n` after `base`.
#[inline(always)]
fn nth(base: &Addr, n: u32) -> Addr {
    let [high, low] = base.words();
    let last = u32::from_be((low >> 32) as u32).wrapping_add(n).to_be();
    Addr::from_words([high, low & 0xffff_ffff | u64::from(last) << 32])
}

/// Turns the packet into what the flow says, and sends it to `mac`.
#[inline(always)]
pub(crate) fn rewrite<F: Rewrite>(
    context: &XdpContext,
    node: &RefNode,
    flow: &RefFlow,
    mac: (u32, u16),
) -> Result<(), Reason> {
    let ethernet = packet::at::<Ethernet>(context, 0).ok_or(Reason::ShortFrame)?;
    let header = packet::at::<F::Header>(context, L3).ok_or(Reason::ShortFrame)?;
    let tcp = packet::at::<Tcp>(context, L3 + F::LEN).ok_or(Reason::ShortFrame)?;
    // SAFETY: in bounds, by `at`; headers have alignment 1.
    unsafe {
        write_mac(&raw mut (*ethernet).dst, mac);
        write_mac(&raw mut (*ethernet).src, mac_words(&raw const node.mac));
        F::rewrite(&mut *header, flow);
        (*tcp).source = flow.sport.to_ne_bytes();
        (*tcp).dest = flow.dport.to_ne_bytes();
        (*tcp).check = apply((*tcp).check(), flow.l4_delta).to_ne_bytes();
    }
    Ok(())
}

/// What differs between the families when a packet is rewritten.
pub(crate) trait Rewrite: Family {
    fn rewrite(header: &mut Self::Header, flow: &RefFlow);
}

impl Rewrite for crate::V4 {
    #[inline(always)]
    fn rewrite(h: &mut packet::V4, flow: &RefFlow) {
        h.src = flow.src.v4_word().to_ne_bytes();
        h.dst = flow.dst.v4_word().to_ne_bytes();
        h.ttl = h.ttl.wrapping_sub(1);
        // TTL is the first byte of its 16-bit word: the word as it stands in memory falls by one.
        let check = apply(u16::from_ne_bytes(h.check), flow.ip_delta);
        h.check = apply(check, negate(1)).to_ne_bytes();
    }
}

impl Rewrite for crate::V6 {
    #[inline(always)]
    fn rewrite(h: &mut packet::V6, flow: &RefFlow) {
        let ([a, b], [c, d]) = (flow.src.words(), flow.dst.words());
        let (src, dst) = (h.src.as_mut_ptr(), h.dst.as_mut_ptr());
        // SAFETY: 16 bytes each.
        unsafe {
            write(src, a);
            write(src.add(8), b);
            write(dst, c);
            write(dst.add(8), d);
        }
        h.ttl = h.ttl.wrapping_sub(1);
    }
}

/// A MAC as four and two bytes.
///
/// # Safety
/// `mac` points to six bytes.
#[inline(always)]
pub(crate) unsafe fn mac_words(mac: *const [u8; 6]) -> (u32, u16) {
    let p = mac.cast::<u8>();
    // SAFETY: by the caller.
    unsafe { (read(p), read(p.add(4))) }
}

/// # Safety
/// `to` points to six bytes.
#[inline(always)]
unsafe fn write_mac(to: *mut [u8; 6], (high, low): (u32, u16)) {
    let p = to.cast::<u8>();
    // SAFETY: by the caller.
    unsafe {
        write(p, high);
        write(p.add(4), low);
    }
}
