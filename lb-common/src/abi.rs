//! The version of everything that is shared through maps, and the macro that declares it.

/// Version of the map layout. Raise it with every change of a map's name, type, key or value: pins and
/// agents of different versions must never meet.
pub const ABI_VERSION: u32 = 1;

/// Nanoseconds per tick as a power of two: one tick is 2^16 ns = 65.536 µs.
///
/// Every time in a map is a `u32` count of these ticks of `CLOCK_MONOTONIC`, compared with wrapping
/// subtraction. The count wraps after 78 hours, which is longer than any timeout in the configuration.
pub const TICK_SHIFT: u32 = 16;

/// Converts `CLOCK_MONOTONIC` nanoseconds to ticks (see [`TICK_SHIFT`]).
#[inline(always)]
#[must_use]
pub const fn ticks(nanoseconds: u64) -> u32 {
    (nanoseconds >> TICK_SHIFT) as u32
}

/// Seconds to ticks, rounded down.
#[must_use]
pub const fn ticks_of_seconds(seconds: u32) -> u32 {
    ticks(seconds as u64 * 1_000_000_000)
}

/// Ticks to milliseconds, rounded down.
#[must_use]
pub const fn ticks_to_millis(t: u32) -> u64 {
    ((t as u64) << TICK_SHIFT) / 1_000_000
}

/// Declares a struct that lives in a map: `#[repr(C)]`, plain integers and byte arrays only, no padding.
///
/// The compile-time check is that the size of the struct is the sum of the sizes of its fields. This macro
/// is the only place that promises aya that a type is plain old data.
macro_rules! map_value {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* pub $field:ident : $ty:ty),+ $(,)? }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name { $($(#[$fmeta])* pub $field: $ty),+ }

        const _: () = assert!(
            size_of::<$name>() == 0 $(+ size_of::<$ty>())+,
            concat!(stringify!($name), " has padding: order its fields by size")
        );
        const _: () = assert!(align_of::<$name>() <= 8, "the kernel aligns map values to 8 bytes");

        // SAFETY: `repr(C)`, only plain integers and arrays of them, and no padding (asserted above).
        #[cfg(feature = "aya")]
        unsafe impl aya::Pod for $name {}
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_round_down_and_wrap() {
        assert_eq!(ticks(0), 0);
        assert_eq!(ticks(65_535), 0);
        assert_eq!(ticks(65_536), 1);
        assert_eq!(ticks(u64::MAX), u32::MAX);
        assert_eq!(ticks_to_millis(ticks_of_seconds(60)), 59_999);
    }
}
