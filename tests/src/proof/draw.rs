//! Numbers that look random and are the same in each run.

/// A draw that depends on a number alone (SplitMix64's finalizer).
#[must_use]
pub const fn mix(n: u64) -> u64 {
    let mut x = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A sequence of draws.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The sequence with this number.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// The next number, 0 to 2^32 − 1.
    pub const fn number(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(1);
        (mix(self.0) >> 32) as u32
    }

    /// The next number below `sides`, which is at least 1.
    pub const fn below(&mut self, sides: u32) -> u32 {
        self.number() % sides
    }

    /// Whether one in so many comes true.
    pub const fn one_in(&mut self, sides: u32) -> bool {
        self.below(sides) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_side_comes_up_as_often() {
        let mut dice = Dice::new(1);
        let mut seen = [0_u32; 6];
        (0..60_000).for_each(|_| seen[dice.below(6) as usize] += 1);
        assert!(seen.iter().all(|n| (9_500..10_500).contains(n)), "{seen:?}");
        assert_ne!(Dice::new(1).number(), Dice::new(2).number());
    }
}
