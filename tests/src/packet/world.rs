//! The one cast of hosts that rows of data-path tests speak of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, for rows that hold for either.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];
}

/// One end of a packet: where it is on each layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Who has the frame's address on this end.
    pub mac: Mac,
    /// Address in IPv4 packets.
    pub v4: Ipv4Addr,
    /// Address in IPv6 packets.
    pub v6: Ipv6Addr,
    /// TCP or UDP port.
    pub port: u16,
}

impl Endpoint {
    /// The same host at another port.
    #[must_use]
    pub const fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// The same addresses behind another MAC (a gateway's).
    #[must_use]
    pub const fn via(mut self, mac: Mac) -> Self {
        self.mac = mac;
        self
    }

    /// The address of one family.
    #[must_use]
    pub const fn ip(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(self.v4),
            Family::V6 => IpAddr::V6(self.v6),
        }
    }

    /// Address and port of one family.
    #[must_use]
    pub const fn socket(&self, family: Family) -> SocketAddr {
        SocketAddr::new(self.ip(family), self.port)
    }
}

/// MAC of the balancer's first interface, which clients' packets come in by.
pub const LB_MAC: Mac = [0x02, 0x4c, 0x42, 0, 0, 0x01];
/// MAC of the balancer's second interface, when a test has one.
pub const LB_SERVER_MAC: Mac = [0x02, 0x4c, 0x42, 0, 0, 0x02];
/// A machine that is neither of ours.
pub const STRANGER_MAC: Mac = [0x02, 0x53, 0x54, 0, 0, 0x01];

/// A client. Its MAC is the router's that it comes through.
pub const CLIENT: Endpoint = Endpoint {
    mac: [0x02, 0x43, 0x4c, 0, 0, 0x01],
    v4: Ipv4Addr::new(203, 0, 113, 7),
    v6: Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 7),
    port: 40_000,
};

/// The service that clients connect to.
pub const VIP: Endpoint = Endpoint {
    mac: LB_MAC,
    v4: Ipv4Addr::new(10, 77, 0, 100),
    v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100),
    port: 80,
};

/// The address that backends see; its port is the flow's place in the table.
pub const SNAT: Endpoint = Endpoint {
    mac: LB_MAC,
    v4: Ipv4Addr::new(10, 77, 0, 1),
    v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1),
    port: 1024,
};

/// The balancer's own address for its own traffic: no VIP and no SNAT address.
pub const HOST: Endpoint = Endpoint {
    mac: LB_MAC,
    v4: Ipv4Addr::new(10, 77, 0, 2),
    v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2),
    port: 22,
};

/// A router on the way, which sends ICMP errors.
pub const ROUTER: Endpoint = Endpoint {
    mac: CLIENT.mac,
    v4: Ipv4Addr::new(198, 51, 100, 1),
    v6: Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1),
    port: 0,
};

/// Pod number `n`, from 0.
#[must_use]
pub const fn backend(n: u8) -> Endpoint {
    Endpoint {
        mac: [0x02, 0x42, 0x45, 0, 0, 11 + n],
        v4: Ipv4Addr::new(10, 77, 0, 11 + n),
        v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x11 + n as u16),
        port: 8088,
    }
}

/// Three pods.
pub const BACKENDS: [Endpoint; 3] = [backend(0), backend(1), backend(2)];
