//! Whole frames out of an interface: a packet socket.

use std::io;

use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};

/// A socket that sends frames with their own Ethernet header and receives none. Never waits.
#[derive(Debug)]
pub struct RawSocket(Socket);

impl RawSocket {
    /// Opens one.
    ///
    /// # Errors
    /// When there is no right to (`CAP_NET_RAW`).
    pub fn open() -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// Sends a frame out of an interface.
    ///
    /// # Errors
    /// What the kernel says: `ENOBUFS` and `EAGAIN` when too many are on their way, `ENETDOWN` when the interface is down.
    pub fn send(&self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        self.0.send_to(frame, &link_address(ifindex)?).map(drop)
    }
}

/// Frames bring their own Ethernet header, so the index is all that counts (packet(7)).
fn link_address(ifindex: u32) -> io::Result<SockAddr> {
    let family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    let length = u32::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is an address type of this platform, all its fields are integers, and it is smaller
    // than the storage.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = family;
    address.sll_ifindex = i32::try_from(ifindex).map_err(io::Error::other)?;
    // SAFETY: the storage holds a `sockaddr_ll`, as its family says, of that length.
    Ok(unsafe { SockAddr::new(storage, length) })
}
