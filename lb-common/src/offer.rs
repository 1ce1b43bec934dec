//! What a client's SYN offered, kept so that the same SYN can be sent to another backend.
//!
//! A slot has no room of its own for it. While the backend is unheard ([`crate::flow::Ctrl::is_unheard`]) three of the slot's words
//! have no other meaning: it has not been seen, has sent nothing, and nothing waits. The offer lives in them. An option that is not
//! kept (fast open, multipath TCP) is left out of the second SYN, which every such option allows.

use core::ptr::{from_mut, from_ref};

use crate::service::MAX_RETRIES;

/// Longest option block that [`Offer::options`] makes, in bytes.
pub const OPTIONS_LEN: usize = 20;

map_value! {
    /// An offer as it is kept: three words of a slot.
    #[derive(Default)]
    pub struct Offer {
        /// Maximum segment size (RFC 9293 §3.7.1), 0 when there is none, in the upper half; window in the lower. In
        /// `Slot::backend_seen`.
        pub sizes: u32,
        /// Bits 0-11 and 12-23: backends that had the SYN before the one that has it now, the last first, 0 for none.
        /// 24-27: window scale (RFC 7323 §2), 15 for none. 28: selective acknowledgement permitted (RFC 2018). 29:
        /// there is a timestamp. 30: the SYN carried data. In `Slot::backend_next`.
        pub rest: u32,
        /// The timestamp (RFC 7323 §3). In `Slot::waiting_since`.
        pub timestamp: u32,
    }
}

/// Backend ids are below 4,096: 12 bits.
const ID_BITS: u32 = 12;
const ID_MASK: u32 = (1 << ID_BITS) - 1;
const _: () = assert!(crate::backend::MAX_BACKENDS == 1 << ID_BITS, "a backend id has twelve bits");
const _: () = assert!(MAX_RETRIES == 2, "two backends are kept");
const SCALE_SHIFT: u32 = 24;
const SCALE_MASK: u32 = 15 << SCALE_SHIFT;
/// Scale that stands for none: RFC 7323 §2.3 allows 14 at most.
const NO_SCALE: u32 = 15 << SCALE_SHIFT;
const HAS_SACK: u32 = 1 << 28;
const HAS_TIMESTAMP: u32 = 1 << 29;
const DATA_SHIFT: u32 = 30;
/// Most data that a SYN can carry: no IP packet is longer.
const MAX_DATA: u32 = 0xffff;

impl Offer {
    /// A SYN without options, tried nowhere.
    #[inline(always)]
    #[must_use]
    pub const fn plain(window: u16) -> Self {
        Self { sizes: window as u32, rest: NO_SCALE, timestamp: 0 }
    }

    /// The same offer of a SYN with so much data (RFC 7413).
    #[inline(always)]
    #[must_use]
    pub const fn with_data(self, payload: u32) -> Self {
        Self { rest: self.rest | ((payload != 0) as u32) << DATA_SHIFT, ..self }
    }

    /// Whether a segment that acknowledges `ack` acknowledges the SYN, `next` being the number after it. A backend that
    /// refuses a SYN with data acknowledges the data, too (RFC 9293 §3.10.7.1). How much it was is not kept, only that there was some.
    #[inline(always)]
    #[must_use]
    pub const fn is_acknowledged_by(&self, ack: u32, next: u32) -> bool {
        let data = (self.rest >> DATA_SHIFT & 1).wrapping_neg() & MAX_DATA;
        ack.wrapping_sub(next) <= data
    }

    /// The window of the SYN.
    #[inline(always)]
    #[must_use]
    pub const fn window(&self) -> u16 {
        self.sizes as u16
    }

    /// Backends that had it before the one that has it now, the last first; 0 for none.
    #[inline(always)]
    #[must_use]
    pub const fn tried(&self) -> [u16; MAX_RETRIES as usize] {
        [(self.rest & ID_MASK) as u16, (self.rest >> ID_BITS & ID_MASK) as u16]
    }

    /// How many backends had it before.
    #[inline(always)]
    #[must_use]
    pub const fn retries(&self) -> u8 {
        let tried = self.tried();
        (tried[0] != 0) as u8 + (tried[1] != 0) as u8
    }

    /// The same SYN for another backend, after `backend` failed.
    #[inline(always)]
    #[must_use]
    pub const fn after(self, backend: u16) -> Self {
        let tried = backend as u32 & ID_MASK | (self.rest & ID_MASK) << ID_BITS;
        Self { rest: self.rest >> (2 * ID_BITS) << (2 * ID_BITS) | tried, ..self }
    }

    /// The options of the SYN, always as many bytes: what was not offered is no-operations.
    #[inline(always)]
    #[must_use]
    pub const fn options(&self) -> [u8; OPTIONS_LEN] {
        let mut out = [NOP; OPTIONS_LEN];
        let mss = (self.sizes >> 16) as u16;
        if mss != 0 {
            let m = mss.to_be_bytes();
            (out[0], out[1], out[2], out[3]) = (MSS, 4, m[0], m[1]);
        }
        if self.rest & HAS_SACK != 0 {
            (out[4], out[5]) = (SACK_PERMITTED, 2);
        }
        if self.rest & HAS_TIMESTAMP != 0 {
            let t = self.timestamp.to_be_bytes();
            (out[6], out[7]) = (TIMESTAMPS, 10);
            (out[8], out[9], out[10], out[11]) = (t[0], t[1], t[2], t[3]);
            // A SYN echoes nothing.
            (out[12], out[13], out[14], out[15]) = (0, 0, 0, 0);
        }
        if self.rest & SCALE_MASK != NO_SCALE {
            (out[17], out[18], out[19]) = (SCALE, 3, (self.rest >> SCALE_SHIFT & 15) as u8);
        }
        out
    }

    #[inline(always)]
    const fn set_scale(&mut self, scale: u8) {
        let scale = if scale > 14 { 14 } else { scale };
        self.rest = self.rest & !SCALE_MASK | (scale as u32) << SCALE_SHIFT;
    }
}

map_value! {
    /// The reading of a SYN's options.
    ///
    /// It is in a map and not in registers, so that the verifier knows nothing of it: it would follow each order in which
    /// options can come.
    #[derive(Default)]
    pub struct OptionReader {
        /// What was read.
        pub offer: Offer,
        /// Where it stands.
        pub at: u32,
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
/// TCP has room for 40 bytes of options.
const AT_MASK: u32 = 63;

impl OptionReader {
    /// Reads the options of a SYN with this window: `len` bytes, each by `byte`. What is malformed ends the reading, as
    /// it does in a TCP.
    #[inline(always)]
    pub fn read(&mut self, window: u16, len: usize, byte: impl Fn(usize) -> Option<u8>) {
        *self = Self { offer: Offer::plain(window), at: 0 };
        for _ in 0..MAX_OPTIONS {
            // SAFETY: our own field; volatile, so that it is read from the map indeed.
            let at = (unsafe { from_ref(&self.at).read_volatile() } & AT_MASK) as usize;
            let Some(size) = self.option(at, len, &byte) else { return };
            // SAFETY: as above.
            unsafe { from_mut(&mut self.at).write_volatile((at + size) as u32) };
        }
    }

    /// Reads the options that most SYNs have, in the order that Linux sends them, at a glance. False when they are
    /// others; then nothing was read.
    #[inline(always)]
    #[must_use]
    pub const fn read_usual(&mut self, window: u16, options: &[u8; OPTIONS_LEN]) -> bool {
        let o = options;
        let heads = [o[0], o[1], o[4], o[5], o[6], o[7], o[16], o[17]];
        let usual = [MSS, 4, SACK_PERMITTED, 2, TIMESTAMPS, 10, NOP, SCALE];
        if u64::from_ne_bytes(heads) != u64::from_ne_bytes(usual) || o[18] != 3 {
            return false;
        }
        let mss = u16::from_be_bytes([o[2], o[3]]);
        self.offer = Offer {
            sizes: (mss as u32) << 16 | window as u32,
            rest: HAS_SACK | HAS_TIMESTAMP,
            timestamp: u32::from_be_bytes([o[8], o[9], o[10], o[11]]),
        };
        self.offer.set_scale(o[19]);
        true
    }

    /// Reads the option at `at`; its length, or `None` when there is none that lies within `len`.
    #[inline(always)]
    fn option(&mut self, at: usize, len: usize, byte: &impl Fn(usize) -> Option<u8>) -> Option<usize> {
        if at >= len {
            return None;
        }
        let kind = byte(at)?;
        if kind == NOP {
            return Some(1);
        }
        if kind == END || at + 1 >= len {
            return None;
        }
        let size = byte(at + 1)? as usize;
        if size < 2 || at + size > len {
            return None;
        }
        let offer = &mut self.offer;
        match (kind, size) {
            (MSS, 4) => {
                let mss = u16::from_be_bytes([byte(at + 2)?, byte(at + 3)?]);
                offer.sizes = offer.sizes & 0xffff | u32::from(mss) << 16;
            }
            (SCALE, 3) => offer.set_scale(byte(at + 2)?),
            (SACK_PERMITTED, 2) => offer.rest |= HAS_SACK,
            (TIMESTAMPS, 10) => {
                let bytes = [byte(at + 2)?, byte(at + 3)?, byte(at + 4)?, byte(at + 5)?];
                offer.timestamp = u32::from_be_bytes(bytes);
                offer.rest |= HAS_TIMESTAMP;
            }
            _ => {}
        }
        Some(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(window: u16, options: &[u8]) -> Offer {
        let mut reader = OptionReader { at: 99, ..OptionReader::default() };
        reader.read(window, options.len(), |i| {
            assert!(i < options.len());
            Some(options[i])
        });
        reader.offer
    }

    fn offer(mss: u16, scale: Option<u8>, sack: bool, timestamp: Option<u32>) -> Offer {
        let scale = scale.map_or(NO_SCALE, |s| u32::from(s) << SCALE_SHIFT);
        let flags = u32::from(sack) * HAS_SACK + u32::from(timestamp.is_some()) * HAS_TIMESTAMP;
        Offer { sizes: u32::from(mss) << 16 | 512, rest: scale | flags, timestamp: timestamp.unwrap_or(0) }
    }

    #[test]
    fn what_stacks_send() {
        let linux = [2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
        let all = offer(1460, Some(7), true, Some(0x0102_0304));
        assert_eq!(read(512, &linux), all);
        assert_eq!((all.options(), all.window()), (linux, 512));
        let windows = [2, 4, 5, 0xb4, 1, 3, 3, 8, 1, 1, 4, 2];
        assert_eq!(read(512, &windows), offer(1460, Some(8), true, None));
        let macos = [2, 4, 5, 0xb4, 1, 3, 3, 6, 1, 1, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 4, 2, 0, 0];
        assert_eq!(read(512, &macos), offer(1460, Some(6), true, Some(0x0102_0304)));
        assert_eq!(read(512, &[]), Offer::plain(512));
        assert_eq!(Offer::plain(512).options(), [NOP; OPTIONS_LEN]);
    }

    #[test]
    fn the_usual_options_are_read_at_a_glance() {
        let usual = [2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 9, 9, 9, 9, 1, 3, 3, 7];
        let glance = |options: &[u8; OPTIONS_LEN]| {
            let mut reader = OptionReader::default();
            reader.read_usual(512, options).then_some(reader.offer)
        };
        assert_eq!(glance(&usual), Some(read(512, &usual)));
        let large = usual.map(|b| if b == 7 { 15 } else { b });
        assert_eq!(glance(&large), Some(read(512, &large)), "a scale out of range");
        for at in [0, 1, 4, 5, 6, 7, 16, 17, 18] {
            let mut other = usual;
            other[at] ^= 8;
            assert_eq!(glance(&other), None, "byte {at}");
        }
    }

    #[test]
    fn malformed_options_end_the_reading() {
        for bad in [&[2][..], &[2, 4, 5], &[2, 0, 5, 5], &[2, 1], &[8, 10, 0], &[30, 40]] {
            assert_eq!(read(7, bad), Offer::plain(7), "{bad:?}");
        }
        assert_eq!(read(512, &[3, 3, 200]), offer(0, Some(14), false, None), "RFC 7323 §2.3");
        let skipped = read(512, &[2, 3, 5, 1, 4, 2]);
        assert_eq!(skipped, offer(0, None, true, None), "an option of a wrong length is skipped");
    }

    #[test]
    fn data_may_be_acknowledged_with_the_syn() {
        let plain = offer(1460, Some(7), true, Some(9));
        assert_eq!(plain.with_data(0), plain);
        let data = plain.with_data(12);
        assert_eq!(data.options(), plain.options());
        assert_eq!(data.after(7).after(8).with_data(0).rest >> DATA_SHIFT, 1);
        for next in [1000, 0, u32::MAX] {
            for (ahead, of_plain, of_data) in [
                (0, true, true),
                (-1, false, false),
                (1, false, true),
                (1460, false, true),
                (65_536, false, false),
            ] {
                let ack = next.wrapping_add_signed(ahead);
                assert_eq!(plain.is_acknowledged_by(ack, next), of_plain, "{ahead}");
                assert_eq!(data.is_acknowledged_by(ack, next), of_data, "{ahead} with data");
            }
        }
    }

    #[test]
    fn tried_backends_shift_and_nothing_else_changes() {
        let o = offer(1460, Some(7), true, Some(9));
        assert_eq!((o.retries(), o.tried()), (0, [0, 0]));
        let o = o.after(7);
        assert_eq!((o.retries(), o.tried()), (1, [7, 0]));
        let o = o.after(4095);
        assert_eq!((o.retries(), o.tried()), (2, [4095, 7]));
        assert_eq!(o.options(), offer(1460, Some(7), true, Some(9)).options());
    }

    proptest! {
        #[test]
        fn options_are_read_as_they_are_written(
            mss: u16, scale in proptest::option::of(0u8..=14), sack: bool, timestamp: Option<u32>,
        ) {
            let offer = offer(mss, scale, sack, timestamp);
            prop_assert_eq!(read(512, &offer.options()), offer);
        }

        #[test]
        fn any_bytes_are_read_within_bounds(options in proptest::collection::vec(any::<u8>(), 0..=40)) {
            let _ = read(0, &options);
        }
    }
}
