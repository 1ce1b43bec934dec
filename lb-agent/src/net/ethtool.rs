//! What an interface's driver is, and what it does to frames before XDP sees them: the ioctl of ethtool(8).

use std::io;
use std::os::fd::AsRawFd;

use socket2::{Domain, Socket, Type};

// Linux: include/uapi/linux/ethtool.h.
const ETHTOOL_GDRVINFO: u32 = 0x3;
const ETHTOOL_GFLAGS: u32 = 0x25;
const RX_VLAN: u32 = 1 << 8;
const LRO: u32 = 1 << 15;

/// Offloads of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// VLAN tags are taken out of frames that come in (`rxvlan`).
    pub rx_vlan: bool,
    /// Segments are joined by the hardware (`lro`), which most drivers refuse together with XDP.
    pub lro: bool,
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    others: [u8; 4 * 32 + 12],
    counts: [u32; 5],
}

/// Reads the offloads of an interface in the network namespace of the calling thread.
///
/// # Errors
/// `ENODEV` when there is no such interface, `EOPNOTSUPP` when its driver has no such thing.
pub fn offloads(interface: &str) -> io::Result<Offloads> {
    let mut value = Value { command: ETHTOOL_GFLAGS, data: 0 };
    // SAFETY: the kernel writes no more than this command's structure, which this is.
    unsafe { ask(interface, &raw mut value)? };
    Ok(Offloads { rx_vlan: value.data & RX_VLAN != 0, lro: value.data & LRO != 0 })
}

/// Name of an interface's driver, in the network namespace of the calling thread.
///
/// # Errors
/// As [`offloads`].
pub fn driver(interface: &str) -> io::Result<String> {
    let mut info =
        DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], others: [0; 4 * 32 + 12], counts: [0; 5] };
    // SAFETY: as above.
    unsafe { ask(interface, &raw mut info)? };
    let name = info.driver.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// Has the kernel fill in a structure that begins with a command.
///
/// # Safety
/// `data` must be the structure of its command, for the whole of which the kernel may read and write it.
unsafe fn ask<T>(interface: &str, data: *mut T) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // SAFETY: all fields of `ifreq` are integers, arrays of them and pointers, which may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = data.cast();
    // SAFETY: the kernel reads the request, and what it points to is the caller's promise.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_takes_no_tags_out() {
        assert_eq!(offloads("lo").unwrap(), Offloads { rx_vlan: false, lro: false });
        for name in ["nosuch0", "a-name-that-is-longer-than-any"] {
            assert_eq!(offloads(name).unwrap_err().raw_os_error(), Some(libc::ENODEV), "{name}");
            assert_eq!(driver(name).unwrap_err().raw_os_error(), Some(libc::ENODEV), "{name}");
        }
    }
}
