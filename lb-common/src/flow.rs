//! The flow table: what a slot holds, and how it changes.
//!
//! A slot's index *is* the source port (and SNAT address) of its flow towards the backend, so a reply finds
//! its slot by arithmetic. Slots stand in buckets of [`WAYS`]; a flow may stand in either of two buckets.
//!
//! `Slot::ctrl` is the truth. It changes by compare-and-swap only, and whoever wins the swap to
//! [`State::Claiming`] owns the other fields until it publishes the slot. A bucket's [`Hint`](crate::hint::Hint) repeats a few
//! bits of its slots in one place, so that a lookup reads one cache line of slots and not eight. It is
//! written by the owner of each slot, byte by byte, and never believed without a look at the slot.

use crate::abi::ticks_of_seconds;
use crate::addr::Addr;
use crate::offer::Offer;
use crate::tcp::{ACK, FIN, RST, SYN};
use crate::vlan::VlanTags;

/// Slots per bucket.
pub const WAYS: usize = 8;

/// Smallest and largest slot counts that the table can be made with.
pub const MIN_SLOTS: u32 = WAYS as u32;
/// See [`MIN_SLOTS`]. 2^27 slots are 8 GiB.
pub const MAX_SLOTS: u32 = 1 << 27;

/// Where a flow is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum State {
    /// Never used.
    Free = 0,
    /// Being written by the CPU that claimed it; no packet belongs to it.
    Claiming = 1,
    /// The client's SYN was forwarded. Embryonic: may be recycled.
    Syn = 2,
    /// The backend answered with SYN and ACK; the client has not confirmed. Embryonic still, because a
    /// flood with forged sources gets this far with any live backend.
    Answered = 3,
    /// The client confirmed the handshake. Never reused while alive. One FIN leaves it here.
    Established = 4,
    /// FIN seen from both sides, or a RST. Last packets still pass; the slot may be claimed.
    Closed = 5,
}

impl State {
    /// The state with this number; anything unknown is [`State::Free`].
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        match bits {
            1 => Self::Claiming,
            2 => Self::Syn,
            3 => Self::Answered,
            4 => Self::Established,
            5 => Self::Closed,
            _ => Self::Free,
        }
    }

    /// Every state, in order.
    pub const ALL: [Self; 6] =
        [Self::Free, Self::Claiming, Self::Syn, Self::Answered, Self::Established, Self::Closed];

    /// Label in metrics and listings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Claiming => "claiming",
            Self::Syn => "syn",
            Self::Answered => "answered",
            Self::Established => "established",
            Self::Closed => "closed",
        }
    }
}

/// Which side a packet came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Client to backend.
    Client,
    /// Backend to client.
    Backend,
}

/// The 64-bit control word of a slot.
///
/// Bits 0–7 state, 8–15 flags, 16–31 service id, 32–47 backend id, 48–63 backend generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ctrl(pub u64);

const FIN_CLIENT: u64 = 1 << 8;
const FIN_BACKEND: u64 = 1 << 9;
const WAITING: u64 = 1 << 10;
const UNHEARD: u64 = 1 << 11;
const STATE_MASK: u64 = 0xff;

impl Ctrl {
    /// A fresh word. One of [`State::Syn`] says that the backend was not heard; no other flag is set.
    #[inline(always)]
    #[must_use]
    pub const fn new(state: State, service: u16, backend: u16, generation: u16) -> Self {
        let unheard = if matches!(state, State::Syn) { UNHEARD } else { 0 };
        let owner = (service as u64) << 16 | (backend as u64) << 32 | (generation as u64) << 48;
        Self(state as u64 | unheard | owner)
    }

    /// Whether the backend has not answered the SYN, or had not when the flow ended: then the slot's `backend_seen`,
    /// `backend_next` and `waiting_since` hold what the client offered ([`crate::offer`]). The mark changes together with the state, so
    /// nobody can take the one for the other.
    #[inline(always)]
    #[must_use]
    pub const fn is_unheard(self) -> bool {
        self.0 & UNHEARD != 0
    }

    /// Whether both words are of flows of the same service and the same backend in the same generation.
    #[inline(always)]
    #[must_use]
    pub const fn has_owner_of(self, other: Self) -> bool {
        self.0 >> 16 == other.0 >> 16
    }

    /// Where the flow is in its life.
    #[inline(always)]
    #[must_use]
    pub const fn state(self) -> State {
        State::from_bits((self.0 & STATE_MASK) as u8)
    }

    /// Id of the service.
    #[inline(always)]
    #[must_use]
    pub const fn service(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Id of the backend.
    #[inline(always)]
    #[must_use]
    pub const fn backend(self) -> u16 {
        (self.0 >> 32) as u16
    }

    /// Generation of the backend id when the flow was made.
    #[inline(always)]
    #[must_use]
    pub const fn generation(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// Whether one side has sent its FIN and the other has not.
    #[must_use]
    pub const fn is_half_closed(self) -> bool {
        matches!(self.state(), State::Established) && self.0 & (FIN_CLIENT | FIN_BACKEND) != 0
    }

    /// Whether this side has sent its FIN.
    #[must_use]
    pub const fn has_fin(self, side: Side) -> bool {
        let fin = match side {
            Side::Client => FIN_CLIENT,
            Side::Backend => FIN_BACKEND,
        };
        self.0 & fin != 0
    }

    /// Whether the handshake is complete and neither side has sent its FIN: what ends now is cut off.
    #[inline(always)]
    #[must_use]
    pub const fn is_whole(self) -> bool {
        matches!(self.state(), State::Established) && self.0 & (FIN_CLIENT | FIN_BACKEND) == 0
    }

    /// Whether the client has sent a request that was not answered yet. Set only while the flow is open.
    #[inline(always)]
    #[must_use]
    pub const fn is_waiting(self) -> bool {
        self.0 & WAITING != 0
    }

    /// The same word with or without the waiting mark.
    #[inline(always)]
    #[must_use]
    pub const fn with_waiting(self, waiting: bool) -> Self {
        Self(if waiting { self.0 | WAITING } else { self.0 & !WAITING })
    }

    /// The word of a flow that is over: closed, and waiting for nothing.
    #[inline(always)]
    #[must_use]
    pub const fn closed(self) -> Self {
        self.with_state(State::Closed).with_waiting(false)
    }

    /// Whether packets belong to the slot: closed flows still pass their last packets.
    #[inline(always)]
    #[must_use]
    pub const fn is_used(self) -> bool {
        self.0 & STATE_MASK >= State::Syn as u64
    }

    /// Whether the flow counts as one of its backend's.
    #[inline(always)]
    #[must_use]
    pub const fn is_open(self) -> bool {
        self.is_used() && self.0 & STATE_MASK != State::Closed as u64
    }

    /// Whether the backend has answered the SYN, and the flow is not over.
    #[inline(always)]
    #[must_use]
    pub const fn is_answered(self) -> bool {
        matches!(self.state(), State::Answered | State::Established)
    }

    /// Whether the slot may be recycled for want of a better one.
    #[inline(always)]
    #[must_use]
    pub const fn is_embryonic(self) -> bool {
        matches!(self.state(), State::Syn | State::Answered)
    }

    /// The same word in another state.
    #[inline(always)]
    #[must_use]
    pub const fn with_state(self, state: State) -> Self {
        Self(self.0 & !STATE_MASK | state as u64)
    }

    /// The word after a packet with these TCP flags from this side. Equal to `self` for most packets.
    ///
    /// Only used slots have packets; an unused word stays as it is.
    #[inline(always)]
    #[must_use]
    pub const fn after(self, side: Side, flags: u8) -> Self {
        if !self.is_used() {
            return self;
        }
        if flags & RST != 0 {
            return self.closed();
        }
        let mut next = self;
        match (self.state(), side) {
            (State::Syn, Side::Backend) if flags & (SYN | ACK) == SYN | ACK => {
                next = Self(next.with_state(State::Answered).0 & !UNHEARD);
            }
            (State::Answered, Side::Client) if flags & (SYN | ACK) == ACK => {
                next = next.with_state(State::Established);
            }
            _ => {}
        }
        if flags & FIN != 0 {
            next.0 |= match side {
                Side::Client => FIN_CLIENT,
                Side::Backend => FIN_BACKEND,
            };
            if next.0 & (FIN_CLIENT | FIN_BACKEND) == FIN_CLIENT | FIN_BACKEND {
                next = next.closed();
            }
        }
        next
    }
}

map_value! {
    /// One flow: 64 bytes, one cache line.
    pub struct Slot {
        /// A [`Ctrl`].
        pub ctrl: u64,
        /// Client address.
        pub client: Addr,
        /// Time of the client's last packet, in ticks.
        pub client_seen: u32,
        /// Time of the backend's last packet, in ticks; while [`Ctrl::is_unheard`], see [`crate::offer`].
        pub backend_seen: u32,
        /// Time when the flow last began to wait for an answer, in ticks of `CLOCK_MONOTONIC`. Of meaning while [`Ctrl::is_waiting`]; while
        /// [`Ctrl::is_unheard`], see [`crate::offer`].
        pub waiting_since: u32,
        /// Sequence number that follows the client's last new byte.
        pub client_next: u32,
        /// Sequence number that follows the backend's last new byte; while [`Ctrl::is_unheard`], see [`crate::offer`].
        pub backend_next: u32,
        /// Client port, network order.
        pub client_port: u16,
        /// Checksum delta of the TCP header, client to backend; its complement the other way.
        pub l4_delta: u16,
        /// Checksum delta of the IPv4 header from the two addresses, client to backend.
        pub ip_delta: u16,
        /// Tags that the client's packets carry.
        pub vlan: VlanTags,
        /// Layer-2 source of the client's packets: where replies are sent.
        pub mac: [u8; 6],
        /// Index in [`crate::node::Node::ports`] of the interface that they came in by.
        pub port_index: u8,
        /// Zero.
        pub reserved: u8,
    }
}

const _: () = assert!(size_of::<Slot>() == 64, "a slot is one cache line");

impl Slot {
    /// A slot that was never used.
    pub const EMPTY: Self = Self {
        ctrl: 0,
        client: Addr::UNSPECIFIED,
        client_seen: 0,
        backend_seen: 0,
        waiting_since: 0,
        client_next: 0,
        backend_next: 0,
        client_port: 0,
        l4_delta: 0,
        ip_delta: 0,
        vlan: VlanTags { count: 0, outer_ad: 0, tci: [0; 2] },
        mac: [0; 6],
        port_index: 0,
        reserved: 0,
    };

    /// Whether the flow that `ctrl` speaks of can be closed: an established one that is silent for `idle` ticks and
    /// waits for nothing, an embryonic one that is silent for `rest` ticks (no handshake takes so long).
    #[inline(always)]
    #[must_use]
    pub const fn is_stale(&self, ctrl: Ctrl, now: u32, idle: u32, rest: u32) -> bool {
        match ctrl.state() {
            State::Syn | State::Answered => self.silence(ctrl, now) > rest,
            State::Established => self.silence(ctrl, now) > idle && !ctrl.is_waiting(),
            State::Free | State::Claiming | State::Closed => false,
        }
    }

    /// Ticks since either side was last heard at `now`; `ctrl` is the slot's control word.
    ///
    /// Another CPU may hear both after `now` was read, and that reader be held up for long: what is up to a minute
    /// ahead is now, and not 78 hours ago.
    #[inline(always)]
    #[must_use]
    pub const fn silence(&self, ctrl: Ctrl, now: u32) -> u32 {
        const AHEAD: u32 = ticks_of_seconds(60);
        let now = now.wrapping_add(AHEAD);
        let (c, b) = (now.wrapping_sub(self.client_seen), now.wrapping_sub(self.backend_seen));
        // Until the backend has answered, its field holds no time. Without a branch, as below.
        let b = b | (((ctrl.0 / UNHEARD) & 1) as u32).wrapping_neg();
        let silence = if c < b { c } else { b } as i64 - AHEAD as i64;
        // What is below 0 is 0; without a branch, which the verifier would follow both ways for each slot.
        (silence & !(silence >> 63)).cast_unsigned() as u32
    }

    /// What the client's SYN offered. Of meaning while [`Ctrl::is_unheard`].
    #[inline(always)]
    #[must_use]
    pub const fn offer(&self) -> Offer {
        Offer { sizes: self.backend_seen, rest: self.backend_next, timestamp: self.waiting_since }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ctrl_fields_are_apart() {
        let c = Ctrl::new(State::Established, 0x1234, 0x5678, 0x9abc);
        assert_eq!((c.service(), c.backend(), c.generation()), (0x1234, 0x5678, 0x9abc));
        assert_eq!(c.state(), State::Established);
        let closed = c.with_state(State::Closed);
        assert_eq!((closed.state(), closed.backend()), (State::Closed, 0x5678));
    }

    #[test]
    fn silence_ends_with_either_side_and_is_never_of_the_future() {
        for base in [0u32, 5000, u32::MAX - 100] {
            let at = |client: i32, backend: i32| {
                let seen = |t: i32| base.wrapping_add_signed(t);
                Slot { client_seen: seen(client), backend_seen: seen(backend), ..Slot::EMPTY }
                    .silence(Ctrl::new(State::Established, 0, 0, 0), base)
            };
            assert_eq!((at(-7, -9), at(-9, -7), at(0, -9)), (7, 7, 0));
            assert_eq!((at(3, 5), at(-7, 5), at(100_000, 100_000)), (0, 0, 0));
            assert_eq!(at(-1_000_000_000, -2_000_000_000), 1_000_000_000);
        }
    }

    /// What the client offered is never taken for a time, even after the flow has ended.
    #[test]
    fn an_offer_is_no_time() {
        let syn = Ctrl::new(State::Syn, 1, 2, 3);
        let answered = syn.after(Side::Backend, SYN | ACK);
        for offer in [0, 990, 1000, u32::MAX] {
            let slot = Slot { client_seen: 900, backend_seen: offer, ..Slot::EMPTY };
            for word in [syn, syn.closed(), syn.after(Side::Client, RST), syn.with_state(State::Claiming)] {
                assert!(word.is_unheard());
                assert_eq!(slot.silence(word, 1000), 100, "{word:?} {offer}");
            }
        }
        let heard = Slot { client_seen: 900, backend_seen: 990, ..Slot::EMPTY };
        assert!(!answered.is_unheard() && !answered.closed().is_unheard());
        assert_eq!(heard.silence(answered.closed(), 1000), 10);
    }

    #[test]
    fn life_of_a_flow() {
        use Side::{Backend, Client};
        let mut c = Ctrl::new(State::Syn, 1, 2, 3);
        for (side, flags, state) in [
            (Client, SYN, State::Syn),
            (Backend, SYN | ACK, State::Answered),
            (Backend, SYN | ACK, State::Answered),
            (Client, SYN, State::Answered),
            (Client, ACK, State::Established),
            (Backend, ACK, State::Established),
            (Client, FIN | ACK, State::Established),
            (Client, FIN | ACK, State::Established),
            (Backend, ACK, State::Established),
            (Backend, FIN | ACK, State::Closed),
            (Client, ACK, State::Closed),
        ] {
            c = c.after(side, flags);
            assert_eq!(c.state(), state);
        }
        assert_eq!(Ctrl::new(State::Syn, 1, 2, 3).after(Backend, RST | ACK).state(), State::Closed);
        assert!(Ctrl::new(State::Established, 1, 2, 3).after(Backend, FIN | ACK).is_half_closed());
    }

    #[test]
    fn a_flow_is_whole_between_the_handshake_and_the_first_fin() {
        for state in State::ALL {
            let whole = Ctrl::new(state, 1, 2, 3).is_whole();
            assert_eq!(whole, state == State::Established, "{state:?}");
        }
        for side in [Side::Client, Side::Backend] {
            assert!(!Ctrl::new(State::Established, 1, 2, 3).after(side, FIN | ACK).is_whole());
        }
    }

    #[test]
    fn stale_by_state() {
        let slot = Slot { client_seen: 100, backend_seen: 50, ..Slot::EMPTY };
        let stale = |state, now| slot.is_stale(Ctrl::new(state, 1, 2, 3), now, 1000, 10);
        for (state, now, want) in [
            (State::Syn, 110, false),
            (State::Syn, 111, true),
            (State::Answered, 111, true),
            (State::Established, 1100, false),
            (State::Established, 1101, true),
            (State::Closed, 100_000, false),
            (State::Free, 100_000, false),
            (State::Claiming, 100_000, false),
        ] {
            assert_eq!(stale(state, now), want, "{state:?} at {now}");
        }
        let waiting = Ctrl::new(State::Established, 1, 2, 3).with_waiting(true);
        assert!(!slot.is_stale(waiting, 100_000, 1000, 10), "a flow that waits never is");
    }

    proptest! {
        /// No packet changes whose slot it is, opens a closed flow, or touches an unused word.
        #[test]
        fn packets_never_change_identity(word: u64, flags: u8, client: bool) {
            let before = Ctrl(word);
            let after = before.after(if client { Side::Client } else { Side::Backend }, flags);
            prop_assert_eq!(before.0 >> 16, after.0 >> 16);
            if !before.is_used() { prop_assert_eq!(before, after); }
            if before.state() == State::Closed { prop_assert_eq!(after.state(), State::Closed); }
            if before.is_open() { prop_assert!(after.state() >= before.state()); }
        }
    }
}
