//! The parts of the program: each takes the context and begins again from the packet.
//!
//! They are global functions, which the verifier checks once each, whatever their callers know
//! (Documentation/bpf/verifier.rst and `do_check_subprogs` in kernel/bpf/verifier.c). Checked anew at each of their calls, they
//! would take more steps than it allows a program.

use aya_ebpf::bindings::xdp_md;
use lb_common::node::Node;
use lb_common::reason::{Reason, Verdict};

use crate::family::{Family, V4, V6};
use crate::flow::Hit;
use crate::packet::Packet;
use crate::step::{Position, Step};
use crate::{
    announce, arrival, claim, finish, flow, forward, icmp, maps, parse, retry, select, stats, track,
};

/// What the entry point calls for a packet of an IP version.
pub(crate) trait Parts: Family {
    /// Forwards a packet of a known flow: of the one at a position, when the caller has just decided that.
    fn tcp(context: *mut xdp_md, position: u32) -> u64;
    /// The same for a frame with VLAN tags. [`Parts::tcp`] leaves out all that is about them.
    fn tcp_tagged(context: *mut xdp_md, position: u32) -> u64;
    /// Opens a flow for a packet that belongs to none: if it is a SYN to a service.
    fn open(context: *mut xdp_md, known: u32) -> u64;
    /// Forwards the SYN that has opened the flow at a position.
    fn launch(context: *mut xdp_md, position: u32) -> u32;
    /// Moves the flow of a SYN that has come again to another backend, if there is one.
    fn unanswered(context: *mut xdp_md, position: u32) -> u64;
    /// Turns a backend's refusal into a SYN to another, if there is one. Otherwise the refusal goes to the client.
    fn refused(context: *mut xdp_md) -> u64;
    /// Answers a client's packet with a RST, for the reason with this number.
    fn reset(context: *mut xdp_md, reason: u32) -> u32;
    /// Treats a packet as ICMP.
    fn icmp(context: *mut xdp_md) -> u32;
}

macro_rules! parts {
    ($family:ty { $($part:ident as $symbol:ident($($argument:ident),*) -> $result:ty = $body:expr;)+ }) => {
        $(
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $symbol(context: *mut xdp_md, $($argument: u32),*) -> $result {
                // The kernel gives every such function a context, but the verifier cannot know that of any pointer.
                ($body)(context, $($argument),*)
            }
        )+

        impl Parts for $family {
            $(
                #[inline(always)]
                fn $part(context: *mut xdp_md, $($argument: u32),*) -> $result {
                    $symbol(context, $($argument),*)
                }
            )+
        }
    };
}

parts!(V4 {
    tcp as tcp_v4(position) -> u64 = tcp::<V4, false>;
    tcp_tagged as tcp_v4_tagged(position) -> u64 = tcp::<V4, true>;
    open as open_v4(known) -> u64 = open::<V4>;
    launch as launch_v4(position) -> u32 = launch::<V4>;
    unanswered as unanswered_v4(position) -> u64 = unanswered::<V4>;
    refused as refused_v4() -> u64 = refused::<V4>;
    reset as reset_v4(reason) -> u32 = reset::<V4>;
    icmp as icmp_v4() -> u32 = icmp::<V4>;
});

parts!(V6 {
    tcp as tcp_v6(position) -> u64 = tcp::<V6, false>;
    tcp_tagged as tcp_v6_tagged(position) -> u64 = tcp::<V6, true>;
    open as open_v6(known) -> u64 = open::<V6>;
    launch as launch_v6(position) -> u32 = launch::<V6>;
    unanswered as unanswered_v6(position) -> u64 = unanswered::<V6>;
    refused as refused_v6() -> u64 = refused::<V6>;
    reset as reset_v6(reason) -> u32 = reset::<V6>;
    icmp as icmp_v6() -> u32 = icmp::<V6>;
});

/// Answers ARP and neighbour solicitations.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn announce(context: *mut xdp_md) -> u32 {
    let mut packet = Packet::new(context);
    let reason = announce::answer(&mut packet);
    finish(&packet, Err(reason))
}

/// Reads what a SYN offers into `OPTIONS`: its TCP header begins at `l4`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn options(context: *mut xdp_md, l4: u32) -> u32 {
    parse::options(&Packet::new(context), l4 as usize);
    0
}

/// Finds a backend of a service that is none of those in the halves of `not`; 0 when there is none.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn another(ring: u32, hash: u64, not: u32) -> u32 {
    select::find_another(ring, hash, not)
}

/// Forwards a packet of a known flow: of the one at a position, when the caller has just given it to a backend.
#[inline(always)]
fn tcp<F: Family, const TAGS: bool>(context: *mut xdp_md, position: u32) -> u64 {
    let mut packet = Packet::new(context);
    let outcome = forward_tcp::<F, TAGS>(&mut packet, Position(position));
    step(&packet, outcome)
}

#[inline(always)]
fn forward_tcp<F: Family, const TAGS: bool>(packet: &mut Packet, decided: Position) -> Result<Step, Reason> {
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
        if hit.is_unanswered() && decided.0 != Position::LAST.0 && track::refuses(&segment, &hit) {
            return Ok(Step::Refused);
        }
        return forward::nat::to_client::<F>(packet, node, &frame, &segment, &hit).map(Step::from);
    }
    let hit = if decided.is_some() {
        Some(flow::at(node, decided, &segment).ok_or(Reason::TableFull)?)
    } else {
        flow::of_client(node, &flow::Tuple::of(&segment))
    };
    match hit {
        Some(hit) if segment.is_syn() && has_ended(node, &hit) => {
            arrival::keep(frame, segment);
            Ok(Step::Open(hit.position))
        }
        Some(hit) if retry::is_due(&hit, &segment) => Ok(Step::Unanswered(hit.position)),
        Some(hit) => forward::nat::to_backend::<F>(packet, node, &frame, &segment, &hit).map(Step::from),
        None => {
            arrival::keep(frame, segment);
            Ok(Step::Open(Position::NONE))
        }
    }
}

/// Whether the flow that a SYN belongs to is over. One whose backend is lost is ended here: its client begins anew, and has
/// done nothing to be told off for.
#[inline(always)]
fn has_ended(node: &Node, hit: &Hit) -> bool {
    if hit.is_over() {
        return true;
    }
    let is_lost = hit.backend().is_none_or(|backend| backend.is_dead());
    if is_lost {
        track::end(node, hit);
    }
    is_lost
}

/// Opens a flow for a packet that belongs to none: if it is a SYN to a service.
#[inline(always)]
fn open<F: Family>(context: *mut xdp_md, known: u32) -> u64 {
    let packet = Packet::new(context);
    step(&packet, claim::open::<F>(&packet, Position(known)).map(Step::Launch))
}

/// Forwards the SYN that has opened the flow at a position.
#[inline(always)]
fn launch<F: Family>(context: *mut xdp_md, position: u32) -> u32 {
    let mut packet = Packet::new(context);
    let outcome = forward::nat::launch::<F>(&mut packet, Position(position));
    finish(&packet, outcome)
}

/// Moves the flow of a SYN that has come again to another backend, if there is one.
#[inline(always)]
fn unanswered<F: Family>(context: *mut xdp_md, position: u32) -> u64 {
    let packet = Packet::new(context);
    let position = Position(position);
    step(&packet, retry::unanswered::<F>(&packet, position).map(|()| Step::Forward(position)))
}

/// Turns a backend's refusal into a SYN to another, if there is one. Otherwise the refusal goes to the client.
#[inline(always)]
fn refused<F: Family>(context: *mut xdp_md) -> u64 {
    let mut packet = Packet::new(context);
    let outcome = retry::refused::<F>(&mut packet);
    step(&packet, outcome.map(|sent| sent.map_or(Step::Forward(Position::LAST), Step::from)))
}

/// Answers a client's packet with a RST.
#[inline(always)]
fn reset<F: Family>(context: *mut xdp_md, reason: u32) -> u32 {
    let mut packet = Packet::new(context);
    let outcome = forward::reset::answer::<F>(&mut packet);
    if outcome.is_ok() {
        stats::count_number(reason);
    }
    finish(&packet, outcome)
}

/// Packs what a part of the program has found out.
#[inline(always)]
fn step(packet: &Packet, outcome: Result<Step, Reason>) -> u64 {
    let step = match outcome {
        Ok(step) => step,
        Err(reason) if reason.verdict() as u32 == Verdict::Reset as u32 => Step::Reset(reason as u32),
        Err(reason) => Step::Verdict(finish(packet, Err(reason))),
    };
    step.pack()
}

#[inline(always)]
fn icmp<F: Family>(context: *mut xdp_md) -> u32 {
    let mut packet = Packet::new(context);
    let outcome = icmp::handle::<F>(&mut packet);
    finish(&packet, outcome)
}
