//! What a client's SYN offered, kept so that the same SYN can be sent to another backend.
//!
//! A slot has no room of its own for it. While a flow's state is `Syn` three of the slot's words have no other meaning:
//! the backend has not been heard, has sent nothing, and nothing waits. The offer lives in them. An option that is not
//! kept (fast open, multipath TCP) is left out of the second SYN, which every such option allows.

use crate::service::MAX_RETRIES;

/// Longest option block that [`Offer::write_options`] makes, in bytes.
pub const OPTIONS_LEN: usize = 20;

/// A client's SYN, and on which backends it was tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Window, host order.
    pub window: u16,
    /// Maximum segment size (RFC 9293 §3.7.1), host order; 0 when there is none.
    pub mss: u16,
    /// Window scale (RFC 7323 §2), 0 to 14.
    pub scale: Option<u8>,
    /// Selective acknowledgement permitted (RFC 2018).
    pub sack: bool,
    /// The timestamp (RFC 7323 §3).
    pub timestamp: Option<u32>,
    /// Backends that had it before the one that has it now, the last first; 0 for none.
    pub tried: [u16; MAX_RETRIES as usize],
}

/// The three words of a slot that hold an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfferWords {
    /// For `Slot::backend_seen`.
    pub backend_seen: u32,
    /// For `Slot::backend_next`.
    pub backend_next: u32,
    /// For `Slot::waiting_since`.
    pub waiting_since: u32,
}

/// Backend ids are below 4,096: 12 bits.
const ID_BITS: u32 = 12;
const ID_MASK: u32 = (1 << ID_BITS) - 1;
const _: () = assert!(crate::backend::MAX_BACKENDS == 1 << ID_BITS, "a backend id has twelve bits");
const SACK: u32 = 1 << 28;
const TIMESTAMP: u32 = 1 << 29;
/// Scale that stands for none: RFC 7323 §2.3 allows 14 at most.
const NO_SCALE: u32 = 15;

impl Offer {
    /// As it is kept.
    #[inline(always)]
    #[must_use]
    pub const fn pack(&self) -> OfferWords {
        let scale = match self.scale {
            Some(s) if s <= 14 => s as u32,
            Some(_) => 14,
            None => NO_SCALE,
        };
        let mut rest =
            self.tried[0] as u32 & ID_MASK | (self.tried[1] as u32 & ID_MASK) << ID_BITS | scale << 24;
        if self.sack {
            rest |= SACK;
        }
        let timestamp = match self.timestamp {
            Some(t) => {
                rest |= TIMESTAMP;
                t
            }
            None => 0,
        };
        OfferWords {
            backend_seen: (self.mss as u32) << 16 | self.window as u32,
            backend_next: rest,
            waiting_since: timestamp,
        }
    }

    /// From what was kept.
    #[inline(always)]
    #[must_use]
    pub const fn unpack(words: OfferWords) -> Self {
        let rest = words.backend_next;
        let scale = rest >> 24 & 15;
        Self {
            window: words.backend_seen as u16,
            mss: (words.backend_seen >> 16) as u16,
            scale: if scale == NO_SCALE { None } else { Some(scale as u8) },
            sack: rest & SACK != 0,
            timestamp: if rest & TIMESTAMP != 0 { Some(words.waiting_since) } else { None },
            tried: [(rest & ID_MASK) as u16, (rest >> ID_BITS & ID_MASK) as u16],
        }
    }

    /// How many backends had it before.
    #[inline(always)]
    #[must_use]
    pub const fn retries(&self) -> u8 {
        (self.tried[0] != 0) as u8 + (self.tried[1] != 0) as u8
    }

    /// The same SYN for another backend, after `backend` failed.
    #[inline(always)]
    #[must_use]
    pub const fn after(self, backend: u16) -> Self {
        Self { tried: [backend, self.tried[0]], ..self }
    }

    /// Reads the options of a SYN: `len` bytes, each by `byte`, which is asked for no others. What is malformed ends
    /// the reading, as it does in a TCP.
    #[inline(always)]
    #[must_use]
    pub fn with_options(mut self, len: usize, byte: impl Fn(usize) -> Option<u8>) -> Self {
        let mut at = 0;
        for _ in 0..MAX_OPTIONS {
            let Some(option) = read(at, len, &byte) else { break };
            match (option.kind, option.len) {
                (MSS, 4) => self.mss = option.word as u16,
                (SCALE, 3) => self.scale = Some(if option.word > 14 { 14 } else { option.word as u8 }),
                (SACK_PERMITTED, 2) => self.sack = true,
                (TIMESTAMPS, 10) => self.timestamp = Some(option.word),
                _ => {}
            }
            at += option.len;
        }
        self
    }

    /// The options of the SYN, always as many bytes: what was not offered is no-operations.
    #[inline(always)]
    #[must_use]
    pub const fn options(&self) -> [u8; OPTIONS_LEN] {
        let mut out = [NOP; OPTIONS_LEN];
        if self.mss != 0 {
            let m = self.mss.to_be_bytes();
            (out[0], out[1], out[2], out[3]) = (MSS, 4, m[0], m[1]);
        }
        if self.sack {
            (out[4], out[5]) = (SACK_PERMITTED, 2);
        }
        if let Some(timestamp) = self.timestamp {
            let t = timestamp.to_be_bytes();
            (out[6], out[7]) = (TIMESTAMPS, 10);
            (out[8], out[9], out[10], out[11]) = (t[0], t[1], t[2], t[3]);
            // A SYN echoes nothing.
            (out[12], out[13], out[14], out[15]) = (0, 0, 0, 0);
        }
        if let Some(scale) = self.scale {
            (out[17], out[18], out[19]) = (SCALE, 3, scale);
        }
        out
    }
}

// Kinds of options (RFC 9293 §3.2, RFC 2018, RFC 7323).
const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const TIMESTAMPS: u8 = 8;

/// Options that are looked at, no-operations included. Stacks send at most nine.
const MAX_OPTIONS: usize = 16;

struct Read {
    kind: u8,
    len: usize,
    /// The first bytes of its value, as many as are of use.
    word: u32,
}

/// The option at `at`, if there is one that lies within `len`.
#[inline(always)]
fn read(at: usize, len: usize, byte: &impl Fn(usize) -> Option<u8>) -> Option<Read> {
    if at >= len {
        return None;
    }
    let kind = byte(at)?;
    if kind == END {
        return None;
    }
    if kind == NOP {
        return Some(Read { kind, len: 1, word: 0 });
    }
    if at + 1 >= len {
        return None;
    }
    let size = byte(at + 1)? as usize;
    if size < 2 || at + size > len {
        return None;
    }
    let wanted = match kind {
        MSS => 2,
        SCALE => 1,
        TIMESTAMPS => 4,
        _ => 0,
    };
    let mut word = 0;
    for i in 0..4 {
        if i < wanted && i + 2 < size {
            word = word << 8 | u32::from(byte(at + 2 + i)?);
        }
    }
    Some(Read { kind, len: size, word })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(options: &[u8]) -> Offer {
        Offer::default().with_options(options.len(), |i| options.get(i).copied())
    }

    #[test]
    fn what_stacks_send() {
        let linux = [2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
        let all =
            Offer { mss: 1460, scale: Some(7), sack: true, timestamp: Some(0x0102_0304), ..Offer::default() };
        assert_eq!(parse(&linux), all);
        assert_eq!(all.options(), linux);
        let windows = [2, 4, 5, 0xb4, 1, 3, 3, 8, 1, 1, 4, 2];
        assert_eq!(parse(&windows), Offer { scale: Some(8), timestamp: None, ..all });
        let macos = [2, 4, 5, 0xb4, 1, 3, 3, 6, 1, 1, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 4, 2, 0, 0];
        assert_eq!(parse(&macos), Offer { scale: Some(6), ..all });
        assert_eq!(parse(&[]), Offer::default());
    }

    #[test]
    fn malformed_options_end_the_reading() {
        for bad in [&[2][..], &[2, 4, 5], &[2, 0, 5, 5], &[2, 1], &[8, 10, 0], &[30, 40]] {
            assert_eq!(parse(bad), Offer::default(), "{bad:?}");
        }
        assert_eq!(parse(&[3, 3, 200]).scale, Some(14), "RFC 7323 §2.3");
        let sack = Offer { sack: true, ..Offer::default() };
        assert_eq!(parse(&[2, 3, 5, 1, 4, 2]), sack, "an option of a wrong length is skipped");
    }

    #[test]
    fn tried_backends_shift() {
        let o = Offer::default();
        assert_eq!(o.retries(), 0);
        let o = o.after(7);
        assert_eq!((o.retries(), o.tried), (1, [7, 0]));
        let o = o.after(9);
        assert_eq!((o.retries(), o.tried), (2, [9, 7]));
    }

    fn offers() -> impl Strategy<Value = Offer> {
        let scale = proptest::option::of(0u8..=14);
        (any::<u16>(), any::<u16>(), scale, any::<bool>(), any::<Option<u32>>(), 0u16..4096, 0u16..4096)
            .prop_map(|(window, mss, scale, sack, timestamp, a, b)| Offer {
                window,
                mss,
                scale,
                sack,
                timestamp,
                tried: [a, b],
            })
    }

    proptest! {
        #[test]
        fn packs_and_unpacks(offer in offers()) {
            prop_assert_eq!(Offer::unpack(offer.pack()), offer);
        }

        #[test]
        fn options_are_read_as_they_are_written(offer in offers()) {
            let blank = Offer { mss: 0, scale: None, sack: false, timestamp: None, ..offer };
            let options = offer.options();
            let read = blank.with_options(options.len(), |i| options.get(i).copied());
            prop_assert_eq!(read, offer);
        }

        #[test]
        fn any_bytes_are_read_within_bounds(options in proptest::collection::vec(any::<u8>(), 0..=40)) {
            let _ = Offer::default().with_options(options.len(), |i| {
                assert!(i < options.len());
                options.get(i).copied()
            });
        }
    }
}
