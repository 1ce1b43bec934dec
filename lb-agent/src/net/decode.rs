//! From netlink messages to our own values. Pure.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
    VlanProtocol,
};
use netlink_packet_route::neighbour::{
    self, NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};

use crate::net::links::{Link, Vlan};
use crate::net::resolve::{Neighbour, NeighbourKey, NeighbourState, Route, RouteError};

/// Something that changed in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// An interface is new or different.
    Link(Link),
    /// An interface is gone.
    LinkGone(u32),
    /// A neighbour is new or different.
    Neighbour(NeighbourKey, Neighbour),
    /// A neighbour is gone.
    NeighbourGone(NeighbourKey),
    /// A route, a rule or an own address changed: every lookup may come out differently.
    Routes,
    /// Events were lost (`ENOBUFS`).
    Overrun,
}

pub(crate) fn event(message: NetlinkMessage<RouteNetlinkMessage>) -> Option<Event> {
    use RouteNetlinkMessage as M;
    let (_, payload) = message.into_parts();
    if let NetlinkPayload::Overrun(_) = payload {
        return Some(Event::Overrun);
    }
    let NetlinkPayload::InnerMessage(inner) = payload else { return None };
    // Not a match: an arm for every message that there will ever be says nothing.
    if let M::NewLink(m) = &inner {
        link(m).map(Event::Link)
    } else if let M::DelLink(m) = &inner {
        // A bridge announces a port that left it as a deleted link of its own family.
        (m.header.interface_family == AddressFamily::Unspec).then_some(Event::LinkGone(m.header.index))
    } else if let M::NewNeighbour(m) = &inner {
        neighbour(m).map(|(key, entry)| Event::Neighbour(key, entry))
    } else if let M::DelNeighbour(m) = &inner {
        neighbour(m).map(|(key, _)| Event::NeighbourGone(key))
    } else {
        let routes = matches!(
            inner,
            M::NewRoute(_)
                | M::DelRoute(_)
                | M::NewRule(_)
                | M::DelRule(_)
                | M::NewAddress(_)
                | M::DelAddress(_)
        );
        routes.then_some(Event::Routes)
    }
}

/// `None` for messages that are not about an interface as such.
pub(crate) fn link(message: &LinkMessage) -> Option<Link> {
    let header = &message.header;
    if header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let find = |pick: fn(&LinkAttribute) -> Option<u32>| message.attributes.iter().find_map(pick);
    let name = message
        .attributes
        .iter()
        .find_map(|a| if let LinkAttribute::IfName(name) = a { Some(name.clone()) } else { None })?;
    let mac = message
        .attributes
        .iter()
        .find_map(|a| if let LinkAttribute::Address(bytes) = a { mac(bytes) } else { None })
        .filter(|_| header.link_layer_type == LinkLayerType::Ether);
    let mtu = find(|a| if let LinkAttribute::Mtu(mtu) = a { Some(*mtu) } else { None }).unwrap_or(0);
    let parent = find(|a| if let LinkAttribute::Link(parent) = a { Some(*parent) } else { None });
    // The parent's index counts in another namespace then.
    let elsewhere = message.attributes.iter().any(|a| matches!(a, LinkAttribute::LinkNetNsId(_)));
    let info: Vec<&LinkInfo> = message
        .attributes
        .iter()
        .filter_map(|a| if let LinkAttribute::LinkInfo(info) = a { Some(info) } else { None })
        .flatten()
        .collect();
    Some(Link {
        ifindex: header.index,
        name,
        mac,
        mtu,
        up: header.flags.contains(LinkFlags::Up | LinkFlags::Running),
        veth: info.iter().any(|i| matches!(i, LinkInfo::Kind(InfoKind::Veth))),
        vlan: parent.filter(|_| !elsewhere).and_then(|parent| vlan(&info, parent)),
    })
}

fn vlan(info: &[&LinkInfo], parent: u32) -> Option<Vlan> {
    let data = info
        .iter()
        .find_map(|i| if let LinkInfo::Data(InfoData::Vlan(data)) = i { Some(data) } else { None })?;
    let id = data.iter().find_map(|d| if let InfoVlan::Id(id) = d { Some(*id) } else { None })?;
    let service = data.iter().any(|d| matches!(d, InfoVlan::Protocol(VlanProtocol::Ieee8021Ad)));
    Some(Vlan { parent, id, service })
}

/// `None` for anything but an IP neighbour: a bridge's forwarding entries, and addresses that we proxy for.
pub(crate) fn neighbour(message: &NeighbourMessage) -> Option<(NeighbourKey, Neighbour)> {
    let header = &message.header;
    if header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let address = message.attributes.iter().find_map(|a| {
        let NeighbourAttribute::Destination(address) = a else { return None };
        match address {
            NeighbourAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
            NeighbourAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
            NeighbourAddress::Other(_) | _ => None,
        }
    })?;
    let mac = message
        .attributes
        .iter()
        .find_map(|a| if let NeighbourAttribute::LinkLayerAddress(bytes) = a { mac(bytes) } else { None });
    Some(((header.ifindex, address), Neighbour { state: state(header.state), mac }))
}

fn state(kernel: neighbour::NeighbourState) -> NeighbourState {
    use neighbour::NeighbourState as K;
    match kernel {
        K::Reachable | K::Delay | K::Probe | K::Permanent | K::Noarp => NeighbourState::Valid,
        K::Stale => NeighbourState::Stale,
        K::Incomplete | K::Failed | K::None | K::Other(_) | _ => NeighbourState::Unresolved,
    }
}

/// The answer to a route lookup.
pub(crate) fn route(message: &RouteMessage) -> Result<Route, RouteError> {
    let kind = message.header.kind;
    if kind == RouteType::Local {
        return Err(RouteError::Local);
    }
    if kind != RouteType::Unicast {
        return Err(RouteError::Kind(route_kind(kind)));
    }
    let ifindex = message
        .attributes
        .iter()
        .find_map(|a| if let RouteAttribute::Oif(index) = a { Some(*index) } else { None })
        .ok_or_else(|| RouteError::Lookup("the route has no output interface".to_owned()))?;
    let gateway = message.attributes.iter().find_map(gateway);
    Ok(Route { ifindex, gateway })
}

fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    use RouteAttribute::{Gateway, Via};
    if let Gateway(RouteAddress::Inet(v4)) | Via(RouteVia::Inet(v4)) = attribute {
        return Some(IpAddr::V4(*v4));
    }
    if let Gateway(RouteAddress::Inet6(v6)) | Via(RouteVia::Inet6(v6)) = attribute {
        return Some(IpAddr::V6(*v6));
    }
    None
}

fn route_kind(kind: RouteType) -> &'static str {
    if let Some((_, name)) = [
        (RouteType::Broadcast, "broadcast"),
        (RouteType::Anycast, "anycast"),
        (RouteType::Multicast, "multicast"),
        (RouteType::BlackHole, "blackhole"),
        (RouteType::Unreachable, "unreachable"),
        (RouteType::Prohibit, "prohibit"),
        (RouteType::Throw, "throw"),
    ]
    .into_iter()
    .find(|(k, _)| *k == kind)
    {
        name
    } else {
        "unknown"
    }
}

/// What a refused lookup means (`fib_props` in `net/ipv4/fib_semantics.c`, `ip6_rt_type_to_error` in `net/ipv6/route.c`).
pub(crate) fn route_refused(errno: i32, why: String) -> RouteError {
    match errno {
        libc::ENETUNREACH | libc::ESRCH => RouteError::None,
        libc::EHOSTUNREACH => RouteError::Kind("unreachable"),
        libc::EACCES => RouteError::Kind("prohibit"),
        libc::EINVAL => RouteError::Kind("blackhole"),
        _ => RouteError::Lookup(why),
    }
}

/// An own address and its prefix, with the interface that it is on.
pub(crate) fn address(message: &AddressMessage) -> Option<(u32, IpNet)> {
    let header = &message.header;
    // On a point-to-point link `Address` is the peer and `Local` is ours.
    let local = message
        .attributes
        .iter()
        .find_map(|a| if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None });
    let any = message
        .attributes
        .iter()
        .find_map(|a| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None });
    let net = IpNet::new(local.or(any)?, header.prefix_len).ok()?;
    Some((header.index, net))
}

fn mac(bytes: &[u8]) -> Option<[u8; 6]> {
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn link_message(attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut m = LinkMessage::default();
        m.header.index = 7;
        m.header.link_layer_type = LinkLayerType::Ether;
        m.header.flags = LinkFlags::Up | LinkFlags::Running | LinkFlags::Broadcast;
        m.attributes = attributes;
        m
    }

    fn named(name: &str) -> Vec<LinkAttribute> {
        vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Mtu(1500),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 7]),
        ]
    }

    fn vlan_info(protocol: VlanProtocol) -> LinkAttribute {
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vlan),
            LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(100), InfoVlan::Protocol(protocol)])),
        ])
    }

    #[test]
    fn links() {
        let plain = Link {
            ifindex: 7,
            name: "eth0".to_owned(),
            mac: Some([2, 0, 0, 0, 0, 7]),
            mtu: 1500,
            up: true,
            veth: false,
            vlan: None,
        };
        assert_eq!(link(&link_message(named("eth0"))), Some(plain.clone()));

        let veth = [
            named("eth0"),
            vec![LinkAttribute::Link(3), LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)])],
        ];
        assert_eq!(link(&link_message(veth.concat())), Some(Link { veth: true, ..plain.clone() }));

        for (protocol, service) in [(VlanProtocol::Ieee8021Q, false), (VlanProtocol::Ieee8021Ad, true)] {
            let m = link_message([named("eth0"), vec![LinkAttribute::Link(3), vlan_info(protocol)]].concat());
            let vlan = Some(Vlan { parent: 3, id: 100, service });
            assert_eq!(link(&m), Some(Link { vlan, ..plain.clone() }));
        }
        let elsewhere =
            vec![LinkAttribute::Link(3), LinkAttribute::LinkNetNsId(0), vlan_info(VlanProtocol::Ieee8021Q)];
        assert_eq!(link(&link_message([named("eth0"), elsewhere].concat())), Some(plain.clone()));

        let mut down = link_message(named("eth0"));
        down.header.flags = LinkFlags::Up; // no carrier
        assert_eq!(link(&down), Some(Link { up: false, ..plain.clone() }));

        let mut lo = link_message(named("lo"));
        lo.header.link_layer_type = LinkLayerType::Loopback;
        assert_eq!(link(&lo).unwrap().mac, None);

        let mut bridge_port = link_message(named("eth0"));
        bridge_port.header.interface_family = AddressFamily::Bridge;
        assert_eq!(link(&bridge_port), None);
        assert_eq!(event(RouteNetlinkMessage::DelLink(bridge_port).into()), None);
        assert_eq!(
            event(RouteNetlinkMessage::DelLink(link_message(vec![])).into()),
            Some(Event::LinkGone(7))
        );
    }

    #[test]
    fn neighbours() {
        use neighbour::NeighbourState as K;
        let message = |state| {
            let mut m = NeighbourMessage::default();
            m.header.ifindex = 2;
            m.header.state = state;
            m.attributes = vec![
                NeighbourAttribute::Destination(Ipv4Addr::new(10, 0, 0, 5).into()),
                NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 9]),
            ];
            m
        };
        let key = (2, IpAddr::from([10, 0, 0, 5]));
        for (kernel, ours) in [
            (K::None, NeighbourState::Unresolved),
            (K::Incomplete, NeighbourState::Unresolved),
            (K::Reachable, NeighbourState::Valid),
            (K::Stale, NeighbourState::Stale),
            (K::Delay, NeighbourState::Valid),
            (K::Probe, NeighbourState::Valid),
            (K::Failed, NeighbourState::Unresolved),
            (K::Noarp, NeighbourState::Valid),
            (K::Permanent, NeighbourState::Valid),
        ] {
            let entry = Neighbour { state: ours, mac: Some([2, 0, 0, 0, 0, 9]) };
            let new = RouteNetlinkMessage::NewNeighbour(message(kernel));
            assert_eq!(event(new.into()), Some(Event::Neighbour(key, entry)), "{kernel:?}");
        }
        let gone = RouteNetlinkMessage::DelNeighbour(message(K::Failed));
        assert_eq!(event(gone.into()), Some(Event::NeighbourGone(key)));

        let mut proxy = message(K::None);
        proxy.header.flags = NeighbourFlags::Proxy;
        assert_eq!(neighbour(&proxy), None);
        let mut forwarding_entry = message(K::Permanent);
        forwarding_entry.attributes.remove(0);
        assert_eq!(neighbour(&forwarding_entry), None);
    }

    #[test]
    fn routes() {
        let message = |kind, attributes: &[RouteAttribute]| {
            let mut m = RouteMessage::default();
            m.header.kind = kind;
            m.attributes = attributes.to_vec();
            m
        };
        let oif = RouteAttribute::Oif(2);
        let gateway = IpAddr::from([10, 0, 0, 1]);
        let v6 = "fe80::1".parse().unwrap();
        for (attributes, want) in [
            (vec![oif.clone()], Ok(Route { ifindex: 2, gateway: None })),
            (
                vec![oif.clone(), RouteAttribute::Gateway(gateway.into())],
                Ok(Route { ifindex: 2, gateway: Some(gateway) }),
            ),
            (
                vec![oif.clone(), RouteAttribute::Via(RouteVia::Inet6(v6))],
                Ok(Route { ifindex: 2, gateway: Some(IpAddr::V6(v6)) }),
            ),
            (vec![], Err(RouteError::Lookup("the route has no output interface".to_owned()))),
        ] {
            assert_eq!(route(&message(RouteType::Unicast, &attributes)), want);
        }
        assert_eq!(route(&message(RouteType::Local, std::slice::from_ref(&oif))), Err(RouteError::Local));
        assert_eq!(route(&message(RouteType::BlackHole, &[])), Err(RouteError::Kind("blackhole")));
        assert_eq!(route(&message(RouteType::Broadcast, &[oif])), Err(RouteError::Kind("broadcast")));

        let changed = RouteNetlinkMessage::DelRoute(message(RouteType::Unicast, &[]));
        assert_eq!(event(changed.into()), Some(Event::Routes));
    }

    #[test]
    fn refusals() {
        let refused = |errno| route_refused(errno, "why".to_owned());
        assert_eq!(refused(libc::ENETUNREACH), RouteError::None);
        assert_eq!(refused(libc::EHOSTUNREACH), RouteError::Kind("unreachable"));
        assert_eq!(refused(libc::EACCES), RouteError::Kind("prohibit"));
        assert_eq!(refused(libc::EINVAL), RouteError::Kind("blackhole"));
        assert_eq!(refused(libc::EIO), RouteError::Lookup("why".to_owned()));
    }

    #[test]
    fn lost_events_are_an_event() {
        let message = NetlinkMessage::new(Default::default(), NetlinkPayload::Overrun(Vec::new()));
        assert_eq!(event(message), Some(Event::Overrun));
    }

    #[test]
    fn addresses() {
        let mut m = AddressMessage::default();
        m.header.index = 3;
        m.header.prefix_len = 24;
        m.attributes = vec![AddressAttribute::Address([10, 0, 0, 2].into())];
        assert_eq!(address(&m), Some((3, "10.0.0.2/24".parse().unwrap())));
        m.attributes.push(AddressAttribute::Local([10, 0, 0, 1].into()));
        assert_eq!(address(&m), Some((3, "10.0.0.1/24".parse().unwrap())));
    }
}
