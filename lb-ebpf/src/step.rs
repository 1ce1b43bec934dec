//! What one part of the program tells the next: a BPF function returns one word.

use crate::forward::Action;

/// Where a slot is: its block (SNAT address) in the upper half, its port's offset in the lower.
#[derive(Clone, Copy)]
pub(crate) struct Position(pub(crate) u32);

impl Position {
    /// No slot.
    pub(crate) const NONE: Self = Self(u32::MAX);
    /// No slot, and there is no other backend to be tried.
    pub(crate) const LAST: Self = Self(u32::MAX - 1);

    #[inline(always)]
    pub(crate) fn new(block: u32, offset: u32) -> Self {
        Self(block << 16 | offset)
    }

    #[inline(always)]
    pub(crate) fn is_some(self) -> bool {
        self.0 < Self::LAST.0
    }

    /// Which SNAT address.
    #[inline(always)]
    pub(crate) fn block(self) -> u32 {
        self.0 >> 16
    }

    /// Which port, counted from `Node::port_base`.
    #[inline(always)]
    pub(crate) fn offset(self) -> u32 {
        self.0 & 0xffff
    }
}

/// What is to be done next.
pub(crate) enum Step {
    /// Nothing: this is the verdict.
    Verdict(u32),
    /// Open a flow; in the slot of a closed one of the same tuple, if there is one.
    Open(Position),
    /// Forward the SYN that has opened the flow at this place.
    Launch(Position),
    /// Forward the packet in the flow at this place.
    Forward(Position),
    /// The backend refuses the client's SYN: try another.
    Refused,
    /// The client's SYN has come again: try another backend for the flow at this place, and forward the packet.
    Unanswered(Position),
    /// Answer with a RST, for the reason with this number.
    Reset(u32),
    /// Treat the packet as ICMP.
    Icmp,
    /// The frame is addressed to a group: it may be a solicitation.
    Group,
}

impl From<Action> for Step {
    #[inline(always)]
    fn from(action: Action) -> Self {
        Self::Verdict(action.verdict())
    }
}

impl Step {
    #[inline(always)]
    pub(crate) fn pack(self) -> u64 {
        match self {
            Self::Verdict(verdict) => u64::from(verdict),
            Self::Open(p) => 1 << 32 | u64::from(p.0),
            Self::Forward(p) => 2 << 32 | u64::from(p.0),
            Self::Icmp => 3 << 32,
            Self::Group => 4 << 32,
            Self::Refused => 5 << 32,
            Self::Unanswered(p) => 6 << 32 | u64::from(p.0),
            Self::Launch(p) => 8 << 32 | u64::from(p.0),
            Self::Reset(reason) => 7 << 32 | u64::from(reason),
        }
    }

    #[inline(always)]
    pub(crate) fn unpack(word: u64) -> Self {
        match word >> 32 {
            0 => Self::Verdict(word as u32),
            1 => Self::Open(Position(word as u32)),
            2 => Self::Forward(Position(word as u32)),
            3 => Self::Icmp,
            4 => Self::Group,
            5 => Self::Refused,
            6 => Self::Unanswered(Position(word as u32)),
            7 => Self::Reset(word as u32),
            _ => Self::Launch(Position(word as u32)),
        }
    }
}
