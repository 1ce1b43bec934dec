//! From routes, neighbours and links to a backend's next hop. Pure.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lb_common::vlan::VlanTags;

use crate::model::NextHop;
use crate::net::links::{Link, Links};

/// What the kernel says, as far as targets need it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// All interfaces.
    pub links: Links,
    /// All neighbours.
    pub neighbours: BTreeMap<NeighbourKey, Neighbour>,
    /// The kernel's answer for each target.
    pub routes: BTreeMap<IpAddr, Result<Route, RouteError>>,
}

/// Interface index and address.
pub type NeighbourKey = (u32, IpAddr);

/// An entry of the kernel's neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Whether `mac` can be used.
    pub state: NeighbourState,
    /// Absent or meaningless when unresolved.
    pub mac: Option<[u8; 6]>,
}

/// The kernel's `NUD_*` states, as far as they make a difference here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighbourState {
    /// Reachable, permanent, or being checked (`REACHABLE DELAY PROBE PERMANENT NOARP`).
    Valid,
    /// Usable, but not confirmed for a while.
    Stale,
    /// Not known, being looked up, or without an answer (`NONE INCOMPLETE FAILED`).
    Unresolved,
}

/// A route that a packet can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Output interface.
    pub ifindex: u32,
    /// `None` when the target is on the link. May be of the other family (RFC 5549).
    pub gateway: Option<IpAddr>,
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// Nothing matches.
    None,
    /// An address of this node.
    Local,
    /// A route that is no way out: `unreachable`, `prohibit`, `blackhole`, `broadcast`, …
    Kind(&'static str),
    /// The lookup failed otherwise.
    Lookup(String),
}

/// Why a backend has no next hop. Its display is the line of the status page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HopError {
    /// No route matches.
    #[error("no route to {0}")]
    NoRoute(IpAddr),
    /// The backend is this node.
    #[error("{0} is an address of this node: a backend on the balancer itself is not supported yet")]
    Local(IpAddr),
    /// The route is of a kind that leads nowhere.
    #[error("the route to {target} is of type {kind}")]
    Kind {
        /// Backend.
        target: IpAddr,
        /// As `ip route` names it.
        kind: &'static str,
    },
    /// The kernel could not say.
    #[error("route lookup for {target}: {why}")]
    Lookup {
        /// Backend.
        target: IpAddr,
        /// What the kernel said.
        why: String,
    },
    /// The program is not on that interface.
    #[error("the route to {target} leads out of {interface}, which is not in agent.interfaces")]
    NotAttached {
        /// Backend.
        target: IpAddr,
        /// Where the route leads.
        interface: String,
    },
    /// The interface is switched off or has no carrier.
    #[error("the route to {target} leads out of {interface}, which is down")]
    Down {
        /// Backend.
        target: IpAddr,
        /// Where the route leads.
        interface: String,
    },
    /// Tags that the data path cannot write.
    #[error(
        "the route to {target} leads out of {interface}, whose VLAN tags are not supported: at most two, the inner one 802.1Q"
    )]
    Tags {
        /// Backend.
        target: IpAddr,
        /// Where the route leads.
        interface: String,
    },
    /// The data path answers to the MAC of the interface that it is attached to, and to no other.
    #[error(
        "the route to {target} leads out of {interface}, whose MAC is not that of {parent}: give both the same"
    )]
    VlanMac {
        /// Backend.
        target: IpAddr,
        /// VLAN sub-interface.
        interface: String,
        /// Interface that the program is attached to.
        parent: String,
    },
    /// ARP or NDP got no answer, or none yet.
    #[error("neighbour {neighbour} on {interface} does not answer")]
    NoAnswer {
        /// The backend itself or its gateway.
        neighbour: IpAddr,
        /// Where it should be.
        interface: String,
    },
}

/// What came out for one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// The next hop, or why there is none.
    pub hop: Result<NextHop, HopError>,
    /// The neighbour that it depends on: to be kept warm.
    pub neighbour: Option<(NeighbourKey, NeighbourState)>,
}

/// The next hop of a target whose route has been looked up. `ports` are the configured interfaces.
#[must_use]
pub fn resolve(
    facts: &Facts,
    ports: &BTreeSet<u32>,
    target: IpAddr,
    route: &Result<Route, RouteError>,
) -> Resolution {
    let way = route.as_ref().map_err(|e| route_error(target, e)).and_then(|route| {
        let way = way_out(&facts.links, ports, target, route.ifindex)?;
        Ok((way, (route.ifindex, route.gateway.unwrap_or(target))))
    });
    let (way, key) = match way {
        Ok(found) => found,
        Err(error) => return Resolution { hop: Err(error), neighbour: None },
    };
    let known = facts.neighbours.get(&key);
    let state = known.map_or(NeighbourState::Unresolved, |n| n.state);
    let mac = known.and_then(|n| n.mac).filter(|_| state != NeighbourState::Unresolved);
    let hop = mac.map_or_else(
        || Err(HopError::NoAnswer { neighbour: key.1, interface: way.interface.clone() }),
        |mac| Ok(NextHop { ifindex: way.port, mac, vlan: way.tags }),
    );
    Resolution { hop, neighbour: Some((key, state)) }
}

struct Way {
    /// Interface that the program is attached to.
    port: u32,
    tags: VlanTags,
    /// Name of the interface that the route names.
    interface: String,
}

fn route_error(target: IpAddr, error: &RouteError) -> HopError {
    match error {
        RouteError::None => HopError::NoRoute(target),
        RouteError::Local => HopError::Local(target),
        RouteError::Kind(kind) => HopError::Kind { target, kind },
        RouteError::Lookup(why) => HopError::Lookup { target, why: why.clone() },
    }
}

/// Walks from the route's interface down to one that the program is attached to, and collects tags on the way.
fn way_out(links: &Links, ports: &BTreeSet<u32>, target: IpAddr, ifindex: u32) -> Result<Way, HopError> {
    let top = links.get(ifindex).ok_or_else(|| HopError::NotAttached {
        target,
        // Gone since the route was looked up: the event that says so is on its way.
        interface: format!("interface number {ifindex}"),
    })?;
    let interface = top.name.clone();
    let mut link = top;
    let mut tags = VlanTags::default();
    while !ports.contains(&link.ifindex) {
        let below = link.vlan.and_then(|vlan| Some((vlan, links.get(vlan.parent)?)));
        let Some((vlan, parent)) = below else {
            return Err(HopError::NotAttached { target, interface });
        };
        tags = push_outside(tags, vlan.id, vlan.service)
            .ok_or_else(|| HopError::Tags { target, interface: interface.clone() })?;
        link = parent;
    }
    check_link(target, top, link)?;
    Ok(Way { port: link.ifindex, tags, interface })
}

fn check_link(target: IpAddr, top: &Link, port: &Link) -> Result<(), HopError> {
    if !top.up {
        return Err(HopError::Down { target, interface: top.name.clone() });
    }
    if top.mac != port.mac {
        let (interface, parent) = (top.name.clone(), port.name.clone());
        return Err(HopError::VlanMac { target, interface, parent });
    }
    Ok(())
}

/// Puts a tag in front of those that are there; `None` when the result cannot be written by the data path.
fn push_outside(tags: VlanTags, id: u16, service: bool) -> Option<VlanTags> {
    let tci = id.to_be();
    match tags {
        VlanTags { count: 0, .. } => Some(VlanTags { count: 1, outer_ad: u8::from(service), tci: [tci, 0] }),
        VlanTags { count: 1, outer_ad: 0, tci: [inner, _] } => {
            Some(VlanTags { count: 2, outer_ad: u8::from(service), tci: [tci, inner] })
        }
        VlanTags { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::links::Vlan;

    const PORT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn link(ifindex: u32, name: &str, vlan: Option<(u32, u16, bool)>) -> Link {
        Link {
            ifindex,
            name: name.to_owned(),
            mac: Some(PORT_MAC),
            mtu: 1500,
            up: true,
            veth: false,
            vlan: vlan.map(|(parent, id, service)| Vlan { parent, id, service }),
        }
    }

    /// eth0 carries the program; on it a VLAN, a service VLAN and stacks of them. eth1 does not carry it.
    fn facts() -> Facts {
        let links = [
            link(2, "eth0", None),
            link(3, "eth1", None),
            link(4, "eth0.10", Some((2, 10, false))),
            link(5, "eth0.s20", Some((2, 20, true))),
            link(6, "eth0.s20.30", Some((5, 30, false))),
            link(7, "eth0.10.20", Some((4, 20, false))),
            link(8, "three", Some((7, 1, false))),
            link(9, "inner-ad", Some((4, 5, true))),
            link(10, "eth1.10", Some((3, 10, false))),
            link(11, "orphan", Some((99, 10, false))),
            Link { up: false, ..link(12, "down", Some((2, 11, false))) },
            Link { mac: Some([2; 6]), ..link(13, "othermac", Some((2, 12, false))) },
        ];
        Facts { links: links.into_iter().collect(), ..Facts::default() }
    }

    fn tags(outer_ad: u8, ids: &[u16]) -> VlanTags {
        let mut tci = [0; 2];
        for (to, id) in tci.iter_mut().zip(ids) {
            *to = id.to_be();
        }
        VlanTags { count: u8::try_from(ids.len()).unwrap(), outer_ad, tci }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn on_link(ifindex: u32) -> Result<Route, RouteError> {
        Ok(Route { ifindex, gateway: None })
    }

    fn resolve_with(
        target: &str,
        route: &Result<Route, RouteError>,
        neighbour: Option<(u32, &str, Neighbour)>,
    ) -> Resolution {
        let mut facts = facts();
        if let Some((ifindex, address, entry)) = neighbour {
            facts.neighbours.insert((ifindex, ip(address)), entry);
        }
        resolve(&facts, &BTreeSet::from([2]), ip(target), route)
    }

    fn valid() -> Neighbour {
        Neighbour { state: NeighbourState::Valid, mac: Some(PEER_MAC) }
    }

    #[test]
    fn good_ways() {
        let via = |ifindex, gateway| Ok(Route { ifindex, gateway: Some(ip(gateway)) });
        let rows = [
            ("on the link", "10.0.0.5", on_link(2), (2, "10.0.0.5"), tags(0, &[])),
            ("by a gateway", "192.0.2.5", via(2, "10.0.0.1"), (2, "10.0.0.1"), tags(0, &[])),
            ("IPv6", "2001:db8::5", via(2, "fe80::1"), (2, "fe80::1"), tags(0, &[])),
            ("IPv4 by an IPv6 gateway", "192.0.2.5", via(2, "fe80::1"), (2, "fe80::1"), tags(0, &[])),
            ("VLAN", "10.0.0.5", on_link(4), (4, "10.0.0.5"), tags(0, &[10])),
            ("service VLAN", "10.0.0.5", on_link(5), (5, "10.0.0.5"), tags(1, &[20])),
            ("802.1Q in 802.1ad", "10.0.0.5", on_link(6), (6, "10.0.0.5"), tags(1, &[20, 30])),
            ("802.1Q in 802.1Q", "10.0.0.5", on_link(7), (7, "10.0.0.5"), tags(0, &[10, 20])),
        ];
        for (what, target, route, (ifindex, address), vlan) in rows {
            let got = resolve_with(target, &route, Some((ifindex, address, valid())));
            assert_eq!(got.hop, Ok(NextHop { ifindex: 2, mac: PEER_MAC, vlan }), "{what}");
            assert_eq!(got.neighbour, Some(((ifindex, ip(address)), NeighbourState::Valid)), "{what}");
        }
    }

    #[test]
    fn a_vlan_device_that_carries_the_program_itself_has_no_tags() {
        let mut facts = facts();
        facts.neighbours.insert((7, ip("10.0.0.5")), valid());
        let got = resolve(&facts, &BTreeSet::from([4]), ip("10.0.0.5"), &on_link(7));
        assert_eq!(got.hop, Ok(NextHop { ifindex: 4, mac: PEER_MAC, vlan: tags(0, &[20]) }));
    }

    #[test]
    fn neighbour_states() {
        for (state, mac, usable) in [
            (NeighbourState::Valid, Some(PEER_MAC), true),
            (NeighbourState::Stale, Some(PEER_MAC), true),
            (NeighbourState::Unresolved, Some(PEER_MAC), false), // FAILED keeps the last MAC
            (NeighbourState::Unresolved, None, false),
            (NeighbourState::Valid, None, false),
        ] {
            let got = resolve_with("10.0.0.5", &on_link(2), Some((2, "10.0.0.5", Neighbour { state, mac })));
            assert_eq!(got.hop.is_ok(), usable, "{state:?} {mac:?}");
            assert_eq!(got.neighbour, Some(((2, ip("10.0.0.5")), state)));
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let cases: [(Result<Route, RouteError>, &str); 12] = [
            (Err(RouteError::None), "no route to 10.0.0.5"),
            (
                Err(RouteError::Local),
                "10.0.0.5 is an address of this node: a backend on the balancer itself is not supported yet",
            ),
            (Err(RouteError::Kind("blackhole")), "the route to 10.0.0.5 is of type blackhole"),
            (Err(RouteError::Lookup("odd".to_owned())), "route lookup for 10.0.0.5: odd"),
            (on_link(3), "the route to 10.0.0.5 leads out of eth1, which is not in agent.interfaces"),
            (on_link(10), "the route to 10.0.0.5 leads out of eth1.10, which is not in agent.interfaces"),
            (on_link(11), "the route to 10.0.0.5 leads out of orphan, which is not in agent.interfaces"),
            (
                on_link(77),
                "the route to 10.0.0.5 leads out of interface number 77, which is not in agent.interfaces",
            ),
            (on_link(12), "the route to 10.0.0.5 leads out of down, which is down"),
            (
                on_link(8),
                "the route to 10.0.0.5 leads out of three, whose VLAN tags are not supported: at most two, the inner one 802.1Q",
            ),
            (
                on_link(9),
                "the route to 10.0.0.5 leads out of inner-ad, whose VLAN tags are not supported: at most two, the inner one 802.1Q",
            ),
            (
                on_link(13),
                "the route to 10.0.0.5 leads out of othermac, whose MAC is not that of eth0: give both the same",
            ),
        ];
        for (route, message) in cases {
            let got = resolve_with("10.0.0.5", &route, None);
            assert_eq!(got.hop.unwrap_err().to_string(), message);
            assert_eq!(got.neighbour, None, "{message}");
        }
        let silent =
            resolve_with("192.0.2.5", &Ok(Route { ifindex: 4, gateway: Some(ip("10.0.0.1")) }), None);
        assert_eq!(silent.hop.unwrap_err().to_string(), "neighbour 10.0.0.1 on eth0.10 does not answer");
        assert_eq!(silent.neighbour, Some(((4, ip("10.0.0.1")), NeighbourState::Unresolved)));
    }
}
