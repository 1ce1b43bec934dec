//! What of the configuration does not fit the machine.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::Context;
use ipnet::IpNet;

use crate::config::{Announce, Config, NodeProbe, check_node};
use crate::model::ServiceSpec;
use crate::net::links::read_ports;
use crate::net::sysctl::local_port_range;

/// What was found; each is one line.
#[derive(Debug, Default)]
pub struct Findings {
    /// The agent cannot run like that.
    pub errors: Vec<String>,
    /// It can, and it is unlikely to do what is wanted.
    pub warnings: Vec<String>,
}

/// Looks at the machine.
///
/// # Errors
/// When it cannot be looked at.
pub async fn findings(config: &Config) -> anyhow::Result<Findings> {
    let (interfaces, addresses) = local().context("cannot list interfaces")?;
    let mut found = Findings::default();
    let range = local_port_range();
    if let Err(e) = &range {
        found.warnings.push(format!("nat.ports cannot be compared with the host's own: {e}"));
    }
    let probe = NodeProbe { interfaces, local_port_range: range.ok() };
    found.errors.extend(token_error(config));
    found.errors.extend(check_node(config, &probe).iter().map(ToString::to_string));
    let present: Vec<String> =
        config.agent.interfaces.iter().filter(|i| probe.interfaces.contains(*i)).cloned().collect();
    for port in read_ports(&present).await? {
        match port {
            Err(e) => found.errors.push(format!("{}: {e}", config.source.file)),
            Ok(p) if !p.up => {
                found.warnings.push(format!("interface {}: is down or has no carrier", p.facts.name));
            }
            Ok(_) => {}
        }
    }
    found.warnings.extend(snat_warnings(config, &addresses));
    found.warnings.extend(vip_warnings(config, &addresses));
    Ok(found)
}

/// Looks at what an agent that goes by `old` would find of the machine that it has not found before. Reads files.
#[must_use]
pub fn findings_of_reload(old: &Config, new: &Config) -> Findings {
    let errors = token_error(new).into_iter().collect();
    let was_warned_of = old.agent.announce == Announce::Off;
    let known = old.services.iter().filter(|_| was_warned_of).map(|s| s.vip.ip());
    // Without the list there is nothing to warn of.
    let warnings = local().map(|(_, local)| vip_warnings(new, &known.chain(local).collect()));
    Findings { errors, warnings: warnings.unwrap_or_default() }
}

fn token_error(config: &Config) -> Option<String> {
    let error = config.agent.admin_token_file.as_ref()?.read().err()?;
    Some(format!("{}: {error}", config.source.file))
}

/// SNAT addresses that must lead to this machine for packets to come back.
fn snat_warnings(config: &Config, local: &BTreeSet<IpAddr>) -> Vec<String> {
    let hosts = config.nat.addresses.iter().filter(|n| n.prefix_len() == n.max_prefix_len());
    let elsewhere = hosts.filter(|n| !local.contains(&n.addr()));
    let warning = |n: &IpNet| {
        let reason = format!("{} is on no interface of this machine", n.addr());
        let advice = "put it on one, or route it here, or the backends' answers go elsewhere";
        config.source.error("nat.addresses", reason, advice).to_string()
    };
    elsewhere.map(warning).collect()
}

/// VIPs that nobody brings to this machine.
fn vip_warnings(config: &Config, local: &BTreeSet<IpAddr>) -> Vec<String> {
    let services = (0..).zip(&config.services);
    let elsewhere =
        services.filter(|(_, s)| config.agent.announce == Announce::Off && !local.contains(&s.vip.ip()));
    let warning = |(i, s): (usize, &ServiceSpec)| {
        let ip = s.vip.ip();
        let reason = format!("{ip} is on no interface of this machine, and agent.announce is off");
        let advice = "put it on one, route it here, or set agent.announce = \"arp\"";
        config.source.error(&format!("service[{i}].vip"), reason, advice).to_string()
    };
    elsewhere.map(warning).collect()
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
