//! What of the configuration does not fit the machine.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Failure;
use crate::admin::token::TokenFile;
use crate::config::{Announce, Config, NodeProbe, check_node};
use crate::net::links::read_ports;
use crate::net::sysctl::local_port_range;

/// What was found; each is one line.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// The agent cannot run like that.
    pub(super) errors: Vec<String>,
    /// It can, and it is unlikely to do what is wanted.
    pub(super) warnings: Vec<String>,
}

/// Looks at the machine.
pub(super) async fn findings(config: &Config) -> Result<Findings, Failure> {
    let (interfaces, addresses) =
        local().map_err(|e| Failure::failed(format!("cannot list interfaces: {e}")))?;
    let mut found = Findings::default();
    let range = local_port_range();
    if let Err(e) = &range {
        found.warnings.push(format!("nat.ports cannot be compared with the host's own: {e}"));
    }
    let probe = NodeProbe { interfaces, local_port_range: range.ok() };
    if let Some(Err(e)) = config.agent.admin_token_file.as_ref().map(TokenFile::read) {
        found.errors.push(format!("{}: {e}", config.source.file));
    }
    found.errors.extend(check_node(config, &probe).iter().map(ToString::to_string));
    let present: Vec<String> =
        config.agent.interfaces.iter().filter(|i| probe.interfaces.contains(*i)).cloned().collect();
    for port in read_ports(&present).await.map_err(Failure::failed)? {
        match port {
            Err(e) => found.errors.push(format!("{}: {e}", config.source.file)),
            Ok(p) if !p.up => {
                found.warnings.push(format!("interface {}: is down or has no carrier", p.facts.name));
            }
            Ok(_) => {}
        }
    }
    found.warnings.extend(address_warnings(config, &addresses));
    Ok(found)
}

/// Addresses that must lead to this machine for packets to come back.
fn address_warnings(config: &Config, local: &BTreeSet<IpAddr>) -> Vec<String> {
    let hosts = config.nat.addresses.iter().filter(|n| n.prefix_len() == n.max_prefix_len());
    let snat = hosts.filter(|n| !local.contains(&n.addr())).map(|n| {
        config
            .source
            .error(
                "nat.addresses",
                format!("{} is on no interface of this machine", n.addr()),
                "put it on one, or route it here, or the backends' answers go elsewhere",
            )
            .to_string()
    });
    let vips = config
        .services
        .iter()
        .enumerate()
        .filter(|(_, s)| config.agent.announce == Announce::Off && !local.contains(&s.vip.ip()));
    let vips = vips.map(|(i, s)| {
        config
            .source
            .error(
                &format!("service[{i}].vip"),
                format!("{} is on no interface of this machine, and agent.announce is off", s.vip.ip()),
                "put it on one, route it here, or set agent.announce = \"arp\"",
            )
            .to_string()
    });
    snat.chain(vips).collect()
}

/// Names of the interfaces, and the addresses on them.
fn local() -> nix::Result<(BTreeSet<String>, BTreeSet<IpAddr>)> {
    let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    for entry in nix::ifaddrs::getifaddrs()? {
        if let Some(a) = entry.address.as_ref() {
            addresses.extend(a.as_sockaddr_in().map(|s| IpAddr::V4(s.ip())));
            addresses.extend(a.as_sockaddr_in6().map(|s| IpAddr::V6(s.ip())));
        }
        names.insert(entry.interface_name);
    }
    Ok((names, addresses))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found() {
        let (names, addresses) = local().unwrap();
        assert!(names.contains("lo"));
        assert!(addresses.contains(&IpAddr::from([127, 0, 0, 1])), "{addresses:?}");
    }
}
