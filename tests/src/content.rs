//! Bytes that both ends of a transfer can compute, and a hash that notices what a balancer could do to them.

use std::sync::OnceLock;

use hyper::body::Bytes;

/// Content repeats after this many bytes: a prime, so that it lines up with no segment and no page.
const PERIOD: usize = 1_048_573;

/// The largest piece that [`piece`] returns.
const PIECE: usize = 65_536;

/// The content from `offset` on: at most 64 KiB, at most `left` bytes, and not empty unless `left` is 0.
#[must_use]
pub fn piece(offset: u64, left: u64) -> Bytes {
    static PERIODIC: OnceLock<Bytes> = OnceLock::new();
    let all = PERIODIC.get_or_init(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let bytes = (0..PERIOD).map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        });
        bytes.collect()
    });
    let start = usize::try_from(offset % PERIOD as u64).unwrap_or_default();
    let left = usize::try_from(left).unwrap_or(usize::MAX);
    all.slice(start..start + PIECE.min(left).min(PERIOD - start))
}

/// Hash of the first `length` bytes of the content.
#[must_use]
pub fn hash(length: u64) -> String {
    let mut hasher = Hasher::default();
    while hasher.length() < length {
        hasher.update(&piece(hasher.length(), length - hasher.length()));
    }
    hasher.finish()
}

/// A hash that depends on every byte and its place, whatever the pieces that it is fed.
///
/// Not against anyone who forges; it works on eight bytes at once because tests run without optimization.
#[derive(Clone, Debug, Default)]
pub struct Hasher {
    state: u64,
    length: u64,
    /// The bytes of the current word, in its low end.
    partial: u64,
}

impl Hasher {
    /// Adds bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.length.is_multiple_of(8) {
            self.push(bytes[0]);
            bytes = &bytes[1..];
        }
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.state = mix(self.state, u64::from_le_bytes(*word));
        }
        self.length += 8 * words.len() as u64;
        for byte in rest {
            self.push(*byte);
        }
    }

    /// How many bytes there were.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// The hash, as 16 hexadecimal digits.
    #[must_use]
    pub fn finish(&self) -> String {
        format!("{:016x}", mix(mix(self.state, self.partial), self.length))
    }

    fn push(&mut self, byte: u8) {
        self.partial |= u64::from(byte) << (8 * (self.length % 8));
        self.length += 1;
        if self.length.is_multiple_of(8) {
            self.state = mix(self.state, self.partial);
            self.partial = 0;
        }
    }
}

const fn mix(state: u64, word: u64) -> u64 {
    let x = (state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^ (x >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_do_not_matter() {
        let bytes: Vec<u8> = (0..1000u32).map(|i| i.to_le_bytes()[0]).collect();
        let mut whole = Hasher::default();
        whole.update(&bytes);
        for size in [1, 3, 7, 8, 9, 500] {
            let mut pieces = Hasher::default();
            bytes.chunks(size).for_each(|c| pieces.update(c));
            assert_eq!(pieces.finish(), whole.finish(), "{size}");
        }
    }

    #[test]
    fn every_byte_and_its_place_matter() {
        let mut seen = std::collections::BTreeSet::new();
        let hash_of = |bytes: &[u8]| {
            let mut hasher = Hasher::default();
            hasher.update(bytes);
            hasher.finish()
        };
        for length in 0..40 {
            assert!(seen.insert(hash_of(&vec![0; length])), "{length} zeros");
            for at in 0..length {
                let mut bytes = vec![0; length];
                bytes[at] = 1;
                assert!(seen.insert(hash_of(&bytes)), "{length} with a one at {at}");
            }
        }
    }

    #[test]
    fn content_does_not_depend_on_where_it_is_cut() {
        let length = 2 * PERIOD as u64 + 5;
        let mut hasher = Hasher::default();
        while hasher.length() < length {
            let p = piece(hasher.length(), (length - hasher.length()).min(1000));
            hasher.update(&p);
        }
        assert_eq!(hasher.finish(), hash(length));
        assert_ne!(hash(length), hash(length - 1));
    }
}
