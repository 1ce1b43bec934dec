//! What the benchmark and its XDP programs agree on. Compiled into both.

use lb_common::addr::Addr;

/// Bytes of a frame that the wrapper restores: Ethernet, IPv6 and TCP, and six more to whole words.
pub const RESTORED: usize = 80;

/// Entries of the map `REPLIES`.
pub const MAX_REPLIES: u32 = 1 << 16;

/// Ports of a client address that flows are numbered through, as a power of two.
const PORT_BITS: u32 = 14;
/// First port of a client.
const FIRST_PORT: u32 = 1024;

/// [`Script::mode`]: the frame as it is.
pub const MODE_FIXED: u32 = 0;
/// [`Script::mode`]: a client's frame of one flow after the other, in a shuffled order.
pub const MODE_CLIENT: u32 = 1;
/// [`Script::mode`]: a reply of the next entry of `REPLIES`.
pub const MODE_REPLY: u32 = 2;

/// What the wrapper does at each run.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Script {
    /// Number of the run; counted by the wrapper.
    pub next: u64,
    /// Flows as a power of two, at most 31.
    pub flow_bits: u32,
    /// Number of the first flow.
    pub first: u32,
    /// Services over which the flows are spread, their addresses in a row.
    pub services: u32,
    /// One of `MODE_*`.
    pub mode: u32,
    /// The frame, with the addresses of flow 0.
    pub frame: [u8; RESTORED],
}

/// Where a reply comes from and goes to: the last four bytes of the addresses as they stand in the packet, and the
/// ports, in network order.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Reply {
    /// Backend address.
    pub src: u32,
    /// SNAT address.
    pub dst: u32,
    /// Backend port.
    pub sport: u16,
    /// SNAT port.
    pub dport: u16,
    /// Zero.
    pub reserved: u32,
}

/// The flow of a run: every number below 2^`bits` once in as many runs, in an order that no prefetcher follows.
#[inline(always)]
pub const fn shuffle(run: u32, bits: u32) -> u32 {
    let mask = (1 << (bits & 31)) - 1;
    let shift = bits / 2 + 1;
    let mut x = run & mask;
    x = x.wrapping_mul(0x9e37_79b1) & mask;
    x ^= x >> shift;
    x = x.wrapping_mul(0x85eb_ca6b) & mask;
    x ^ (x >> shift)
}

/// How far a flow's client address lies after that of flow 0.
#[inline(always)]
pub const fn client_offset(flow: u32) -> u32 {
    flow >> PORT_BITS
}

/// Port of a flow's client, host order.
#[inline(always)]
pub const fn client_port(flow: u32) -> u16 {
    (FIRST_PORT + (flow & ((1 << PORT_BITS) - 1))) as u16
}

/// Which of the services a flow belongs to, when the flows are shuffled over 2^`bits`.
#[inline(always)]
pub const fn service_offset(flow: u32, services: u32, bits: u32) -> u32 {
    ((flow as u64 * services as u64) >> (bits & 31)) as u32
}

/// Port range of the reference's SNAT, as a power of two: the upper half of all ports.
pub const REF_PORT_BITS: u32 = 15;
/// First port of that range.
pub const REF_PORT_BASE: u32 = 1 << REF_PORT_BITS;

/// Configuration of the reference.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RefNode {
    /// First SNAT address of each family, IPv4 first. The others follow in the last 32 bits.
    pub snat: [Addr; 2],
    /// SNAT addresses of each family less one; a power of two less one.
    pub snat_mask: u32,
    /// Own interface.
    pub ifindex: u32,
    /// Its MAC.
    pub mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 2],
}

/// Key of the reference's services. No byte arrays: the compiler zeroes those by calling a loop.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RefService {
    /// The VIP.
    pub vip: Addr,
    /// Its port, network order.
    pub port: u16,
    /// IANA number.
    pub protocol: u16,
    /// Zero.
    pub reserved: u32,
}

/// Key of the reference's flow table: 40 bytes. Ports are in network order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RefKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// IANA number.
    pub protocol: u32,
}

/// One direction of a flow of the reference: what a packet is turned into.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RefFlow {
    /// New source address.
    pub src: Addr,
    /// New destination address.
    pub dst: Addr,
    /// New source port, network order.
    pub sport: u16,
    /// New destination port, network order.
    pub dport: u16,
    /// Change of the TCP checksum's sum.
    pub l4_delta: u16,
    /// Change of the IPv4 checksum's sum.
    pub ip_delta: u16,
    /// Time of the last packet, in ticks.
    pub seen: u32,
    /// Backend id.
    pub backend: u16,
    /// Its generation.
    pub generation: u16,
    /// Service id.
    pub service: u16,
    /// TCP flags that were seen, all together.
    pub flags: u8,
    /// 1 for the entry of replies.
    pub is_reply: u8,
    /// Zero.
    pub reserved: u32,
    /// First four bytes of the next hop of replies: the client's MAC.
    pub mac_high: u32,
    /// Its last two bytes.
    pub mac_low: u16,
    /// Zero.
    pub reserved_too: u16,
}

/// Counters of the reference, per CPU, by service or backend.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RefStats {
    /// Packets by direction.
    pub packets: [u64; 2],
    /// Bytes by direction.
    pub bytes: [u64; 2],
    /// Flows that were created.
    pub new_flows: u64,
}

/// Ring of a service of the reference.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RefRing {
    /// Backend ids.
    pub slots: [u16; lb_common::ring::RING_SIZE],
    /// Zero.
    pub reserved: [u16; 3],
}

const _: () = assert!(size_of::<RefKey>() == 40);
const _: () = assert!(size_of::<RefFlow>() == 64);
const _: () = assert!(size_of::<RefRing>().is_multiple_of(8));
const _: () = assert!(size_of::<Script>() == 104);
const _: () = assert!(size_of::<Reply>() == 16);
