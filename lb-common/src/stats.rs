//! Counters. All of them only rise; the agent adds up the CPUs.

/// Index of the client-to-backend direction in a pair of counters.
pub const FROM_CLIENT: usize = 0;
/// Index of the backend-to-client direction in a pair of counters.
pub const FROM_BACKEND: usize = 1;

/// Buckets of the first-byte histogram. Bucket `i` counts times below 2^i ticks and not below 2^(i-1).
pub const FIRST_BYTE_BUCKETS: usize = 32;

map_value! {
    /// Per backend and CPU.
    pub struct BackendStats {
        /// Forwarded packets by direction.
        pub packets: [u64; 2],
        /// Bytes of their IP packets by direction (layer 3, without Ethernet and padding).
        pub bytes: [u64; 2],
        /// Not a counter: when data last passed in either direction, in ticks of the data path's clock, all 64 bits of
        /// them: a CPU may have seen none for days. 0 for never. Beside what else every packet writes: one cache line.
        pub data_seen: u64,
        /// Flows that were given to the backend.
        pub new_flows: u64,
        /// SYNs that it refused: RST in answer.
        pub refused: u64,
        /// SYNs that it did not answer before the client sent its SYN again.
        pub unanswered: u64,
        /// Flows that were moved to another backend because of either.
        pub moved: u64,
        /// Flows that it cut off: an established one that it reset when neither side had closed its own. An answer was
        /// under way, or was to come.
        pub resets: u64,
        /// Responses whose time to first byte was measured (the sum of `first_byte`).
        pub responses: u64,
        /// Sum of those times in ticks.
        pub first_byte_ticks: u64,
        /// log2 histogram of the time from request to first response byte, in ticks.
        pub first_byte: [u64; FIRST_BYTE_BUCKETS],
    }
}

map_value! {
    /// Per service and CPU: what happens to new flows. Its packets and bytes are those of its backends, which belong to
    /// one service each, so they are not counted twice.
    pub struct ServiceStats {
        /// Flows that were created.
        pub new_flows: u64,
        /// Of these, how many took an embryonic flow's place.
        pub recycled_embryonic: u64,
        /// Of these, how many took a source port that had not rested for their backend.
        pub reused_unrested: u64,
        /// SYNs dropped because no slot could be claimed.
        pub table_full: u64,
    }
}

map_value! {
    /// Per backend, shared by all CPUs and changed with atomic adds at a flow's transitions only.
    pub struct BackendLoad {
        /// Flows that hold a slot and are not closed, embryonic ones included.
        pub flows: u64,
        /// Flows that wait for an answer.
        pub waiting: u64,
        /// SYNs in a row that it refused, in the lower half, and did not answer, in the upper half; all 0 again when it
        /// answers one. See [`REFUSED`] and [`UNANSWERED`].
        pub failures: u64,
        /// Only rises: flows that it cut off, as [`BackendStats::resets`], for those who cannot add up CPUs all the time.
        pub resets: u64,
    }
}

/// One refused SYN in [`BackendLoad::failures`].
pub const REFUSED: u64 = 1;
/// One unanswered SYN in [`BackendLoad::failures`].
pub const UNANSWERED: u64 = 1 << 32;

map_value! {
    /// A token bucket, per CPU.
    pub struct Tokens {
        /// Tokens that are left.
        pub left: u32,
        /// When it was last filled, in ticks.
        pub filled: u32,
    }
}

impl Tokens {
    /// Takes a token at `now`. The bucket holds `rate` tokens and gets as many in `period` ticks.
    #[inline(always)]
    #[must_use]
    pub const fn take(&mut self, rate: u32, now: u32, period: u32) -> bool {
        let passed = now.wrapping_sub(self.filled);
        let due = passed as u64 * rate as u64 / period as u64;
        if due > 0 {
            let left = self.left as u64 + due;
            self.left = if left > rate as u64 { rate } else { left as u32 };
            self.filled = now;
        }
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        true
    }
}

impl BackendLoad {
    /// Nothing.
    pub const ZERO: Self = Self { flows: 0, waiting: 0, failures: 0, resets: 0 };

    /// SYNs that it refused since it answered one.
    #[must_use]
    pub const fn refused(&self) -> u32 {
        self.failures as u32
    }

    /// SYNs that it did not answer since it answered one.
    #[must_use]
    pub const fn unanswered(&self) -> u32 {
        (self.failures >> 32) as u32
    }
}

impl BackendStats {
    /// Nothing counted.
    pub const ZERO: Self = Self {
        packets: [0; 2],
        bytes: [0; 2],
        new_flows: 0,
        refused: 0,
        unanswered: 0,
        moved: 0,
        resets: 0,
        data_seen: 0,
        responses: 0,
        first_byte_ticks: 0,
        first_byte: [0; FIRST_BYTE_BUCKETS],
    };

    /// Both together: another CPU's share, or what was counted before.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        self.zip(other, u64::wrapping_add)
    }

    /// What was counted since `earlier`; 0 in a counter that is smaller now.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        self.zip(earlier, u64::saturating_sub)
    }

    fn zip(&self, other: &Self, f: fn(u64, u64) -> u64) -> Self {
        Self {
            packets: zip(&self.packets, &other.packets, f),
            bytes: zip(&self.bytes, &other.bytes, f),
            new_flows: f(self.new_flows, other.new_flows),
            refused: f(self.refused, other.refused),
            unanswered: f(self.unanswered, other.unanswered),
            moved: f(self.moved, other.moved),
            resets: f(self.resets, other.resets),
            data_seen: self.data_seen.max(other.data_seen),
            responses: f(self.responses, other.responses),
            first_byte_ticks: f(self.first_byte_ticks, other.first_byte_ticks),
            first_byte: zip(&self.first_byte, &other.first_byte, f),
        }
    }
}

impl ServiceStats {
    /// Nothing counted.
    pub const ZERO: Self = Self { new_flows: 0, recycled_embryonic: 0, reused_unrested: 0, table_full: 0 };

    /// Both together: another CPU's share, or what was counted before.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        self.zip(other, u64::wrapping_add)
    }

    /// What was counted since `earlier`; 0 in a counter that is smaller now.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        self.zip(earlier, u64::saturating_sub)
    }

    fn zip(&self, other: &Self, f: fn(u64, u64) -> u64) -> Self {
        Self {
            new_flows: f(self.new_flows, other.new_flows),
            recycled_embryonic: f(self.recycled_embryonic, other.recycled_embryonic),
            reused_unrested: f(self.reused_unrested, other.reused_unrested),
            table_full: f(self.table_full, other.table_full),
        }
    }
}

fn zip<const N: usize>(a: &[u64; N], b: &[u64; N], f: fn(u64, u64) -> u64) -> [u64; N] {
    core::array::from_fn(|i| f(a[i], b[i]))
}

/// Bucket of [`BackendStats::first_byte`] for a time in ticks.
#[inline(always)]
#[must_use]
pub const fn first_byte_bucket(t: u32) -> u32 {
    let bits = 32 - t.leading_zeros();
    if bits >= FIRST_BYTE_BUCKETS as u32 { FIRST_BYTE_BUCKETS as u32 - 1 } else { bits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_differences_are_per_counter() {
        let mut a = BackendStats { new_flows: 3, bytes: [10, 20], ..BackendStats::ZERO };
        a.first_byte[7] = 2;
        assert_eq!(a.plus(&a).since(&a), a);
        assert_eq!(BackendStats::ZERO.since(&a), BackendStats::ZERO);
        let s = ServiceStats { table_full: 3, new_flows: 2, ..ServiceStats::ZERO };
        assert_eq!(s.plus(&s).since(&s), s);
    }

    #[test]
    fn the_last_data_of_two_cpus_is_the_later() {
        // The last: more than the 39 hours after which 32 bits of ticks could not tell which is the later.
        let days = 0x1_9000_0000;
        for (a, b, want) in [(0, 0, 0), (0, 5, 5), (5, 0, 5), (7, 5, 7), (0xffff_fff0, days, days)] {
            let [a, b] = [a, b].map(|data_seen| BackendStats { data_seen, ..BackendStats::ZERO });
            assert_eq!(a.plus(&b).data_seen, want);
            assert_eq!(b.plus(&a).data_seen, want);
        }
    }

    #[test]
    fn failures_in_a_row_are_told_apart() {
        let load = BackendLoad { failures: 3 * REFUSED + 5 * UNANSWERED, ..BackendLoad::ZERO };
        assert_eq!((load.refused(), load.unanswered()), (3, 5));
    }

    #[test]
    fn tokens_run_out_and_come_back() {
        let mut bucket = Tokens { left: 0, filled: u32::MAX - 5 };
        let period = 1000;
        let mut take = |n: u32, now| (0..n).filter(|_| bucket.take(10, now, period)).count();
        assert_eq!(take(20, 2000), 10, "a full period and more fills it, and no more than that");
        assert_eq!(take(5, 2000), 0);
        assert_eq!(take(5, 2099), 0);
        assert_eq!(take(5, 2250), 2);
        let mut none = Tokens { left: 0, filled: 0 };
        assert!(!none.take(0, 5000, period), "a rate of 0 is none");
    }

    #[test]
    fn buckets_are_powers_of_two() {
        for (t, bucket) in [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (1 << 30, 31), (u32::MAX, 31)] {
            assert_eq!(first_byte_bucket(t), bucket, "{t}");
        }
    }
}
