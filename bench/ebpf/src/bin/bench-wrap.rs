//! Restores the packet and calls the measured program.
//!
//! `BPF_PROG_TEST_RUN` with a repeat count feeds a packet that was rewritten back in. These programs write the
//! headers anew, of another flow each time where the script says so, and tail-call the program in `TARGET`.
//! What they cost themselves is measured with `done` in its place.
//!
//! Headers are written field by field: a program that reads a field right after two stores that each wrote a part
//! of it would wait for both, which no packet from a network card makes it do.
#![no_std]
#![no_main]

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_TX};
use aya_ebpf::btf_maps::{Array, ProgramArray};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use lb_bench_ebpf::abi::{
    MAX_REPLIES, MODE_CLIENT, MODE_REPLY, RESTORED, Reply, Script, client_offset, client_port,
    service_offset, shuffle,
};
use lb_bench_ebpf::packet::{self, read, write};

/// The script: one value.
#[btf_map]
static SCRIPT: Array<Script, 1> = Array::new();

/// Replies in the order in which they are sent.
#[btf_map]
static REPLIES: Array<Reply, { MAX_REPLIES as usize }> = Array::new();

/// The measured program.
#[btf_map]
static TARGET: ProgramArray<1> = ProgramArray::new();

/// A tail call is refused between programs with and without fragments, so there is one of each.
macro_rules! programs {
    ($($plain:ident $frags:ident => $run:path;)+) => { $(
        #[xdp]
        fn $plain(context: XdpContext) -> u32 {
            $run(&context)
        }
        #[xdp(frags)]
        fn $frags(context: XdpContext) -> u32 {
            $run(&context)
        }
    )+ };
}

programs! {
    v4 v4_frags => wrap::<Four>;
    v6 v6_frags => wrap::<Six>;
    bare bare_frags => call;
    done done_frags => send;
}

/// Offsets of a family's fields in a frame.
trait Family {
    /// Of the last four bytes of the source address.
    const SRC: usize;
    /// Of the last four bytes of the destination address.
    const DST: usize;
    /// Of the TCP header.
    const TCP: usize;
}

struct Four;
struct Six;

impl Family for Four {
    const SRC: usize = 26;
    const DST: usize = 30;
    const TCP: usize = 34;
}

impl Family for Six {
    const SRC: usize = 34;
    const DST: usize = 50;
    const TCP: usize = 54;
}

#[inline(always)]
fn wrap<F: Family>(context: &XdpContext) -> u32 {
    if restore::<F>(context).is_none() {
        return XDP_ABORTED;
    }
    call(context)
}

#[inline(always)]
fn call(context: &XdpContext) -> u32 {
    // SAFETY: nothing of this program is needed after it.
    unsafe { TARGET.tail_call(context, 0) };
    // There is no program in the map.
    XDP_ABORTED
}

/// Stands for a program that costs nothing.
#[inline(always)]
fn send(_: &XdpContext) -> u32 {
    XDP_TX
}

#[inline(always)]
fn restore<F: Family>(context: &XdpContext) -> Option<()> {
    let script = SCRIPT.get_ptr_mut(0)?;
    let frame = packet::at::<[u8; RESTORED]>(context, 0)?.cast::<u8>();
    // SAFETY: the script is written between runs only, and one CPU runs it; `copy` and the writes below stay within
    // `RESTORED` bytes.
    unsafe {
        let run = (*script).next as u32;
        (*script).next += 1;
        copy::<F>(frame, (&raw const (*script).frame).cast());
        match (*script).mode {
            MODE_CLIENT => client::<F>(frame, &*script, run),
            MODE_REPLY => {
                let from = (&raw const (*script).frame).cast();
                reply::<F>(frame, from, REPLIES.get(run & (MAX_REPLIES - 1))?);
            }
            _ => {}
        }
    }
    Some(())
}

/// # Safety
/// Both point to `RESTORED` bytes.
#[inline(always)]
unsafe fn copy<F: Family>(to: *mut u8, from: *const u8) {
    // SAFETY: by the caller; all offsets are below `F::TCP + 20`.
    unsafe {
        for (offset, length) in [(0, 4), (4, 2), (6, 4), (10, 2), (12, 2)] {
            match length {
                4 => write(to.add(offset), read::<u32>(from.add(offset))),
                _ => write(to.add(offset), read::<u16>(from.add(offset))),
            }
        }
        if F::TCP == Four::TCP {
            for word in 0..5 {
                write(to.add(14 + word * 4), read::<u32>(from.add(14 + word * 4)));
            }
        } else {
            for word in 0..5 {
                write(to.add(14 + word * 8), read::<u64>(from.add(14 + word * 8)));
            }
        }
        write(to.add(F::TCP), read::<u16>(from.add(F::TCP)));
        write(to.add(F::TCP + 2), read::<u16>(from.add(F::TCP + 2)));
        for word in 1..4 {
            write(to.add(F::TCP + word * 4), read::<u32>(from.add(F::TCP + word * 4)));
        }
        write(to.add(F::TCP + 16), read::<u16>(from.add(F::TCP + 16)));
        write(to.add(F::TCP + 18), read::<u16>(from.add(F::TCP + 18)));
    }
}

/// # Safety
/// `frame` points to `RESTORED` bytes.
#[inline(always)]
unsafe fn client<F: Family>(frame: *mut u8, script: &Script, run: u32) {
    let index = shuffle(run, script.flow_bits);
    let flow = script.first.wrapping_add(index);
    let from = script.frame.as_ptr();
    // SAFETY: by the caller.
    unsafe {
        add_to_address::<F>(frame, from, F::SRC, client_offset(flow));
        add_to_address::<F>(frame, from, F::DST, service_offset(index, script.services, script.flow_bits));
        write(frame.add(F::TCP), client_port(flow).to_be());
    }
}

/// # Safety
/// Both point to `RESTORED` bytes.
#[inline(always)]
unsafe fn reply<F: Family>(frame: *mut u8, from: *const u8, reply: &Reply) {
    // SAFETY: by the caller.
    unsafe {
        write_address::<F>(frame, from, F::SRC, reply.src);
        write_address::<F>(frame, from, F::DST, reply.dst);
        write(frame.add(F::TCP), reply.sport);
        write(frame.add(F::TCP + 2), reply.dport);
    }
}

/// # Safety
/// Both point to `RESTORED` bytes, and `at` is one of the family's offsets.
#[inline(always)]
unsafe fn add_to_address<F: Family>(frame: *mut u8, from: *const u8, at: usize, offset: u32) {
    // SAFETY: by the caller.
    unsafe {
        let word = u32::from_be(read::<u32>(from.add(at))).wrapping_add(offset);
        write_address::<F>(frame, from, at, word.to_be());
    }
}

/// Writes the last four bytes of an address: as half of a word of eight where that is what programs read.
///
/// # Safety
/// As for [`add_to_address`].
#[inline(always)]
unsafe fn write_address<F: Family>(frame: *mut u8, from: *const u8, at: usize, word: u32) {
    // SAFETY: by the caller; IPv6 addresses have twelve bytes before `at`.
    unsafe {
        if F::TCP == Four::TCP {
            write(frame.add(at), word);
        } else {
            let high = read::<u32>(from.add(at - 4));
            write(frame.add(at - 4), u64::from(high) | u64::from(word) << 32);
        }
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never linked in: the verifier would refuse the endless loop.
    loop {}
}

/// Tail calls need no GPL, but the reference's helpers do; all objects say the same.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
