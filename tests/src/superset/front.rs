//! What stands in front of the replicas: Evenkeel, or another balancer beside it on the same host, to compare with.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::stand::Stand;
use crate::lab::rivals::{Frontend, Haproxy, NginxStream};
use crate::lab::{CLIENT, Process, wait_until};

/// Which balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    /// Evenkeel with config/superset.toml.
    Evenkeel,
    /// HAProxy in TCP mode that checks `/health` every second.
    Haproxy,
    /// nginx's `stream` module, which judges by connections that fail.
    Nginx,
}

impl Front {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Evenkeel, Self::Haproxy, Self::Nginx];

    /// As it is called in tables.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Evenkeel => "evenkeel",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx stream",
        }
    }
}

/// HAProxy, as the agent: after a second without connection the next server; a check a second, a second for its answer.
const CHECKS: &str = "  timeout connect 1s\n  timeout check 1s\n  timeout client 5m\n  timeout server 5m\n  retries 3\n  \
                      option redispatch 1\n  option httpchk GET /health\n";
const LIMIT: Duration = Duration::from_secs(60);

/// A balancer at work. Another one than Evenkeel ends when this is dropped.
#[derive(Debug)]
pub struct Running {
    front: Front,
    address: SocketAddr,
    process: Option<Process>,
    dir: TempDir,
}

impl Running {
    /// Starts it, unless it is Evenkeel, which is there. It serves when this returns.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(stand: &Stand, front: Front) -> Result<Self> {
        let dir = tempfile::tempdir().context("make a directory")?;
        let address = |last: u8| SocketAddr::from(([10, 77, 9, last], 80));
        let frontend = |vip| Frontend {
            name: "superset".to_owned(),
            vip,
            backends: (1..=stand.replicas()).map(|n| stand.replica(n)).collect(),
        };
        let (address, process) = match front {
            Front::Evenkeel => (stand.vip(), None),
            Front::Haproxy => {
                // A further section of what applies to the whole process.
                let socket = dir.path().join("stats.sock");
                let defaults = format!("{CHECKS}global\n  stats socket {}\n", socket.display());
                let server = "check inter 1s fall 3 rise 2";
                let haproxy =
                    Haproxy { connections: 8000, balance: "leastconn", defaults: &defaults, server };
                (address(101), Some(haproxy.start(stand.lab(), dir.path(), &[frontend(address(101))])?))
            }
            Front::Nginx => {
                let server = "max_fails=3 fail_timeout=30s";
                let nginx = NginxStream { server, listener: "proxy_connect_timeout 1s; proxy_timeout 5m;" };
                (address(102), Some(nginx.start(stand.lab(), dir.path(), &[frontend(address(102))])?))
            }
        };
        let running = Self { front, address, process, dir };
        wait_until(&format!("{} accepts connections", front.label()), LIMIT, || {
            let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok();
            stand.lab().in_ns(CLIENT, connect).unwrap_or(false)
        })?;
        Ok(running)
    }

    /// What users connect to.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it says that a replica gets no new connections. Returns how long that took; `None` when it does not say such a
    /// thing, or not within `limit`.
    #[must_use]
    pub fn detects(&self, stand: &Stand, n: u8, limit: Duration) -> Option<Duration> {
        let down = || match self.front {
            Front::Evenkeel => stand.backend(n).is_ok_and(|backend| !backend.in_ring),
            Front::Haproxy => haproxy_status(&self.socket(), n).is_ok_and(|status| status == "DOWN"),
            Front::Nginx => false,
        };
        if self.front == Front::Nginx {
            return None;
        }
        wait_until("a replica is given up", limit, down).ok()
    }

    /// Waits until it gives a replica connections again, if it can say so.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_for(&self, stand: &Stand, n: u8) -> Result<()> {
        match self.front {
            Front::Evenkeel => stand.wait_for_backends(),
            Front::Haproxy => {
                let up = || haproxy_status(&self.socket(), n).is_ok_and(|status| status == "UP");
                wait_until("HAProxy takes a replica back", LIMIT, up).map(drop)
            }
            Front::Nginx => Ok(()),
        }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("stats.sock")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A killed nginx leaves its workers behind. It may have ended itself.
        let _ = self.process.as_mut().map(|process| process.terminate(LIMIT));
    }
}

/// The `status` of a server in HAProxy's statistics: the 18th field.
fn haproxy_status(socket: &PathBuf, n: u8) -> Result<String> {
    let mut stream = UnixStream::connect(socket).context("connect to HAProxy")?;
    stream.write_all(b"show stat\n").context("ask HAProxy")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).context("HAProxy's answer")?;
    let server = format!("s{n}");
    let mut rows = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let row = rows.find(|row| row.get(1) == Some(&server.as_str())).context("no such server")?;
    row.get(17).map(|status| (*status).to_owned()).context("no status")
}
