//! Whole frames out of an interface: a packet socket.

use std::io::{self, Read};

use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

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

/// A socket at one interface that sends frames, and receives those of one protocol.
#[derive(Debug)]
pub struct Listener {
    socket: AsyncFd<Socket>,
    ifindex: u32,
}

/// Longer than any frame that is waited for; the rest of longer ones is not of interest.
const LONGEST: usize = 128;

impl Listener {
    /// Opens one on the current tokio runtime. `protocol` is an `EtherType`.
    ///
    /// # Errors
    /// When there is no right to (`CAP_NET_RAW`), or no such interface.
    pub fn open(ifindex: u32, protocol: u16) -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&packet_address(ifindex, protocol)?)?;
        // SAFETY: a `Socket` owns its descriptor: it is the same one, and open, until it is dropped with the `AsyncFd`.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE)? };
        Ok(Self { socket, ifindex })
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// As [`RawSocket::send`].
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.get_ref().send_to(frame, &link_address(self.ifindex)?).map(drop)
    }

    /// The next frame, or its first 128 bytes. Cancel-safe.
    ///
    /// # Errors
    /// What the kernel says: `ENETDOWN` when the interface goes down.
    pub async fn receive(&self) -> io::Result<Vec<u8>> {
        loop {
            let mut ready = self.socket.readable().await?;
            let mut frame = vec![0; LONGEST];
            if let Ok(length) = ready.try_io(|socket| socket.get_ref().read(&mut frame)) {
                frame.truncate(length?);
                return Ok(frame);
            }
        }
    }
}

/// Frames bring their own Ethernet header, so the index is all that counts (packet(7)).
fn link_address(ifindex: u32) -> io::Result<SockAddr> {
    packet_address(ifindex, 0)
}

fn packet_address(ifindex: u32, protocol: u16) -> io::Result<SockAddr> {
    let family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    let length = u32::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is an address type of this platform, all its fields are integers, and it is smaller
    // than the storage.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = family;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = i32::try_from(ifindex).map_err(io::Error::other)?;
    // SAFETY: the storage holds a `sockaddr_ll`, as its family says, of that length.
    Ok(unsafe { SockAddr::new(storage, length) })
}
