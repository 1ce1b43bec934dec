//! Which hosts there are, how they are wired, and what they are called.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use super::namespace::Namespace;
use super::{CLIENT, LB, SERVICES, SWITCH};
use crate::packet::world::Family;

/// Where the balancer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arms {
    /// Client, balancer and backends on one segment; the balancer has `eth0`. The VIP is an unused address
    /// of the segment: somebody must answer ARP and NDP for it.
    One,
    /// The balancer is the client's router, `eth0` towards the client and `eth1` towards the backends. The
    /// VIP is an address that the client has no other route to.
    Two,
    /// As two arms, but without a switch: the balancer's `eth1` ends in one host, which has the address of every
    /// backend. Its interfaces offload as network cards do. The shortest way there is, for measurements.
    Line,
}

impl Arms {
    /// Whether the balancer is the client's router.
    const fn routes(self) -> bool {
        matches!(self, Self::Two | Self::Line)
    }
}

/// What a lab looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// One or two arms.
    pub arms: Arms,
    /// Backends, 1 to 80.
    pub backends: u8,
    /// Queues of every interface, receiving and sending. XDP in a veth runs on as many CPUs at once.
    pub queues: u8,
    /// MTU of every interface.
    pub mtu: u16,
    /// A further host beside the backends, for what these need themselves, such as databases.
    pub services: bool,
}

impl Topology {
    /// One segment, two queues, MTU 1500.
    #[must_use]
    pub const fn one_arm(backends: u8) -> Self {
        Self { arms: Arms::One, backends, queues: 2, mtu: 1500, services: false }
    }

    /// The balancer as a router, two queues, MTU 1500.
    #[must_use]
    pub const fn two_arm(backends: u8) -> Self {
        Self { arms: Arms::Two, ..Self::one_arm(backends) }
    }

    /// The balancer between two hosts, one queue, MTU 1500.
    #[must_use]
    pub const fn line(backends: u8) -> Self {
        Self { arms: Arms::Line, queues: 1, ..Self::one_arm(backends) }
    }

    /// The same with a host for services, which is not for a line.
    #[must_use]
    pub const fn with_services(self) -> Self {
        Self { services: true, ..self }
    }

    /// Name of the host that backend `n`, from 1, is on.
    #[must_use]
    pub fn host_of(&self, n: u8) -> String {
        backend_host(n.min(self.backend_hosts()))
    }

    /// How many hosts the backends are on.
    #[must_use]
    pub const fn backend_hosts(&self) -> u8 {
        match self.arms {
            Arms::One | Arms::Two => self.backends,
            Arms::Line => 1,
        }
    }

    /// The balancer's interfaces.
    #[must_use]
    pub const fn interfaces(&self) -> &'static [&'static str] {
        match self.arms {
            Arms::One => &["eth0"],
            Arms::Two | Arms::Line => &["eth0", "eth1"],
        }
    }

    /// The client.
    #[must_use]
    pub fn client(&self, family: Family) -> IpAddr {
        address(self.client_net(), 10, family)
    }

    /// The balancer on the client's side.
    #[must_use]
    pub fn front(&self, family: Family) -> IpAddr {
        address(self.client_net(), 1, family)
    }

    /// The balancer on the backends' side: an address of its own, and the lab's SNAT address.
    #[must_use]
    pub fn snat(&self, family: Family) -> IpAddr {
        address(self.server_net(), 1, family)
    }

    /// What the client connects to.
    #[must_use]
    pub fn vip(&self, family: Family) -> SocketAddr {
        let net = match self.arms {
            Arms::One => 0,
            Arms::Two | Arms::Line => 9,
        };
        SocketAddr::new(address(net, 100, family), 80)
    }

    /// Where backend `n`, from 1, listens: port 8088.
    #[must_use]
    pub fn backend(&self, n: u8, family: Family) -> SocketAddr {
        SocketAddr::new(address(self.server_net(), 10 + n, family), 8088)
    }

    /// The host for services.
    #[must_use]
    pub fn services(&self, family: Family) -> IpAddr {
        address(self.server_net(), 5, family)
    }

    /// Every host by name; the switch is one of them.
    pub(super) fn hosts(&self) -> impl Iterator<Item = String> + use<> {
        let fixed = [CLIENT, LB, SWITCH].into_iter().chain(self.services.then_some(SERVICES));
        fixed.map(str::to_owned).chain((1..=self.backend_hosts()).map(backend_host))
    }

    const fn client_net(&self) -> u8 {
        match self.arms {
            Arms::One => 0,
            Arms::Two | Arms::Line => 1,
        }
    }

    const fn server_net(&self) -> u8 {
        match self.arms {
            Arms::One => 0,
            Arms::Two | Arms::Line => 2,
        }
    }
}

/// Host name of backend `n`, from 1.
#[must_use]
pub fn backend_host(n: u8) -> String {
    format!("backend-{n}")
}

/// `10.77.net.host` or `fd77:net::host`, with the host's number written alike in both.
fn address(net: u8, host: u8, family: Family) -> IpAddr {
    let text = match family {
        Family::V4 => format!("10.77.{net}.{host}"),
        Family::V6 => format!("fd77:{net}::{host}"),
    };
    text.parse().expect("made of numbers")
}

fn prefix(family: Family) -> u8 {
    match family {
        Family::V4 => 24,
        Family::V6 => 64,
    }
}

/// What makes the switch a switch.
const BRIDGE: &str = "link add br0 type bridge mcast_snooping 0\nlink set br0 up\n";

/// Every namespace of a lab while it is wired.
pub(super) struct Wiring<'a> {
    pub(super) topology: &'a Topology,
    pub(super) client: &'a Namespace,
    pub(super) lb: &'a Namespace,
    pub(super) switch: &'a Namespace,
    pub(super) backends: Vec<&'a Namespace>,
    pub(super) services: Option<&'a Namespace>,
}

/// An end of a veth pair.
struct End<'a> {
    namespace: &'a Namespace,
    device: &'a str,
    /// The other end is the balancer's.
    faces_balancer: bool,
    /// It offloads as a network card does, so that the balancer's own stack works as it would with one.
    offloads: bool,
}

impl Wiring<'_> {
    /// Wires and addresses everything.
    pub(super) fn connect(&self) -> Result<()> {
        self.settle_hosts()?;
        match self.topology.arms {
            Arms::One => {
                self.switch.ip(BRIDGE)?;
                self.plug(self.lb, "eth0", "lb")?;
                self.plug(self.client, "eth0", "client")?;
            }
            Arms::Two => {
                self.switch.ip(BRIDGE)?;
                self.pair(self.lb, "eth0", (self.client, "eth0"))?;
                self.plug(self.lb, "eth1", "lb")?;
            }
            Arms::Line => {
                self.pair(self.lb, "eth0", (self.client, "eth0"))?;
                for backend in &self.backends {
                    self.pair(self.lb, "eth1", (backend, "eth0"))?;
                }
                return self.address_hosts();
            }
        }
        for (n, backend) in (1..).zip(&self.backends) {
            self.plug(backend, "eth0", &backend_host(n))?;
        }
        if let Some(services) = self.services {
            self.plug(services, "eth0", SERVICES)?;
        }
        self.address_hosts()
    }

    /// What must be set before there is an interface: no duplicate address detection, which would delay
    /// IPv6 by a second, no router discovery, and local ports apart from the SNAT ports.
    fn settle_hosts(&self) -> Result<()> {
        let mut hosts = vec![self.client, self.lb];
        hosts.extend(self.backends.iter().chain(&self.services));
        for host in hosts {
            host.sysctl(&[
                ("ipv6/conf/all/accept_dad", "0"),
                ("ipv6/conf/default/accept_dad", "0"),
                ("ipv6/conf/default/accept_ra", "0"),
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/default/rp_filter", "0"),
            ])?;
        }
        self.lb.sysctl(&[("ipv4/ip_local_port_range", "32768 60999")])?;
        // More concurrent connections and more of them in TIME_WAIT than the default range has ports for.
        self.client.sysctl(&[("ipv4/ip_local_port_range", "1024 65535")])?;
        self.switch.sysctl(&[("ipv6/conf/default/disable_ipv6", "1")])?;
        if self.topology.arms.routes() {
            self.lb.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        }
        Ok(())
    }

    /// Connects a host to the switch by a port that is called after it.
    fn plug(&self, host: &Namespace, device: &str, port: &str) -> Result<()> {
        self.pair(host, device, (self.switch, port))?;
        self.switch.ip(&format!("link set {port} master br0\n"))
    }

    /// A veth pair with both ends up and every offload off that would make frames look other than they do
    /// on a wire.
    fn pair(&self, host: &Namespace, device: &str, peer: (&Namespace, &str)) -> Result<()> {
        let (queues, mtu) = (self.topology.queues, self.topology.mtu);
        let common = format!("mtu {mtu} numtxqueues {queues} numrxqueues {queues}");
        let (other, port) = peer;
        host.ip(&format!(
            "link add {device} {common} type veth peer name {port} {common} netns {}\n",
            other.name()
        ))?;
        let of_balancer = host.name() == self.lb.name();
        let offloads = of_balancer && self.topology.arms == Arms::Line;
        let ends = [
            End { namespace: host, device, faces_balancer: false, offloads },
            End { namespace: other, device: port, faces_balancer: of_balancer, offloads: false },
        ];
        // A veth decides when it comes up, by its peer's GRO, whether frames may be redirected to it.
        ends.iter().try_for_each(End::set_offloads)?;
        ends.iter().try_for_each(End::bring_up)
    }

    fn address_hosts(&self) -> Result<()> {
        let t = self.topology;
        for family in Family::BOTH {
            add_address(self.lb, "eth0", t.front(family), family)?;
            add_address(self.client, "eth0", t.client(family), family)?;
            // On a line the one host is everybody's.
            for (n, backend) in (1..=t.backends).zip(self.backends.iter().cycle()) {
                add_address(backend, "eth0", t.backend(n, family).ip(), family)?;
            }
            if let Some(services) = self.services {
                add_address(services, "eth0", t.services(family), family)?;
            }
            if t.arms.routes() {
                add_address(self.lb, "eth1", t.snat(family), family)?;
                add_default_route(self.client, t.front(family))?;
                for backend in self.backends.iter().chain(&self.services) {
                    add_default_route(backend, t.snat(family))?;
                }
            }
        }
        Ok(())
    }
}

impl End<'_> {
    fn set_offloads(&self) -> Result<()> {
        // XDP sees a frame as the sender left it, so checksums must be there and tags in the frame.
        let mut features = match self.offloads {
            true => vec!["tx", "on", "tso", "on", "gro", "on"],
            false => vec!["tx", "off", "tso", "off", "txvlan", "off", "rxvlan", "off"],
        };
        if self.faces_balancer {
            // Without GRO a veth drops what is redirected to it.
            features.extend(["gro", "on"]);
        }
        self.namespace.offloads(self.device, &features)
    }

    fn bring_up(&self) -> Result<()> {
        self.namespace.ip(&format!("link set {} up\n", self.device))?;
        // Without a queue a veth drops what its 256-slot ring cannot take.
        self.namespace.tc(&format!("qdisc replace dev {} root pfifo limit 1000\n", self.device))
    }
}

fn add_address(host: &Namespace, device: &str, ip: IpAddr, family: Family) -> Result<()> {
    let nodad = if ip.is_ipv6() { "nodad" } else { "" };
    host.ip(&format!("addr add {ip}/{} dev {device} {nodad}\n", prefix(family)))
}

fn add_default_route(host: &Namespace, via: IpAddr) -> Result<()> {
    host.ip(&format!("route add default via {via}\n"))
}
