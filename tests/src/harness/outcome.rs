//! What a row expects, and how it is compared.

use etherparse::{SlicedPacket, TransportSlice};
use lb_agent::dataplane::ReasonCounts;
use lb_common::reason::{Reason, Verdict};

use super::Ran;
use crate::packet::world::{CLIENT, Family, VIP};
use crate::packet::{Packet, describe, tcp, verify};

/// What the kernel is told to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `XDP_ABORTED`: the program is broken.
    Aborted,
    /// `XDP_DROP`.
    Drop,
    /// `XDP_PASS`.
    Pass,
    /// `XDP_TX`: back out of the interface that it came in by.
    Tx,
    /// `XDP_REDIRECT`: out of another interface.
    Redirect,
}

impl Action {
    pub(super) const fn from_verdict(verdict: u32) -> Self {
        match verdict {
            1 => Self::Drop,
            2 => Self::Pass,
            3 => Self::Tx,
            4 => Self::Redirect,
            _ => Self::Aborted,
        }
    }
}

/// What must become of a frame.
#[derive(Clone, Debug)]
#[must_use]
pub struct Outcome {
    action: Action,
    /// The frame that leaves; that which came in when there is none.
    frame: Option<Packet>,
    /// The one reason that is counted.
    reason: Option<Reason>,
}

/// Forwarded out of the interface that it came in by, exactly as this packet, and no reason counted.
pub const fn sends(packet: Packet) -> Outcome {
    Outcome { action: Action::Tx, frame: Some(packet), reason: None }
}

/// Forwarded out of another interface, exactly as this packet, and no reason counted.
pub const fn redirects(packet: Packet) -> Outcome {
    Outcome { action: Action::Redirect, frame: Some(packet), reason: None }
}

/// Left to the host, untouched, and counted.
pub const fn passes(reason: Reason) -> Outcome {
    Outcome { action: Action::Pass, frame: None, reason: Some(reason) }
}

/// Dropped and counted.
pub const fn drops(reason: Reason) -> Outcome {
    Outcome { action: Action::Drop, frame: None, reason: Some(reason) }
}

/// Turned into an answer, exactly this packet, and counted.
pub const fn answers(reason: Reason, packet: Packet) -> Outcome {
    Outcome { action: Action::Tx, frame: Some(packet), reason: Some(reason) }
}

/// Answered with this RST, and counted.
pub const fn resets(reason: Reason, packet: Packet) -> Outcome {
    answers(reason, packet)
}

/// The RST that [`CLIENT`] gets from [`VIP`] for a packet that acknowledged `seq`.
pub fn reset(family: Family, seq: u32) -> Packet {
    let packet = tcp(family).from(VIP).to(CLIENT).rst().seq(seq).window(0);
    match family {
        Family::V4 => packet.dont_fragment(true).id(0),
        Family::V6 => packet,
    }
}

impl Outcome {
    pub(super) fn compare(&self, frame: &[u8], ran: &Ran, counted: &[(Reason, u64)]) -> Result<(), String> {
        let wanted: Vec<_> = self.reason.map(|reason| (reason, 1)).into_iter().collect();
        if ran.action != self.action || counted != wanted {
            return Err(format!("{:?} {counted:?}, not {:?} {wanted:?}", ran.action, self.action));
        }
        if let Some(reason) = self.reason
            && !agrees(reason.verdict(), self.action)
        {
            return Err(format!("{} is a reason to {:?}", reason.name(), reason.verdict()));
        }
        // What becomes of a dropped frame is nobody's business.
        if self.action == Action::Drop {
            return Ok(());
        }
        let wanted = self.frame.as_ref().map_or_else(|| frame.to_vec(), Packet::build);
        if ran.frame != wanted {
            let at = ran.frame.iter().zip(&wanted).position(|(a, b)| a != b);
            let at = at.map_or("in length".to_owned(), |at| format!("at byte {at}"));
            return Err(format!("the frame differs {at}; wanted: {}", describe(&wanted)));
        }
        if verify(frame).is_ok() { verify(&ran.frame) } else { Ok(()) }
    }
}

fn agrees(verdict: Verdict, action: Action) -> bool {
    match verdict {
        Verdict::Pass => action == Action::Pass,
        Verdict::Drop => action == Action::Drop,
        Verdict::Reply | Verdict::Reset | Verdict::Sent => matches!(action, Action::Tx | Action::Redirect),
    }
}

/// The reasons that were counted between two readings.
pub(super) fn counted(before: &ReasonCounts, after: &ReasonCounts) -> Vec<(Reason, u64)> {
    let differences = after.iter().zip(before).map(|(after, before)| after - before);
    Reason::ALL.iter().copied().zip(differences).filter(|&(_, n)| n != 0).collect()
}

/// The TCP source port of a frame, 0 when it has none.
pub(super) fn source_port(frame: &[u8]) -> u16 {
    match SlicedPacket::from_ethernet(frame).map(|p| p.transport) {
        Ok(Some(TransportSlice::Tcp(tcp))) => tcp.source_port(),
        _ => 0,
    }
}
