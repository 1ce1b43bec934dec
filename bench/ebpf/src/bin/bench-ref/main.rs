//! The reference: a full-NAT balancer on hash tables, as most of them are built.
//!
//! Services are looked up in a hash map, flows in an LRU hash map by their five-tuple, each direction with an entry
//! of its own that says what its packets are turned into. Everything else is done as the product does it: the same
//! checks of a packet, clock, ring, counters and incremental checksums. Where the product does more (VLAN tags,
//! ICMP, TCP states, waiting requests) this program does nothing, which is in its favour.
#![no_std]
#![no_main]

mod maps;
mod nat;
mod parse;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_bench_ebpf::abi::{RefFlow, RefKey, RefNode, RefService, RefStats};
use lb_bench_ebpf::packet;
use lb_common::abi::ticks;
use lb_common::addr::Addr;
use lb_common::headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet};
use lb_common::reason::{Reason, Verdict};
use lb_common::service::PROTOCOL_TCP;
use lb_common::tcp::{ACK, SYN};

use crate::nat::Rewrite;
use crate::parse::{Family, Segment, V4, V6};

/// Entry point.
#[xdp(frags)]
fn reference(context: XdpContext) -> u32 {
    let outcome = match packet::at::<Ethernet>(&context, 0) {
        None => Err(Reason::ShortFrame),
        // SAFETY: in bounds, by `at`.
        Some(ethernet) => match unsafe { (*ethernet).ethertype() } {
            ETHERTYPE_IPV4 => handle::<V4>(&context),
            ETHERTYPE_IPV6 => handle::<V6>(&context),
            _ => Err(Reason::NotIp),
        },
    };
    outcome.unwrap_or_else(refuse)
}

#[inline(always)]
fn refuse(reason: Reason) -> u32 {
    if let Some(counter) = maps::REASON_STATS.get_ptr_mut(reason as u32) {
        // SAFETY: this CPU's own value.
        unsafe { *counter += 1 };
    }
    if matches!(reason.verdict(), Verdict::Pass) { XDP_PASS } else { XDP_DROP }
}

#[inline(always)]
fn handle<F: Rewrite>(context: &XdpContext) -> Result<u32, Reason> {
    let node = maps::NODE.get(0).ok_or(Reason::Internal)?;
    let segment = parse::segment::<F>(context, node)?;
    let key = RefKey {
        src: segment.src,
        dst: segment.dst,
        sport: segment.sport,
        dport: segment.dport,
        protocol: u32::from(PROTOCOL_TCP),
    };
    if is_snat::<F>(node, &segment.dst) {
        let flow = maps::FLOWS.get_ptr_mut(&key).ok_or(Reason::NoService)?;
        // SAFETY: points into `FLOWS`.
        return forward::<F>(context, node, &segment, unsafe { &mut *flow });
    }
    let service =
        RefService { vip: segment.dst, port: segment.dport, protocol: u16::from(PROTOCOL_TCP), reserved: 0 };
    // SAFETY: a number that is copied out.
    let service = *unsafe { maps::SERVICES.get(&service) }.ok_or(Reason::NoService)?;
    match maps::FLOWS.get_ptr_mut(&key) {
        // SAFETY: points into `FLOWS`.
        Some(flow) => forward::<F>(context, node, &segment, unsafe { &mut *flow }),
        None if segment.flags & (SYN | ACK) == SYN => {
            let mut flow = nat::create::<F>(context, node, &segment, &key, service)?;
            forward::<F>(context, node, &segment, &mut flow)
        }
        None => Err(Reason::FlowUnknown),
    }
}

#[inline(always)]
fn is_snat<F: Family>(node: &RefNode, address: &Addr) -> bool {
    address.offset_from(F::snat(node)).is_some_and(|offset| offset <= node.snat_mask)
}

#[inline(always)]
fn forward<F: Rewrite>(
    context: &XdpContext,
    node: &RefNode,
    segment: &Segment,
    flow: &mut RefFlow,
) -> Result<u32, Reason> {
    let backend = maps::BACKENDS.get(u32::from(flow.backend)).ok_or(Reason::Internal)?;
    if !backend.is_live() || backend.generation != flow.generation {
        return Err(Reason::BackendGone);
    }
    if !backend.is_resolved() {
        return Err(Reason::Unresolved);
    }
    if segment.ttl <= 1 {
        return Err(Reason::TtlExpired);
    }
    flow.seen = now();
    if flow.flags | segment.flags != flow.flags {
        flow.flags |= segment.flags;
    }
    let mac = if flow.is_reply != 0 {
        (flow.mac_high, flow.mac_low)
    } else {
        // SAFETY: six bytes of the map.
        unsafe { nat::mac_words(&raw const backend.mac) }
    };
    nat::rewrite::<F>(context, node, flow, mac)?;
    let direction = usize::from(flow.is_reply & 1);
    count(maps::SERVICE_STATS.get_ptr_mut(u32::from(flow.service)), direction, segment.len);
    count(maps::BACKEND_STATS.get_ptr_mut(u32::from(flow.backend)), direction, segment.len);
    Ok(XDP_TX)
}

#[inline(always)]
fn count(stats: Option<*mut RefStats>, direction: usize, bytes: u32) {
    if let Some(stats) = stats {
        // SAFETY: this CPU's own value; the masked direction is 0 or 1.
        unsafe {
            *(&raw mut (*stats).packets).cast::<u64>().add(direction & 1) += 1;
            *(&raw mut (*stats).bytes).cast::<u64>().add(direction & 1) += u64::from(bytes);
        }
    }
}

/// Coarse time in ticks, as the product reads it.
#[inline(always)]
pub(crate) fn now() -> u32 {
    // SAFETY: a helper without arguments.
    ticks(unsafe { bpf_ktime_get_coarse_ns() })
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
