//! One connection that is kept, to see what becomes of it.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result};

use super::LIMIT;
use crate::lab::{CLIENT, Lab};

/// A connection of the client that was answered once.
#[derive(Debug)]
pub struct Held {
    stream: BufReader<TcpStream>,
    server: String,
}

impl Held {
    /// Connects and asks who is there.
    ///
    /// # Errors
    /// When that fails.
    pub fn open(lab: &Lab, address: SocketAddr) -> Result<Self> {
        let stream = lab.in_ns(CLIENT, || TcpStream::connect_timeout(&address, LIMIT))?;
        let stream = stream.with_context(|| format!("connect to {address}"))?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        let mut held = Self { stream: BufReader::new(stream), server: String::new() };
        held.server = held.ask().with_context(|| format!("ask {address}"))?;
        Ok(held)
    }

    /// Name of the server that answered first.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Sends one more request; gives the name of the server that answers.
    ///
    /// # Errors
    /// When the connection is broken, or nobody answers for a long time.
    pub fn ask(&mut self) -> io::Result<String> {
        self.send()?;
        self.receive()
    }

    /// Sends a request, without waiting for the answer.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn send(&mut self) -> io::Result<()> {
        self.send_for("/")
    }

    /// Sends a request for a path, without waiting for the answer.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn send_for(&mut self, path: &str) -> io::Result<()> {
        write!(self.stream.get_mut(), "GET {path} HTTP/1.1\r\nhost: vip\r\n\r\n")
    }

    /// Waits for the answer to a request; gives the name of the server.
    ///
    /// # Errors
    /// When the connection is broken, or nobody answers for a long time.
    pub fn receive(&mut self) -> io::Result<String> {
        let (mut server, mut length) = (None, 0);
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            match line.trim_end().split_once(": ") {
                Some(("server", name)) => server = Some(name.to_owned()),
                Some(("content-length", number)) => length = number.parse().map_err(io::Error::other)?,
                Some(_) => {}
                None if line == "\r\n" => break,
                None => {}
            }
        }
        self.stream.read_exact(&mut vec![0; length])?;
        server.ok_or_else(|| io::Error::other("an answer without a server"))
    }
}
