//! Interfaces: what the kernel says of them, and what the data path needs of the configured ones.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::model::PortFacts;
use crate::net::NetError;
use crate::net::netlink::Netlink;

/// Reads the configured interfaces once, each with its own answer.
///
/// # Errors
/// When the kernel cannot be asked at all.
pub async fn read_ports(names: &[String]) -> Result<Vec<Result<Port, PortError>>, NetError> {
    let links = Netlink::connect()?.links().await?;
    Ok(names.iter().map(|name| links.port(name)).collect())
}

/// A configured interface that exists and can carry the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// What the plan needs.
    pub facts: PortFacts,
    /// Largest layer-3 packet, in bytes.
    pub mtu: u32,
    /// Switched on and with a carrier.
    pub up: bool,
}

/// Why a configured interface cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// There is none of that name.
    #[error("interface {name:?} (agent.interfaces) does not exist; this node has {known}")]
    Missing {
        /// As configured.
        name: String,
        /// Interfaces that exist, separated by commas.
        known: String,
    },
    /// The data path reads Ethernet frames.
    #[error("interface {name:?} (agent.interfaces) is not an Ethernet interface with a MAC address")]
    NotEthernet {
        /// As configured.
        name: String,
    },
}

/// An interface as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Kernel index, above 0.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// Own MAC; `None` when this is not Ethernet.
    pub mac: Option<[u8; 6]>,
    /// Largest layer-3 packet, in bytes.
    pub mtu: u32,
    /// Switched on and with a carrier (`IFF_UP` and `IFF_RUNNING`).
    pub up: bool,
    /// `IFLA_INFO_KIND` is `veth`.
    pub veth: bool,
    /// Set for a VLAN sub-interface whose parent is in this network namespace.
    pub vlan: Option<Vlan>,
}

/// What makes an interface a VLAN sub-interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// Index of the interface below.
    pub parent: u32,
    /// VLAN id, 1 to 4094.
    pub id: u16,
    /// The tag is 802.1ad (0x88a8) rather than 802.1Q (0x8100).
    pub service: bool,
}

/// All interfaces by their index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links(BTreeMap<u32, Link>);

impl Links {
    /// Adds or replaces an interface. Says whether anything is different now.
    pub fn set(&mut self, link: Link) -> bool {
        let old = self.0.get(&link.ifindex);
        let changed = old != Some(&link);
        if changed {
            self.0.insert(link.ifindex, link);
        }
        changed
    }

    /// Forgets an interface. Says whether it was there.
    pub fn remove(&mut self, ifindex: u32) -> bool {
        self.0.remove(&ifindex).is_some()
    }

    /// By index.
    #[must_use]
    pub fn get(&self, ifindex: u32) -> Option<&Link> {
        self.0.get(&ifindex)
    }

    /// By name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Link> {
        self.0.values().find(|link| link.name == name)
    }

    /// In the order of their indices.
    pub fn iter(&self) -> impl Iterator<Item = &Link> {
        self.0.values()
    }

    /// What the data path needs of an interface.
    ///
    /// # Errors
    /// When there is no such interface, or it has no MAC.
    pub fn port(&self, name: &str) -> Result<Port, PortError> {
        let link = self
            .by_name(name)
            .ok_or_else(|| PortError::Missing { name: name.to_owned(), known: self.names() })?;
        let mac = link.mac.ok_or_else(|| PortError::NotEthernet { name: name.to_owned() })?;
        // XDP_TX on veth reaches only a peer with a program; a redirect is content with GRO there.
        let facts =
            PortFacts { name: link.name.clone(), ifindex: link.ifindex, mac, tx_by_redirect: link.veth };
        Ok(Port { facts, mtu: link.mtu, up: link.up })
    }

    fn names(&self) -> String {
        self.iter().map(|link| link.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

impl FromIterator<Link> for Links {
    fn from_iter<I: IntoIterator<Item = Link>>(links: I) -> Self {
        Self(links.into_iter().map(|link| (link.ifindex, link)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(ifindex: u8, name: &str) -> Link {
        Link {
            ifindex: ifindex.into(),
            name: name.to_owned(),
            mac: Some([2, 0, 0, 0, 0, ifindex]),
            mtu: 1500,
            up: true,
            veth: false,
            vlan: None,
        }
    }

    #[test]
    fn ports() {
        let links: Links = [
            Link { mac: None, ..link(1, "lo") },
            Link { veth: true, up: false, mtu: 9000, ..link(2, "eth0") },
            link(3, "ens5"),
        ]
        .into_iter()
        .collect();
        let port = links.port("eth0").unwrap();
        assert!(port.facts.tx_by_redirect && !port.up);
        assert_eq!((port.facts.ifindex, port.facts.mac, port.mtu), (2, [2, 0, 0, 0, 0, 2], 9000));
        assert!(!links.port("ens5").unwrap().facts.tx_by_redirect);
        assert_eq!(
            links.port("eth9").unwrap_err().to_string(),
            "interface \"eth9\" (agent.interfaces) does not exist; this node has lo, eth0, ens5"
        );
        assert_eq!(
            links.port("lo").unwrap_err().to_string(),
            "interface \"lo\" (agent.interfaces) is not an Ethernet interface with a MAC address"
        );
    }

    #[test]
    fn only_a_difference_is_a_change() {
        let mut links = Links::default();
        assert!(links.set(link(2, "eth0")));
        assert!(!links.set(link(2, "eth0")));
        assert!(links.set(Link { mac: Some([9; 6]), ..link(2, "eth0") }));
        assert!(links.set(link(2, "renamed")));
        assert!(links.by_name("eth0").is_none());
        assert!(links.remove(2) && !links.remove(2));
    }
}
