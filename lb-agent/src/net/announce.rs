//! Tells the segment that VIPs are here now (`agent.announce = "arp"`): gratuitous ARP and unsolicited neighbour
//! advertisements. Requests for the VIPs' MACs are answered by the data path, not here.
//!
//! A VIP is announced out of those configured interfaces, and VLAN sub-interfaces on them, that have an address whose
//! prefix contains the VIP; out of all configured interfaces when there is none. It is announced with the MAC of
//! the configured interface, which is the one that the data path answers to.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::net::NetError;
use crate::net::frames;
use crate::net::links::{Link, Links};
use crate::net::netlink::Netlink;
use crate::net::raw::RawSocket;

/// `MAX_NEIGHBOR_ADVERTISEMENT` of RFC 4861 §10; RFC 5227 asks for at least two.
const ROUNDS: u32 = 3;
/// `RetransTimer` of RFC 4861 §10.
const PAUSE: Duration = Duration::from_secs(1);

/// Announces the VIPs three times, a second apart, out of `interfaces` (names of `agent.interfaces`).
///
/// An interface that cannot send (it is down, say) is logged and skipped.
///
/// # Errors
/// When the interfaces cannot be read, or there is no right to open a packet socket (`CAP_NET_RAW`).
pub async fn announce(vips: &[IpAddr], interfaces: &[String]) -> Result<(), NetError> {
    let netlink = Netlink::connect()?;
    let (links, addresses) = (netlink.links().await?, netlink.addresses().await?);
    drop(netlink);
    let socket = RawSocket::open().map_err(|source| NetError::Io {
        what: "open a packet socket to announce VIPs".to_owned(),
        source,
    })?;
    for round in 0..ROUNDS {
        if round > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        for vip in vips {
            for egress in egresses(*vip, interfaces, &links, &addresses) {
                if let Err(error) = send(&socket, *vip, &egress) {
                    tracing::warn!(%error, %vip, interface = egress.name, "VIP not announced");
                }
            }
        }
    }
    Ok(())
}

/// Where to send an announcement, and the MAC that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Egress {
    /// Interface to send out of; a VLAN sub-interface puts the tag on.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// MAC of the configured interface.
    pub mac: [u8; 6],
}

/// The interfaces out of which a VIP is announced. `addresses` are the node's own, by interface index.
#[must_use]
pub fn egresses(
    vip: IpAddr,
    interfaces: &[String],
    links: &Links,
    addresses: &[(u32, IpNet)],
) -> Vec<Egress> {
    let carriers: Vec<(&Link, &Link)> =
        links.iter().filter_map(|link| Some((link, port_below(link, interfaces, links)?))).collect();
    let has_subnet =
        |link: &Link| addresses.iter().any(|(on, net)| *on == link.ifindex && net.contains(&vip));
    let near: Vec<_> = carriers.iter().filter(|(link, _)| has_subnet(link)).collect();
    let chosen = if near.is_empty() {
        carriers.iter().filter(|(link, port)| link.ifindex == port.ifindex).collect()
    } else {
        near
    };
    chosen
        .into_iter()
        .filter_map(|(link, port)| {
            Some(Egress { ifindex: link.ifindex, name: link.name.clone(), mac: port.mac? })
        })
        .collect()
}

/// The configured interface that a link is, or is a VLAN sub-interface of.
fn port_below<'a>(link: &'a Link, interfaces: &[String], links: &'a Links) -> Option<&'a Link> {
    let mut link = link;
    while !interfaces.contains(&link.name) {
        link = links.get(link.vlan?.parent)?;
    }
    Some(link)
}

fn send(socket: &RawSocket, vip: IpAddr, egress: &Egress) -> io::Result<()> {
    frames::announcement(vip, egress.mac).iter().try_for_each(|frame| socket.send(egress.ifindex, frame))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::links::Vlan;

    fn link(ifindex: u8, name: &str, vlan: Option<u32>) -> Link {
        Link {
            ifindex: ifindex.into(),
            name: name.to_owned(),
            mac: Some([2, 0, 0, 0, 0, ifindex]),
            mtu: 1500,
            up: true,
            veth: false,
            vlan: vlan.map(|parent| Vlan { parent, id: 10, service: false }),
        }
    }

    #[test]
    fn which_interface() {
        let links: Links = [
            Link { mac: None, ..link(1, "lo", None) },
            link(2, "eth0", None),
            link(3, "eth1", None),
            link(4, "eth2", None),
            link(5, "eth1.10", Some(3)),
            link(6, "eth2.10", Some(4)),
        ]
        .into_iter()
        .collect();
        let addresses = [
            (1, "127.0.0.1/8"),
            (2, "10.0.0.2/24"),
            (4, "10.0.0.3/24"),
            (5, "10.1.0.2/24"),
            (6, "10.2.0.2/24"),
            (2, "2001:db8::2/64"),
        ]
        .map(|(ifindex, net)| (ifindex, net.parse().unwrap()));
        let interfaces = ["eth0".to_owned(), "eth1".to_owned()];
        let rows = [
            ("10.0.0.100", vec![("eth0", 2)]), // eth2 has the subnet too, and is not ours
            ("10.1.0.100", vec![("eth1.10", 3)]), // with the MAC of eth1
            ("10.2.0.100", vec![("eth0", 2), ("eth1", 3)]), // only on eth2: not ours
            ("192.0.2.1", vec![("eth0", 2), ("eth1", 3)]),
            ("127.0.0.9", vec![("eth0", 2), ("eth1", 3)]),
            ("2001:db8::100", vec![("eth0", 2)]),
            ("2001:db9::100", vec![("eth0", 2), ("eth1", 3)]),
        ];
        for (vip, want) in rows {
            let got = egresses(vip.parse().unwrap(), &interfaces, &links, &addresses);
            let got: Vec<_> = got.iter().map(|e| (e.name.as_str(), u32::from(e.mac[5]))).collect();
            assert_eq!(got, want, "{vip}");
        }
    }
}
