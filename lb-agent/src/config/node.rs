//! What can only be checked on the node itself.

use std::collections::BTreeSet;

use super::{Config, ConfigError};

/// Facts of a node, collected by the caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeProbe {
    /// Names of the interfaces that exist.
    pub interfaces: BTreeSet<String>,
    /// `net.ipv4.ip_local_port_range`, which counts for IPv6 too; `None` when it cannot be read.
    pub local_port_range: Option<(u16, u16)>,
}

/// What is wrong with the configuration on this node. Pure; the errors are in the order of the file.
#[must_use]
pub fn check_node(config: &Config, probe: &NodeProbe) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    for (i, name) in config.agent.interfaces.iter().enumerate() {
        if !probe.interfaces.contains(name) {
            let names: Vec<&str> = probe.interfaces.iter().map(String::as_str).collect();
            let advice = format!("name one of {}", names.join(", "));
            let key = format!("agent.interfaces[{i}]");
            errors.push(config.source.error(&key, format!("there is no interface {name:?}"), advice));
        }
    }
    let (first, last) = config.nat.ports;
    if let Some((local_first, local_last)) = probe.local_port_range
        && first <= local_last
        && local_first <= last
    {
        let reason = format!(
            "{first}-{last} overlaps net.ipv4.ip_local_port_range ({local_first}-{local_last}), \
             from which the host's own connections take their ports"
        );
        let advice = "choose ports outside of it, or change it with sysctl";
        errors.push(config.source.error("nat.ports", reason, advice));
    }
    errors.sort_by_key(|e| e.line);
    errors
}
