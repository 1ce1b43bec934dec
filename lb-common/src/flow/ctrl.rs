//! What a flow is in: its state, whose it is and whether it waits, in one word that changes by compare-and-swap.

use crate::tcp::{ACK, FIN, RST, SYN};

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

impl Side {
    /// The flag that says that this side has sent its FIN.
    #[inline(always)]
    const fn fin(self) -> u64 {
        match self {
            Self::Client => FIN_CLIENT,
            Self::Backend => FIN_BACKEND,
        }
    }
}

/// The 64-bit control word of a slot.
///
/// Bits 0–7 state, 8–15 flags, 16–31 service id, 32–47 backend id, 48–63 backend generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ctrl(pub u64);

const FIN_CLIENT: u64 = 1 << 8;
const FIN_BACKEND: u64 = 1 << 9;
const FINS: u64 = FIN_CLIENT | FIN_BACKEND;
const WAITING: u64 = 1 << 10;
/// See [`Ctrl::is_unheard`].
pub(super) const UNHEARD: u64 = 1 << 11;
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
        matches!(self.state(), State::Established) && self.0 & FINS != 0
    }

    /// Whether this side has sent its FIN.
    #[must_use]
    pub const fn has_fin(self, side: Side) -> bool {
        self.0 & side.fin() != 0
    }

    /// Whether the handshake is complete and neither side has sent its FIN: what ends now is cut off.
    #[inline(always)]
    #[must_use]
    pub const fn is_whole(self) -> bool {
        matches!(self.state(), State::Established) && self.0 & FINS == 0
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
            next.0 |= side.fin();
            if next.0 & FINS == FINS {
                next = next.closed();
            }
        }
        next
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
