//! Where the server listens.

use std::fs::{self, DirBuilder};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::stat::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Something that connections come from.
pub trait Listen: Send + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The configuration key that says where it is.
    const KEY: &'static str;

    /// The next connection.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listen for TcpListener {
    type Stream = TcpStream;
    const KEY: &'static str = "agent.admin";

    async fn accept(&self) -> io::Result<TcpStream> {
        Ok(Self::accept(self).await?.0)
    }
}

/// Listens at `address`.
///
/// # Errors
/// When the address cannot be bound, with the address and the configuration key.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|e| io::Error::new(e.kind(), format!("agent.admin: cannot listen on {address}: {e}")))
}

/// The socket at `agent.socket`: nobody but the agent's own user and root may connect. Its file is removed when this
/// is dropped.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and number of the file that is ours.
    file: Option<(u64, u64)>,
}

impl AdminSocket {
    /// Listens at `path`, within a tokio runtime. The file that a dead agent has left there is replaced, and the
    /// directory is made when it alone is missing.
    ///
    /// # Errors
    /// When that cannot be done, with the path, the configuration key and what to do about it.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let named = |e: io::Error| {
            io::Error::new(e.kind(), format!("agent.socket: cannot listen on {}: {e}", path.display()))
        };
        let listener = listen(path).map_err(named)?;
        let file = fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()));
        Ok(Self { listener: UnixListener::from_std(listener).map_err(named)?, path: path.to_owned(), file })
    }
}

impl Listen for AdminSocket {
    type Stream = UnixStream;
    const KEY: &'static str = "agent.socket";

    async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path).ok().map(|found| (found.dev(), found.ino()));
        if found.is_some() && found == self.file {
            // The next agent replaces it if it stays.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn listen(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    make_directory(path)?;
    let address = SockAddr::unix(path)?;
    let socket = socket()?;
    match socket.bind(&address) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            clear(path, &address)?;
            socket.bind(&address)?;
        }
        bound => bound?,
    }
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A socket whose file nobody else may use from the moment that it exists: the kernel gives the file the mode of the
/// socket.
fn socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn make_directory(path: &Path) -> io::Result<()> {
    let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty() && !d.exists()) else {
        return Ok(());
    };
    DirBuilder::new().mode(0o755).create(directory).map_err(|e| {
        let why = format!(
            "cannot make the directory {}: {e}; make it (RuntimeDirectory=evenkeel in a systemd unit), or set another path",
            directory.display()
        );
        io::Error::new(e.kind(), why)
    })
}

/// Removes the file of an agent that is dead. Anything else stays.
fn clear(path: &Path, address: &SockAddr) -> io::Result<()> {
    let exists = |why: &str| Err(io::Error::new(io::ErrorKind::AddrInUse, why.to_owned()));
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return exists("something that is no socket is there; remove it, or set another path");
    }
    match Socket::new(Domain::UNIX, Type::STREAM, None)?.connect_timeout(address, Duration::from_secs(1)) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(e),
        // Also when its backlog is full: somebody is there.
        Ok(()) | Err(_) => exists("another agent listens there; stop it, or set another path"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn refused(path: &Path) -> String {
        let text = AdminSocket::bind(path).unwrap_err().to_string();
        assert!(text.starts_with(&format!("agent.socket: cannot listen on {}: ", path.display())), "{text}");
        assert!(!text.contains('\n'), "{text}");
        text
    }

    #[tokio::test]
    async fn the_file_is_its_users_alone_and_goes_with_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made").join("admin.sock");
        let socket = AdminSocket::bind(&path).unwrap();
        let found = fs::symlink_metadata(&path).unwrap();
        assert!(found.file_type().is_socket());
        assert_eq!(found.permissions().mode() & 0o7777, 0o600);
        UnixStream::connect(&path).await.unwrap();
        socket.accept().await.unwrap();
        assert!(refused(&path).contains("another agent listens there"));
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_a_dead_agent_left_is_replaced_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "left behind");
        let socket = AdminSocket::bind(&path).unwrap();
        UnixStream::connect(&path).await.unwrap();

        // Somebody else's file in its place stays when this one goes.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "notes").unwrap();
        drop(socket);
        assert!(refused(&path).contains("no socket is there; remove it"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "notes");

        assert!(refused(&dir.path().join("a/b/admin.sock")).contains("cannot make the directory"));
        assert!(refused(&dir.path().join("x".repeat(200))).contains("path"));
    }

    /// As many connections as the backlog takes, and nobody accepts: connecting would block, not fail.
    #[tokio::test]
    async fn a_busy_agent_is_not_a_dead_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let _socket = AdminSocket::bind(&path).unwrap();
        let mut full = Vec::new();
        loop {
            let client = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            client.set_nonblocking(true).unwrap();
            match client.connect(&SockAddr::unix(&path).unwrap()) {
                Ok(()) => full.push(client),
                Err(e) => break assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
            }
        }
        assert!(full.len() >= usize::try_from(BACKLOG).unwrap());
        assert!(refused(&path).contains("another agent listens there"));
    }
}
