//! Evenkeel's XDP program: TCP flows to a VIP are spread over backends by full NAT.
//!
//! A packet's way: [`parse`] → [`flow`] → (miss: [`claim`], which asks [`select`]) → [`forward::nat`].
//! Every early exit is an `Err(Reason)`; [`finish`] is the one place that turns an outcome into a verdict.
//!
//! The kernel gives a program and all that it calls 512 bytes of stack together. So the parts are functions that
//! begin again from the context and are called one after another, not one from another.
#![no_std]
#![no_main]
#![allow(internal_features, reason = "the bpf target has no atomic read-modify-write outside of intrinsics")]
#![feature(core_intrinsics)]
#![feature(asm_experimental_arch)]

mod announce;
mod atomic;
mod claim;
mod expire;
mod family;
mod flow;
mod forward;
mod icmp;
mod maps;
mod packet;
mod parse;
mod rings;
mod select;
mod service;
mod stats;
mod step;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::headers::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use lb_common::reason::{Reason, Verdict};

use crate::family::{Family, V4, V6};
use crate::forward::Action;
use crate::packet::Packet;
use crate::step::{Position, Step};

/// Entry point on every configured interface.
#[xdp(frags)]
pub(crate) fn lb(context: XdpContext) -> u32 {
    let packet = Packet::new(context.ctx);
    match parse::ethertype(&packet) {
        Some(ETHERTYPE_IPV4) => ip::<V4, UNTAGGED>(context.ctx),
        Some(ETHERTYPE_IPV6) => ip::<V6, UNTAGGED>(context.ctx),
        Some(ETHERTYPE_ARP) => announce(context.ctx),
        Some(other) if parse::is_tag(other) => tagged(context.ctx),
        Some(_) => finish(&packet, Err(Reason::NotIp)),
        None => finish(&packet, Err(Reason::ShortFrame)),
    }
}

/// The functions below are compiled once for frames without VLAN tags and once for any.
const UNTAGGED: bool = false;
/// See [`UNTAGGED`].
const TAGGED: bool = true;

/// The same for a frame with VLAN tags.
#[inline(always)]
fn tagged(context: *mut xdp_md) -> u32 {
    let packet = Packet::new(context);
    match parse::inner_ethertype(&packet) {
        Some(ETHERTYPE_IPV4) => ip::<V4, TAGGED>(context),
        Some(ETHERTYPE_IPV6) => ip::<V6, TAGGED>(context),
        Some(ETHERTYPE_ARP) => announce(context),
        Some(other) if parse::is_tag(other) => finish(&packet, Err(Reason::VlanDepth)),
        Some(_) => finish(&packet, Err(Reason::NotIp)),
        None => finish(&packet, Err(Reason::ShortFrame)),
    }
}

/// Entry point for the agent, which runs it over a list of slots: see [`expire`].
#[xdp]
pub(crate) fn expire(context: XdpContext) -> u32 {
    expire::run(&Packet::new(context.ctx))
}

/// A packet of a known flow is done after one call. A SYN opens its flow and then goes the same way.
#[inline(always)]
fn ip<F: Family, const TAGS: bool>(context: *mut xdp_md) -> u32 {
    let mut step = tcp::<F, TAGS>(context, Position::NONE.0);
    if let Step::Open(known) = Step::unpack(step) {
        step = open::<F>(context, known.0);
        if let Step::Forward(opened) = Step::unpack(step) {
            step = tcp::<F, TAGS>(context, opened.0);
        }
    }
    match Step::unpack(step) {
        Step::Verdict(verdict) => verdict,
        Step::Icmp => icmp::<F>(context),
        Step::Group => announce(context),
        // A flow that was opened a moment ago is not opened again.
        Step::Open(_) | Step::Forward(_) => XDP_DROP,
    }
}

/// Forwards a packet of a known flow: of the one at a position, when the caller has just opened it.
#[inline(never)]
fn tcp<F: Family, const TAGS: bool>(context: *mut xdp_md, position: u32) -> u64 {
    let mut packet = Packet::new(context);
    let outcome = forward_tcp::<F, TAGS>(&mut packet, Position(position));
    Step::pack(outcome.unwrap_or_else(|reason| Step::Verdict(finish(&packet, Err(reason)))))
}

#[inline(always)]
fn forward_tcp<F: Family, const TAGS: bool>(packet: &mut Packet, opened: Position) -> Result<Step, Reason> {
    let node = maps::NODE.get(0).ok_or(Reason::Internal)?;
    let frame = parse::frame::<TAGS>(packet, node)?;
    if !frame.local {
        return Ok(Step::Group);
    }
    let ip = F::parse(packet, &frame)?;
    if ip.protocol == F::ICMP {
        return Ok(Step::Icmp);
    }
    let segment = parse::segment::<F>(packet, &frame, &ip)?;
    if let Some(hit) = flow::of_reply(node, &segment) {
        return forward::nat::to_client::<F>(packet, node, &frame, &segment, &hit).map(Step::from);
    }
    let hit = if opened.is_some() {
        Some(flow::at(node, opened, &segment).ok_or(Reason::TableFull)?)
    } else {
        flow::of_client(node, &flow::Tuple::of(&segment))
    };
    match hit {
        Some(hit) if segment.is_syn() && hit.is_over() => Ok(Step::Open(hit.position)),
        Some(hit) => forward::nat::to_backend::<F>(packet, node, &frame, &segment, &hit).map(Step::from),
        None => Ok(Step::Open(Position::NONE)),
    }
}

/// Opens a flow for a packet that belongs to none: if it is a SYN to a service.
#[inline(never)]
fn open<F: Family>(context: *mut xdp_md, known: u32) -> u64 {
    let packet = Packet::new(context);
    let outcome = claim::open::<F>(&packet, Position(known));
    Step::pack(outcome.map_or_else(|reason| Step::Verdict(finish(&packet, Err(reason))), Step::Forward))
}

#[inline(never)]
fn icmp<F: Family>(context: *mut xdp_md) -> u32 {
    let mut packet = Packet::new(context);
    let outcome = icmp::handle::<F>(&mut packet);
    finish(&packet, outcome)
}

#[inline(never)]
fn announce(context: *mut xdp_md) -> u32 {
    let mut packet = Packet::new(context);
    let reason = announce::answer(&mut packet);
    finish(&packet, Err(reason))
}

/// The one table from outcome to verdict.
#[inline(always)]
fn finish(packet: &Packet, outcome: Result<Action, Reason>) -> u32 {
    match outcome {
        Ok(action) => action.verdict(),
        Err(reason) => {
            stats::count(reason);
            trace(packet, reason);
            match reason.verdict() {
                Verdict::Pass => XDP_PASS,
                Verdict::Drop => XDP_DROP,
                Verdict::Reply => forward::reply(packet).verdict(),
            }
        }
    }
}

#[cfg(feature = "log")]
fn trace(packet: &Packet, reason: Reason) {
    aya_log_ebpf::debug!(&XdpContext::new(packet.context()), "{}", reason.name());
}

#[cfg(not(feature = "log"))]
#[inline(always)]
fn trace(_: &Packet, _: Reason) {}

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
