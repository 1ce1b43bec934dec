//! TCP flags and sequence arithmetic (RFC 9293).

/// FIN.
pub const FIN: u8 = 0x01;
/// SYN.
pub const SYN: u8 = 0x02;
/// RST.
pub const RST: u8 = 0x04;
/// PSH.
pub const PSH: u8 = 0x08;
/// ACK.
pub const ACK: u8 = 0x10;

/// Whether sequence number `a` lies after `b` (RFC 9293 §3.4, modulo 2^32).
#[inline(always)]
#[must_use]
pub const fn after(a: u32, b: u32) -> bool {
    (b.wrapping_sub(a) as i32) < 0
}

/// Whether no TCP sends this combination of flags: none at all, SYN with FIN, SYN with RST.
#[inline(always)]
#[must_use]
pub const fn flags_are_odd(flags: u8) -> bool {
    let f = flags & (FIN | SYN | RST | PSH | ACK);
    f == 0 || (f & SYN != 0 && f & (FIN | RST) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_wraps() {
        assert!(after(1, 0) && after(0, u32::MAX) && !after(0, 0) && !after(u32::MAX, 0));
    }

    #[test]
    fn odd_flags() {
        for f in [0, 0x20, 0xc0, SYN | FIN, SYN | RST, SYN | FIN | ACK] {
            assert!(flags_are_odd(f), "{f:#x}");
        }
        for f in [SYN, SYN | ACK, ACK, RST, RST | ACK, FIN | ACK, PSH | ACK, SYN | 0xc0] {
            assert!(!flags_are_odd(f), "{f:#x}");
        }
    }
}
