//! A lab with a balancer that is put to the test: Evenkeel, or another one to compare with. IPv4.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::e2e::{Client, LIMIT, Stand};
use crate::lab::rivals::{self, Frontend, Haproxy};
use crate::lab::{CLIENT, Lab, Process, Servers, Settings, Topology, wait_until};
use crate::packet::world::Family;

/// A balancer, and how it chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    /// Evenkeel with this scheduler.
    Evenkeel(&'static str),
    /// HAProxy in TCP mode with this `balance`, checks and `option redispatch`.
    Haproxy(&'static str),
    /// The kernel's own translation, by hash; it checks nobody.
    Nftables,
}

/// Both check with `GET /health` every 2 s, wait a second for the answer, and believe three failures: Evenkeel's defaults.
const HEALTH: &str = "expect_body = \"OK\"\n";
/// See [`HEALTH`]. A connection that is not made after a second is tried on another server, three times.
const CHECKS: &str = "  timeout connect 1s\n  timeout check 1s\n  retries 3\n  option redispatch 1\n  \
                      option httpchk GET /health\n";
const SERVER: &str = "check inter 2s fall 3 rise 2";
/// For HAProxy.
const CONNECTIONS: u32 = 8_000;

impl Contender {
    /// As it is called in tables.
    #[must_use]
    pub fn label(self) -> String {
        match self {
            Self::Evenkeel(scheduler) => format!("evenkeel {scheduler}"),
            Self::Haproxy(balance) => format!("haproxy {balance}"),
            Self::Nftables => "nftables".to_owned(),
        }
    }
}

/// A network, its servers and the balancer at work.
#[derive(Debug)]
pub enum Arena {
    /// With Evenkeel.
    Evenkeel(Box<Stand>),
    /// With another one.
    Rival(Box<Rival>),
}

/// A lab with another balancer.
#[derive(Debug)]
pub struct Rival {
    // In this order they end.
    process: Option<Process>,
    servers: Servers,
    lab: Lab,
    dir: TempDir,
}

impl Arena {
    /// Backends with a real server each, the client, and the balancer between them as the client's router. It answers when this
    /// returns.
    ///
    /// # Errors
    /// When something does not start.
    pub fn new(contender: Contender, backends: u8) -> Result<Self> {
        let lab = Lab::new(Topology::two_arm(backends))?;
        let servers = Servers::start(&lab)?;
        Self::over(contender, lab, servers, "")
    }

    /// The same in a network that has its servers already; `service` is further lines of Evenkeel's `[[service]]`.
    ///
    /// # Errors
    /// When the balancer does not start.
    pub fn over(contender: Contender, lab: Lab, servers: Servers, service: &'static str) -> Result<Self> {
        let label = contender.label();
        let arena = match contender {
            Contender::Evenkeel(scheduler) => {
                let settings = Settings { scheduler, service, health: HEALTH, ..Settings::default() };
                Self::Evenkeel(Box::new(Stand::over(lab, servers, &settings)?))
            }
            Contender::Haproxy(balance) => {
                let haproxy = Haproxy { connections: CONNECTIONS, balance, defaults: CHECKS, server: SERVER };
                let dir = tempfile::tempdir().context("make a directory")?;
                let process = haproxy.start(&lab, dir.path(), &[frontend(&lab)])?;
                Self::Rival(Box::new(Rival { process: Some(process), servers, lab, dir }))
            }
            Contender::Nftables => {
                let dir = tempfile::tempdir().context("make a directory")?;
                let source = lab.topology().snat(Family::V4).to_string();
                rivals::nftables(&lab, dir.path(), &[frontend(&lab)], &source)?;
                Self::Rival(Box::new(Rival { process: None, servers, lab, dir }))
            }
        };
        arena.answers().with_context(|| format!("{label} does not balance: {}", arena.said()))?;
        Ok(arena)
    }

    /// The network.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        match self {
            Self::Evenkeel(stand) => &stand.lab,
            Self::Rival(rival) => &rival.lab,
        }
    }

    /// The servers.
    pub fn servers(&mut self) -> &mut Servers {
        match self {
            Self::Evenkeel(stand) => &mut stand.servers,
            Self::Rival(rival) => &mut rival.servers,
        }
    }

    /// Evenkeel's side of it, if it is Evenkeel.
    #[must_use]
    pub fn evenkeel(&self) -> Option<&Stand> {
        match self {
            Self::Evenkeel(stand) => Some(stand),
            Self::Rival(_) => None,
        }
    }

    /// Where clients connect to.
    #[must_use]
    pub fn vip(&self) -> SocketAddr {
        self.lab().topology().vip(Family::V4)
    }

    /// A client of its own.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn client(&self) -> Result<Client> {
        Client::new(self.lab(), CLIENT)
    }

    fn answers(&self) -> Result<()> {
        let vip = self.vip();
        wait_until("a connection to the service", LIMIT, || {
            let connect = || TcpStream::connect_timeout(&vip, Duration::from_millis(200));
            self.lab().in_ns(CLIENT, connect).is_ok_and(|connected| connected.is_ok())
        })
        .map(drop)
    }

    /// The last that another balancer said.
    fn said(&self) -> String {
        match self {
            Self::Evenkeel(stand) => stand.agent.log(),
            Self::Rival(rival) => {
                let running = if rival.process.is_some() { "" } else { "no process; " };
                let log = std::fs::read_to_string(rival.dir.path().join("balancer.log")).unwrap_or_default();
                format!("{running}{}", log.lines().last().unwrap_or_default())
            }
        }
    }
}

fn frontend(lab: &Lab) -> Frontend {
    let topology = lab.topology();
    Frontend {
        name: "superset".to_owned(),
        vip: topology.vip(Family::V4),
        backends: (1..=topology.backends).map(|n| topology.backend(n, Family::V4)).collect(),
    }
}
