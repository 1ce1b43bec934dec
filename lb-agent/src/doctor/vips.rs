//! Whether somebody else on the segment has a VIP's address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{Finding, Scope};
use crate::config::Config;
use crate::net::NetError;
use crate::net::announce::egresses;
use crate::net::conflict::{holder, probe, protocol};
use crate::net::netlink::Netlink;
use crate::net::raw::Listener;

/// Probes for each VIP, and how far apart they are (RFC 5227 §1.1: `PROBE_NUM`, `PROBE_MIN`).
const PROBES: u32 = 2;
const APART: Duration = Duration::from_millis(500);

pub(super) async fn examine(config: &Config, scope: &Scope) -> Result<Vec<Finding>, NetError> {
    let vips: BTreeSet<IpAddr> = scope.services(config).map(|s| s.vip.ip()).collect();
    let netlink = Netlink::connect()?;
    let (links, addresses) = (netlink.links().await?, netlink.addresses().await?);
    let own: BTreeSet<[u8; 6]> = links.iter().filter_map(|link| link.mac).collect();
    let mut findings = Vec::new();
    for vip in vips {
        let subject = format!("VIP {vip}");
        let near: Vec<_> = egresses(vip, &config.agent.interfaces, &links, &addresses)
            .into_iter()
            .filter(|out| addresses.iter().any(|(on, net)| *on == out.ifindex && net.contains(&vip)))
            .collect();
        if near.is_empty() {
            findings.push(Finding::ok(
                &subject,
                "is in no subnet of this node, so that routers must know the way",
            ));
        }
        for out in near {
            let subject = format!("{subject} on {}", out.name);
            findings.push(match holders(vip, out.ifindex, out.mac, &own).await {
                Ok(macs) if macs.is_empty() => Finding::ok(&subject, "nobody else has it"),
                Ok(macs) => Finding::fail(
                    &subject,
                    format!("{} has it, too", macs.into_iter().collect::<Vec<_>>().join(" and ")),
                    "take it off that host, or off the segment where only one balancer may be active",
                ),
                Err(e) => Finding::warn(
                    &subject,
                    format!("cannot be asked for: {e}"),
                    "run as root, or with CAP_NET_RAW",
                ),
            });
        }
    }
    Ok(findings)
}

/// The MACs of others that answer for an address.
async fn holders(
    vip: IpAddr,
    ifindex: u32,
    mac: [u8; 6],
    own: &BTreeSet<[u8; 6]>,
) -> std::io::Result<BTreeSet<String>> {
    let listener = Listener::open(ifindex, protocol(vip))?;
    let question = probe(vip, mac);
    let mut found = BTreeMap::new();
    for _ in 0..PROBES {
        listener.send(&question)?;
        let deadline = Instant::now() + APART;
        loop {
            tokio::select! {
                frame = listener.receive() => {
                    if let Some(mac) = holder(&frame?, vip).filter(|mac| !own.contains(mac)) {
                        found.insert(mac, mac.map(|byte| format!("{byte:02x}")).join(":"));
                    }
                }
                () = sleep_until(deadline) => break,
            }
        }
    }
    Ok(found.into_values().collect())
}
