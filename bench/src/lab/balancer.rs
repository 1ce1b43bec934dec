//! The programs that are measured: how each is set up in a lab's balancer.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use lb_tests::lab::object::{self, Object};
use lb_tests::lab::rivals::{self, Frontend, Haproxy, NginxStream, spawn, write};
use lb_tests::lab::{CLIENT, LB, Lab, Process};
use lb_tests::packet::world::Family::V4;

use super::forwarder::{Rewrite, forward};
use super::stand::{PORT_SHIFT, SERVICES, Service};

/// A program that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Balancer {
    /// The kernel's IP forwarding; clients connect to a backend's own address
    Plain,
    /// The smallest possible XDP forwarder: stateless, one backend, constants
    Forwarder,
    /// Evenkeel in the driver
    Native,
    /// Evenkeel in the kernel's generic hook
    Generic,
    /// nftables: DNAT by jhash over the backends, and SNAT
    Nftables,
    /// HAProxy, mode tcp
    Haproxy,
    /// nginx, stream
    Nginx,
}

/// Addresses that Evenkeel and nftables translate to; backends route them to the balancer.
const SNAT: &str = "10.78.0.0/28";
/// The last of them.
const SNAT_RANGE: &str = "10.78.0.0-10.78.0.15";

impl Balancer {
    /// As it is called in tables.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Plain => "plain forwarding",
            Self::Forwarder => "smallest XDP",
            Self::Native => "evenkeel native",
            Self::Generic => "evenkeel generic",
            Self::Nftables => "nftables",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx stream",
        }
    }

    /// Whether it moves packets, and does not end connections to make new ones.
    pub(super) const fn forwards_packets(self) -> bool {
        !matches!(self, Self::Haproxy | Self::Nginx)
    }

    /// Where clients connect to.
    pub(super) fn target(self, lab: &Lab, service: Service) -> SocketAddr {
        let topology = lab.topology();
        if self == Self::Plain {
            SocketAddr::new(topology.backend(1, V4).ip(), service.backend_port())
        } else {
            SocketAddr::new(topology.vip(V4).ip(), service.port())
        }
    }

    /// Starts it in the lab's balancer. It may need a moment before it forwards.
    ///
    /// # Errors
    /// When it is not installed, or refuses its configuration.
    pub(super) fn start(self, lab: &Lab, dir: &Path) -> Result<Running> {
        let running = match self {
            Self::Plain => Running::default(),
            Self::Forwarder => Running { objects: forwarder(lab)?, ..Running::default() },
            Self::Native => Running::process(evenkeel(lab, dir, "native")?),
            Self::Generic => {
                lab.without_queues()?;
                Running::process(evenkeel(lab, dir, "generic")?)
            }
            Self::Nftables => {
                rivals::nftables(lab, dir, &frontends(lab), SNAT_RANGE)?;
                Running::default()
            }
            Self::Haproxy => Running::process(HAPROXY.start(lab, dir, &frontends(lab))?),
            Self::Nginx => Running::process(NGINX.start(lab, dir, &frontends(lab))?),
        };
        Ok(running)
    }
}

/// A balancer at work; ends when dropped.
#[derive(Debug, Default)]
pub(super) struct Running {
    /// Its process, when it has one.
    pub(super) process: Option<Process>,
    #[expect(dead_code, reason = "attached as long as they live")]
    objects: Vec<Object>,
}

impl Running {
    fn process(process: Process) -> Self {
        Self { process: Some(process), ..Self::default() }
    }
}

fn v4(address: IpAddr) -> Result<Ipv4Addr> {
    match address {
        IpAddr::V4(v4) => Ok(v4),
        IpAddr::V6(v6) => bail!("{v6} is not IPv4"),
    }
}

/// Both directions by constants: client ⇄ balancer, VIP ⇄ first backend.
fn forwarder(lab: &Lab) -> Result<Vec<Object>> {
    let topology = lab.topology();
    let vip = v4(topology.vip(V4).ip())?;
    let snat = v4(topology.snat(V4))?;
    let backend = topology.host_of(1);
    let request = Rewrite {
        device: "eth0",
        program: "forward_request",
        to: vip,
        new_source: snat,
        new_dest: v4(topology.backend(1, V4).ip())?,
        port_shift: PORT_SHIFT,
        out: object::interface(lab, LB, "eth1")?,
        next_hop: object::interface(lab, &backend, "eth0")?.mac,
    };
    let response = Rewrite {
        device: "eth1",
        program: "forward_response",
        to: snat,
        new_source: vip,
        new_dest: v4(topology.client(V4))?,
        port_shift: PORT_SHIFT,
        out: object::interface(lab, LB, "eth0")?,
        next_hop: object::interface(lab, CLIENT, "eth0")?.mac,
    };
    Ok(vec![forward(lab, LB, &request)?, forward(lab, LB, &response)?])
}

/// The agent's binary: what xtask built, or what lies beside this program.
fn agent() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("EVENKEEL_AGENT") {
        return Ok(path.into());
    }
    Ok(std::env::current_exe().context("find this program")?.with_file_name("lb-agent"))
}

fn evenkeel(lab: &Lab, dir: &Path, mode: &str) -> Result<Process> {
    let topology = lab.topology();
    let vip = topology.vip(V4).ip();
    let mut text = format!(
        "[agent]\ninterfaces = [\"eth0\", \"eth1\"]\nxdp_mode = \"{mode}\"\nadmin = \"127.0.0.1:9470\"\n\
         socket = {:?}\n\n\
         [nat]\naddresses = [\"{SNAT}\"]\n",
        dir.join("admin.sock")
    );
    for service in SERVICES {
        let check = match service {
            Service::Web => "type = \"http\"\npath = \"/health\"\nexpect_body = \"OK\"",
            Service::Answers | Service::Streams => "type = \"tcp\"",
        };
        let (name, port) = (service.name(), service.port());
        write!(text, "\n[[service]]\nname = \"{name}\"\nvip = \"{vip}:{port}\"\n")?;
        write!(text, "[service.health]\n{check}\nrise = 1\n")?;
        for backend in backends(lab, service) {
            write!(text, "[[service.backend]]\naddress = \"{backend}\"\n")?;
        }
    }
    let config = write(dir, "lb.toml", &text)?;
    let agent = agent()?;
    let mut command = Command::new(&agent);
    command.args(["run", "--config", &config]);
    spawn(lab, dir, &mut command).with_context(|| format!("start {}", agent.display()))
}

fn backends(lab: &Lab, service: Service) -> impl Iterator<Item = SocketAddr> {
    let topology = *lab.topology();
    (1..=topology.backends)
        .map(move |n| SocketAddr::new(topology.backend(n, V4).ip(), service.backend_port()))
}

const HAPROXY: Haproxy<'_> = Haproxy { connections: 4000, balance: "roundrobin", defaults: "", server: "" };

/// nginx's `stream` as it is usual, without judging backends.
const NGINX: NginxStream<'_> = NginxStream { server: "max_fails=0", listener: "" };

fn frontends(lab: &Lab) -> Vec<Frontend> {
    let vip = lab.topology().vip(V4).ip();
    let frontend = |service: Service| Frontend {
        name: service.name().to_owned(),
        vip: SocketAddr::new(vip, service.port()),
        backends: backends(lab, service).collect(),
    };
    SERVICES.map(frontend).to_vec()
}
