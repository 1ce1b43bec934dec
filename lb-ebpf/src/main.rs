//! Evenkeel's XDP program: TCP flows to a VIP are spread over backends by full NAT.
//!
//! A packet's way: [`parse`] → [`flow`] → (miss: [`claim`], which asks [`select`]) → [`forward::nat`], where [`track`] notes
//! what it changes in its flow.
//! Every early exit is an `Err(Reason)`; [`finish`] is the one place that turns an outcome into a verdict.
//!
//! The kernel gives a program and all that it calls 512 bytes of stack together. So the [`parts`] are functions that
//! begin again from the context and are called one after another, not one from another.
#![no_std]
#![no_main]
#![allow(internal_features, reason = "the bpf target has no atomic read-modify-write outside of intrinsics")]
#![feature(core_intrinsics)]
#![feature(asm_experimental_arch)]

mod announce;
mod arrival;
mod atomic;
mod books;
mod claim;
mod clock;
mod expire;
mod family;
mod flow;
mod forward;
mod hints;
mod icmp;
mod maps;
mod packet;
mod parse;
mod parts;
mod retry;
mod rings;
mod select;
mod service;
mod stats;
mod step;
mod track;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::headers::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use lb_common::reason::{Reason, Verdict};

use crate::family::{V4, V6};
use crate::forward::Action;
use crate::packet::Packet;
use crate::parts::Parts;
use crate::step::{Position, Step};

/// Entry point on every configured interface.
#[xdp(frags)]
pub(crate) fn lb(context: XdpContext) -> u32 {
    let packet = Packet::new(context.ctx);
    match parse::ethertype(&packet) {
        Some(ETHERTYPE_IPV4) => ip::<V4, false>(context.ctx),
        Some(ETHERTYPE_IPV6) => ip::<V6, false>(context.ctx),
        Some(ETHERTYPE_ARP) => parts::announce(context.ctx),
        Some(other) if parse::is_tag(other) => tagged(context.ctx),
        Some(_) => finish(&packet, Err(Reason::NotIp)),
        None => finish(&packet, Err(Reason::ShortFrame)),
    }
}

/// The same for a frame with VLAN tags.
#[inline(always)]
fn tagged(context: *mut xdp_md) -> u32 {
    let packet = Packet::new(context);
    match parse::inner_ethertype(&packet) {
        Some(ETHERTYPE_IPV4) => ip::<V4, true>(context),
        Some(ETHERTYPE_IPV6) => ip::<V6, true>(context),
        Some(ETHERTYPE_ARP) => parts::announce(context),
        Some(other) if parse::is_tag(other) => finish(&packet, Err(Reason::VlanDepth)),
        Some(_) => finish(&packet, Err(Reason::NotIp)),
        None => finish(&packet, Err(Reason::ShortFrame)),
    }
}

/// Entry point for the agent, which runs it over a list of slots: see [`expire`].
#[xdp]
pub(crate) fn expire(context: XdpContext) -> u32 {
    expire::run(&mut Packet::new(context.ctx))
}

/// Entry point for the agent, which runs it to learn what time the data path has.
#[xdp]
pub(crate) fn clock(_: XdpContext) -> u32 {
    clock::now()
}

/// A packet of a known flow is done after one call. What must be decided first is decided by another function, and then
/// the packet goes the same way.
#[inline(always)]
fn ip<F: Parts, const TAGS: bool>(context: *mut xdp_md) -> u32 {
    let tcp = |position: Position| {
        if TAGS { F::tcp_tagged(context, position.0) } else { F::tcp(context, position.0) }
    };
    let mut step = tcp(Position::NONE);
    let decided = match Step::unpack(step) {
        Step::Verdict(verdict) => return verdict,
        Step::Open(known) => F::open(context, known.0),
        Step::Unanswered(position) => F::unanswered(context, position.0),
        Step::Refused => F::refused(context),
        Step::Icmp | Step::Group | Step::Reset(_) | Step::Forward(_) | Step::Launch(_) => step,
    };
    step = decided;
    if let Step::Forward(position) = Step::unpack(decided) {
        step = tcp(position);
    }
    match Step::unpack(step) {
        Step::Verdict(verdict) => verdict,
        Step::Launch(position) => F::launch(context, position.0),
        Step::Icmp => F::icmp(context),
        Step::Group => parts::announce(context),
        Step::Reset(reason) => F::reset(context, reason),
        // What was decided a moment ago is not decided again: another CPU has moved the flow, or ended it.
        Step::Open(_) | Step::Forward(_) | Step::Unanswered(_) | Step::Refused => {
            finish(&Packet::new(context), Err(Reason::TableFull))
        }
    }
}

/// The one table from outcome to verdict.
#[inline(always)]
pub(crate) fn finish(packet: &Packet, outcome: Result<Action, Reason>) -> u32 {
    match outcome {
        Ok(action) => action.verdict(),
        Err(reason) => {
            stats::count(reason);
            trace(packet, reason);
            match reason.verdict() {
                Verdict::Pass => XDP_PASS,
                // Resets are the business of `reset`, and what was sent on has an action.
                Verdict::Drop | Verdict::Reset | Verdict::Sent => XDP_DROP,
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
