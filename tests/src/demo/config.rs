//! The agent's configuration for the demo, and the names in it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use crate::lab::Topology;
use crate::packet::world::Family;

/// How many servers there are.
pub(super) const SERVERS: u8 = 3;
/// Name of the service that the story is about: the one of IPv4.
pub(super) const SERVICE: &str = "superset";
/// Where the agent answers, within the balancer's namespace.
pub(super) const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9470);

/// What a server is called, by itself and in the configuration.
pub(super) fn server_name(n: u8) -> String {
    format!("superset-{n}")
}

/// The text of the file.
pub(super) fn config(topology: &Topology, socket: &Path) -> String {
    let interfaces = topology.interfaces().join("\", \"");
    let [snat4, snat6] = Family::BOTH.map(|family| topology.snat(family));
    let mut text = format!(
        r#"# Written by "cargo xtask demo". Every key is explained in config/lb.example.toml.

[agent]
interfaces = ["{interfaces}"] # towards the client, towards the servers
xdp_mode = "auto"
admin = "{ADMIN}"
socket = {socket:?}

[nat]
addresses = ["{snat4}", "{snat6}"] # what the servers see as the client's address
ports = "1024-32767"
"#
    );
    for (family, name) in [(Family::V4, SERVICE.to_owned()), (Family::V6, format!("{SERVICE}-ipv6"))] {
        text.push_str(&service_config(topology, family, &name));
    }
    text
}

fn service_config(topology: &Topology, family: Family, name: &str) -> String {
    let backend = |n| {
        let (name, address) = (server_name(n), topology.backend(n, family));
        format!("\n[[service.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n")
    };
    let head = format!(
        r#"
[[service]]
name = "{name}"
vip = "{}"
[service.health]
path = "/health"
expect_body = "OK"
interval = "500ms" # faster than the default of 2s: a demo should not take long
timeout = "300ms"
rise = 2
fall = 2
"#,
        topology.vip(family)
    );
    (1..=SERVERS).fold(head, |text, n| text + &backend(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_one_that_the_agent_takes() {
        let text = config(&Topology::two_arm(SERVERS), Path::new("/tmp/demo.sock"));
        let config = lb_agent::config::parse("demo.toml", &text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(config.services.len(), 2);
        assert_eq!(config.agent.admin, ADMIN);
    }
}
