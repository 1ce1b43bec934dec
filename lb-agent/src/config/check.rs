//! What must hold between keys.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use lb_common::backend::MAX_BACKENDS;
use lb_common::flow::MAX_SLOTS;
use lb_common::node::{MAX_PORTS, MAX_SNAT_ADDRESSES, MAX_SNAT_RANGES};
use lb_common::service::MAX_SERVICES;

use super::draft::{Draft, ServiceDraft};
use super::reader::{At, Reader};
use super::values;
use crate::model::family;

/// Reports what does not fit together. What was wrong by itself has been reported and is not here.
pub(super) fn check(reader: &mut Reader, draft: &Draft) {
    check_interfaces(reader, draft);
    check_addresses(reader, draft);
    check_services(reader, draft);
    for service in &draft.services {
        check_backends(reader, service);
    }
    check_vips(reader, draft);
    check_backend_addresses(reader, draft);
}

fn check_interfaces(reader: &mut Reader, draft: &Draft) {
    let Some(interfaces) = &draft.interfaces else { return };
    if interfaces.is_empty() && !reader.has_error_within("agent.interfaces") {
        reader.error("agent.interfaces", "names no interface", "name those that packets come in by");
    }
    too_many(reader, "agent.interfaces", interfaces.len(), MAX_PORTS, "interfaces");
    distinct(reader, interfaces.iter(), "interface of");
}

fn check_addresses(reader: &mut Reader, draft: &Draft) {
    let Some(addresses) = &draft.addresses else { return };
    if addresses.is_empty() && !reader.has_error_within("nat.addresses") {
        let advice = "name an address that this node owns, for each family that is served";
        reader.error("nat.addresses", "names no address", advice);
    }
    too_many(reader, "nat.addresses", addresses.len(), MAX_SNAT_RANGES, "entries");
    let count: u128 = addresses.iter().map(|a| values::address_count(&a.value)).sum();
    if count > u128::from(MAX_SNAT_ADDRESSES) {
        let reason = format!("holds {count} addresses");
        reader.error("nat.addresses", reason, format!("name {MAX_SNAT_ADDRESSES} at most"));
    } else if let Some((first, last)) = draft.ports {
        let slots = (u128::from(last - first) + 1) / 8 * 8 * count;
        if slots > u128::from(MAX_SLOTS) {
            let reason = format!("make a flow table of {slots} slots with {count} addresses");
            reader.error("nat.ports", reason, format!("use fewer of either, for {MAX_SLOTS} at most"));
        }
    }
    for (i, a) in addresses.iter().enumerate() {
        let overlaps = |b: &&At<IpNet>| a.value.contains(&b.value) || b.value.contains(&a.value);
        if let Some(b) = addresses.iter().take(i).find(overlaps) {
            let reason = format!("{} overlaps {} ({})", show(&a.value), show(&b.value), b.key);
            reader.error(&a.key, reason, "name every address once");
        }
    }
}

fn check_services(reader: &mut Reader, draft: &Draft) {
    too_many(reader, "service", draft.services.len(), MAX_SERVICES as usize, "services");
    let backends = draft.services.iter().map(|s| s.backends.len()).sum();
    too_many(reader, "service", backends, MAX_BACKENDS as usize - 1, "backends over all services");
    distinct(reader, draft.services.iter().filter_map(|s| s.name.as_ref()), "name of another service:");
    distinct(reader, draft.services.iter().filter_map(|s| s.vip.as_ref()), "VIP of another service:");
}

fn check_backends(reader: &mut Reader, service: &ServiceDraft) {
    // A name that was not given is the address, and the address is looked at next.
    let names =
        service.backends.iter().filter_map(|b| b.name.as_ref().filter(|name| name.key.ends_with(".name")));
    distinct(reader, names, "name of another backend:");
    distinct(
        reader,
        service.backends.iter().filter_map(|b| b.address.as_ref()),
        "address of another backend:",
    );
    let Some(vip) = &service.vip else { return };
    for address in service.backends.iter().filter_map(|b| b.address.as_ref()) {
        if address.value.is_ipv4() != vip.value.is_ipv4() {
            let families = [address, vip].map(|a| family(a.value.ip()));
            let reason = format!(
                "{} backend of an {} VIP: NAT between families is not supported",
                families[0], families[1]
            );
            reader.error(&address.key, reason, "use a backend address of the VIP's family");
        }
    }
}

fn check_vips(reader: &mut Reader, draft: &Draft) {
    let Some(addresses) = &draft.addresses else { return };
    for vip in draft.services.iter().filter_map(|s| s.vip.as_ref()) {
        let (ip, port) = (vip.value.ip(), vip.value.port());
        // A wrong entry may have been the one that is missing.
        let complete = !reader.has_error_within("nat.addresses");
        let of_family = |a: &At<IpNet>| matches!(a.value, IpNet::V4(_)) == ip.is_ipv4();
        if complete && !addresses.iter().any(of_family) {
            let reason = format!("{ip} is {}, and nat.addresses has no {0} address", family(ip));
            reader.error(&vip.key, reason, format!("add an {} address to nat.addresses", family(ip)));
        }
        let within = draft.ports.is_some_and(|(first, last)| (first..=last).contains(&port));
        if let Some(snat) = addresses.iter().find(|a| within && a.value.contains(&ip)) {
            let reason = format!("{} is a SNAT address ({}) and port (nat.ports) too", vip.value, snat.key);
            reader.error(&vip.key, reason, "use a VIP or port outside of them, or change nat.ports");
        }
    }
}

fn check_backend_addresses(reader: &mut Reader, draft: &Draft) {
    let vips = draft.services.iter().filter_map(|s| s.vip.as_ref());
    let vips: BTreeMap<IpAddr, &At<SocketAddr>> = vips.map(|vip| (vip.value.ip(), vip)).collect();
    let backends = draft.services.iter().flat_map(|s| &s.backends);
    for address in backends.filter_map(|b| b.address.as_ref()) {
        let ip = address.value.ip();
        if let Some(vip) = vips.get(&ip) {
            let reason = format!("{ip} is a VIP ({})", vip.key);
            reader.error(&address.key, reason, "give the backend's own address");
        }
        let snat = draft.addresses.iter().flatten().find(|a| a.value.contains(&ip));
        if let Some(snat) = snat {
            let reason = format!("{ip} is a SNAT address ({})", snat.key);
            reader.error(&address.key, reason, "give the backend's own address");
        }
    }
}

fn too_many(reader: &mut Reader, key: &str, count: usize, max: usize, what: &str) {
    if count > max {
        reader.error(key, format!("has {count} {what}"), format!("{max} is the most"));
    }
}

/// Reports every value that was there before.
fn distinct<'a, T: std::fmt::Display + Ord + 'a>(
    reader: &mut Reader,
    values: impl Iterator<Item = &'a At<T>>,
    what: &str,
) {
    let mut seen: BTreeMap<&T, &str> = BTreeMap::new();
    for at in values {
        if let Some(first) = seen.insert(&at.value, &at.key) {
            seen.insert(&at.value, first);
            let reason = format!("{} is the {what} {first}", at.value);
            reader.error(&at.key, reason, "give each its own");
        }
    }
}

fn show(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}
