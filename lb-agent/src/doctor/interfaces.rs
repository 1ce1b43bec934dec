//! The interfaces where the program is to be attached.

use std::collections::BTreeMap;

use super::Finding;
use crate::config::{Config, XdpMode};
use crate::net::NetError;
use crate::net::ethtool;
use crate::net::links::{Link, Links};
use crate::net::netdev::Netdev;
use crate::net::netlink::Netlink;
use crate::net::sysctl::reverse_path_filter;

/// Those that do not exist are among what is wrong with the configuration on this node, and not here.
pub(super) async fn examine(config: &Config) -> Result<Vec<Finding>, NetError> {
    let links = Netlink::connect()?.links().await?;
    let native = match Netdev::open().await? {
        Some(mut netdev) => Some(netdev.native().await?),
        None => None,
    };
    let present: Vec<&Link> = config.agent.interfaces.iter().filter_map(|name| links.by_name(name)).collect();
    let mut findings = Vec::new();
    for link in &present {
        let subject = format!("interface {}", link.name);
        let native = native.as_ref().map(|all| all.get(&link.ifindex).copied().unwrap_or(false));
        // A virtual device may have none.
        let driver = ethtool::driver(&link.name).unwrap_or_else(|_| "unknown".to_owned());
        findings.push(hook(&subject, config.agent.xdp_mode, native, &driver));
        findings.extend(offloads(&subject, link, &links));
        if present.len() > 1 && reverse_path_filter(&link.name) == Some(1) {
            findings.push(Finding::warn(
                &subject,
                "the reverse-path filter is strict: an answer to the agent's own checks that comes in by another interface than the route \
                 to the pod is dropped",
                format!("set net.ipv4.conf.{}.rp_filter = 2, unless all routes are symmetric", link.name),
            ));
        }
    }
    findings.extend(mtu(&present));
    Ok(findings)
}

/// Where a program would be attached.
fn hook(subject: &str, mode: XdpMode, native: Option<bool>, driver: &str) -> Finding {
    match (mode, native) {
        (XdpMode::Generic, _) => Finding::warn(
            subject,
            format!("driver {driver}: XDP in the generic hook, as agent.xdp_mode says, which is slow"),
            "set agent.xdp_mode = \"auto\"",
        ),
        (_, Some(true)) => Finding::ok(subject, format!("driver {driver}: native XDP")),
        (_, None) => Finding::ok(
            subject,
            format!(
                "driver {driver}: whether it does native XDP shows at start (before Linux 6.3 the kernel does not say)"
            ),
        ),
        (XdpMode::Native, Some(false)) => Finding::fail(
            subject,
            format!("driver {driver} has no native XDP, and agent.xdp_mode asks for it"),
            "name the device below (of a bridge, a bond, a VLAN), use another NIC, or set agent.xdp_mode = \"auto\"",
        ),
        (XdpMode::Auto, Some(false)) => Finding::warn(
            subject,
            format!("driver {driver} has no native XDP: it will be the generic hook, which is slow"),
            "name the device below (of a bridge, a bond, a VLAN), or use another NIC",
        ),
    }
}

fn offloads(subject: &str, link: &Link, links: &Links) -> Vec<Finding> {
    // What a driver does not have is not on.
    let Ok(on) = ethtool::offloads(&link.name) else { return Vec::new() };
    let tagged = links.iter().any(|l| l.vlan.is_some_and(|vlan| vlan.parent == link.ifindex));
    let mut findings = Vec::new();
    if on.rx_vlan && tagged {
        findings.push(Finding::fail(
            subject,
            "takes VLAN tags out of frames before XDP sees them, and has VLANs",
            format!("ethtool -K {} rxvlan off", link.name),
        ));
    }
    if on.lro {
        findings.push(Finding::warn(
            subject,
            "joins segments in hardware (LRO), which most drivers refuse together with native XDP",
            format!("ethtool -K {} lro off", link.name),
        ));
    }
    findings
}

/// NAT changes no packet's length: what comes in by one must fit into the others.
fn mtu(links: &[&Link]) -> Option<Finding> {
    let sizes: BTreeMap<&str, u32> = links.iter().map(|link| (link.name.as_str(), link.mtu)).collect();
    let (least, most) = (sizes.values().min()?, sizes.values().max()?);
    let list = sizes.iter().map(|(name, mtu)| format!("{name} {mtu}")).collect::<Vec<_>>().join(", ");
    Some(if least == most {
        Finding::ok("MTU", list)
    } else {
        Finding::warn(
            "MTU",
            format!("{list}: what is longer than {least} bytes is lost on the way"),
            "give all interfaces the same MTU",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn what_the_hook_will_be() {
        use XdpMode::{Auto, Generic, Native};
        for (mode, native, level) in [
            (Auto, Some(true), Level::Ok),
            (Native, Some(true), Level::Ok),
            (Auto, Some(false), Level::Warn),
            (Native, Some(false), Level::Fail),
            (Auto, None, Level::Ok),
            (Native, None, Level::Ok),
            (Generic, Some(true), Level::Warn),
            (Generic, None, Level::Warn),
        ] {
            let found = hook("interface eth0", mode, native, "virtio_net");
            assert_eq!(found.level, level, "{mode:?} {native:?}");
            assert_eq!(found.advice.is_empty(), level == Level::Ok);
        }
    }

    #[test]
    fn sizes_must_be_the_same() {
        let link = |name: &str, mtu| Link {
            ifindex: 1,
            name: name.to_owned(),
            mac: None,
            mtu,
            up: true,
            veth: false,
            vlan: None,
        };
        let (a, b, c) = (link("eth0", 1500), link("eth1", 1500), link("eth2", 9000));
        assert_eq!(mtu(&[]), None);
        assert_eq!(mtu(&[&a, &b]).unwrap().level, Level::Ok);
        let found = mtu(&[&a, &c]).unwrap();
        assert_eq!(found.level, Level::Warn);
        assert!(found.text.contains("longer than 1500 bytes"), "{}", found.text);
    }
}
