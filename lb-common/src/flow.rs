//! The flow table: what a slot holds, and how it changes.
//!
//! A slot's index *is* the source port (and SNAT address) of its flow towards the backend, so a reply finds
//! its slot by arithmetic. Slots stand in buckets of [`WAYS`]; a flow may stand in either of two buckets.
//!
//! `Slot::ctrl` is the truth. It changes by compare-and-swap only, and whoever wins the swap to
//! [`State::Claiming`] owns the other fields until it publishes the slot. A bucket's [`Hint`](crate::hint::Hint) repeats a few
//! bits of its slots in one place, so that a lookup reads one cache line of slots and not eight. It is
//! written by the owner of each slot, its own byte or a bit of that, and never believed without a look at the slot.

mod ctrl;

use crate::abi::ticks_of_seconds;
use crate::addr::Addr;
use crate::offer::Offer;
use crate::vlan::VlanTags;
use ctrl::UNHEARD;
pub use ctrl::{Ctrl, Side, State};

/// Slots per bucket.
pub const WAYS: usize = 8;

/// Smallest and largest slot counts that the table can be made with.
pub const MIN_SLOTS: u32 = WAYS as u32;
/// See [`MIN_SLOTS`]. 2^27 slots are 8 GiB.
pub const MAX_SLOTS: u32 = 1 << 27;

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
    use crate::tcp::{ACK, RST, SYN};

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
}
