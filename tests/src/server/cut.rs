//! Answers that are cut off in their middle, as by a worker that crashes.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What is left alone.
const CHECK: &[u8] = b"GET /health ";

/// The beginning of an answer that is never finished.
const BEGINNING: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nthe first";

/// Gives a connection back that asks for the health; begins to answer any other, and resets it.
pub(super) async fn unless_a_check(mut stream: TcpStream) -> Option<TcpStream> {
    match is_check(&stream).await {
        Ok(true) => return Some(stream),
        Ok(false) => {}
        Err(_) => return None,
    }
    // Whoever is gone by now cannot be cut off.
    let _ = cut(&mut stream).await;
    None
}

/// Whether the first request is one; without taking it out of the stream.
async fn is_check(stream: &TcpStream) -> io::Result<bool> {
    let mut head = [0; CHECK.len()];
    loop {
        let length = stream.peek(&mut head).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if head[..length] != CHECK[..length] {
            return Ok(false);
        }
        if length == CHECK.len() {
            return Ok(true);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn cut(stream: &mut TcpStream) -> io::Result<()> {
    let mut request = [0; 4096];
    if stream.read(&mut request).await? == 0 {
        return Ok(());
    }
    stream.write_all(BEGINNING).await?;
    // What is closed like this is reset.
    socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO))
}
