//! Interfaces that swallow what is forwarded to them.
//!
//! A frame that the program redirects is counted as forwarded; whether the driver of the other interface takes it shows
//! only afterwards, and the kernel tells nobody.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use tracing::{info, warn};

use crate::config::XdpMode;
use crate::model::PortFacts;

use super::report::Attached;
use super::world::World;

/// Whether frames that the program redirects to this interface arrive there. `None` when it redirects none to it, or
/// the kernel does not say.
pub(super) fn takes_redirects(world: &World, attached: &Attached, port: &PortFacts) -> Option<bool> {
    // The generic hook sends by the network stack, which every device can do.
    let native = |from: &&PortFacts| {
        attached.get(&from.name).is_some_and(|(_, attachment)| attachment.mode == XdpMode::Native.name())
    };
    let reaches = |from: &PortFacts| from.name != port.name || port.tx_by_redirect;
    let is_target = world.node().ports.iter().filter(native).any(reaches);
    world.redirect(&port.name).filter(|_| is_target)
}

/// Says once when an interface begins to swallow frames, and once when that is over.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Interfaces that swallow frames, and whether that was said.
    swallowing: BTreeMap<String, bool>,
}

impl Watch {
    /// Looks, at regular intervals.
    pub(super) fn look(&mut self, world: &World, attached: &Attached) {
        let ports = &world.node().ports;
        let swallows = ports.iter().filter(|p| takes_redirects(world, attached, p) == Some(false));
        for (interface, news) in self.news(swallows.map(|p| p.name.as_str()).collect()) {
            match news {
                News::Swallows => {
                    let veth = ports.iter().any(|p| p.name == interface && p.tx_by_redirect);
                    warn!(interface, "{}", complaint(veth));
                }
                News::Over => info!(interface, "what is forwarded to this interface is not lost any more"),
            }
        }
    }

    /// What is to be said, when these interfaces swallow frames now. What is only so for a moment is not: some drivers
    /// take redirected frames from the moment on that a program is attached, and the kernel's word of it comes later.
    fn news(&mut self, now: BTreeSet<&str>) -> Vec<(String, News)> {
        let mut news = Vec::new();
        self.swallowing.retain(|name, said| {
            let stays = now.contains(name.as_str());
            if stays && !std::mem::replace(said, true) {
                news.push((name.clone(), News::Swallows));
            } else if !stays && *said {
                news.push((name.clone(), News::Over));
            }
            stays
        });
        for name in now {
            self.swallowing.entry(name.to_owned()).or_insert(false);
        }
        news
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Swallows,
    Over,
}

fn complaint(veth: bool) -> String {
    let advice = if veth {
        "turn on GRO at the other end of this veth (ethtool -K PEER gro on)"
    } else {
        "its driver has no ndo_xdp_xmit: set agent.xdp_mode = \"generic\", or use another interface"
    };
    format!("frames that are forwarded to this interface are lost, though counted as forwarded: {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::program::Attachment;
    use crate::agent::testing::{node, port, service};
    use crate::model::NodeFacts;
    use crate::net::hops::Hops;
    use tokio::time::Instant;

    const ETH0: &str = "eth0";
    const ETH1: &str = "eth1";

    /// Two interfaces attached in these modes, neither of which takes redirected frames.
    fn world(modes: [&'static str; 2], veth: bool) -> (World, Attached) {
        let ports = [(2, ETH0), (3, ETH1)].map(|(index, name)| PortFacts {
            name: name.into(),
            tx_by_redirect: veth,
            ..port(index)
        });
        let present = ports.iter().zip(modes).filter(|(_, mode)| !mode.is_empty());
        let attached = present
            .clone()
            .map(|(p, mode)| (p.name.clone(), (p.ifindex, Attachment { mode, refused: None })));
        let ports = present.clone().map(|(p, _)| p.clone()).collect();
        let mut world = World::new(NodeFacts { ports, ..node() }, vec![service(1)], Instant::now());
        let redirect = [ETH0, ETH1].map(|name| (name.to_owned(), false));
        world.set_hops(&Hops { redirect: redirect.into(), ..Hops::default() });
        (world, attached.collect())
    }

    #[test]
    fn only_interfaces_that_are_redirected_to_matter() {
        let rows = [
            (["native", "native"], false, [Some(false), Some(false)]),
            // What comes in natively by the one leaves by the other.
            (["native", "generic"], false, [None, Some(false)]),
            (["generic", "generic"], false, [None, None]),
            (["generic", "generic"], true, [None, None]),
            (["native", "detached"], false, [None, Some(false)]),
            // One interface: by XDP_TX, except on a veth.
            (["native", ""], false, [None, None]),
            (["native", ""], true, [Some(false), None]),
        ];
        for (modes, veth, want) in rows {
            let (world, attached) = world(modes, veth);
            for (name, want) in [ETH0, ETH1].into_iter().zip(want) {
                let port = world.node().ports.iter().find(|p| p.name == name);
                let found = port.and_then(|p| takes_redirects(&world, &attached, p));
                assert_eq!(found, want, "{name} of {modes:?}, veth {veth}");
            }
        }
    }

    #[test]
    fn what_the_kernel_does_not_say_is_not_known() {
        let (mut world, attached) = world(["native", "native"], true);
        let one = Hops { redirect: [(ETH0.to_owned(), true)].into(), ..Hops::default() };
        world.set_hops(&one);
        let found = world.node().ports.iter().map(|p| takes_redirects(&world, &attached, p));
        assert_eq!(found.collect::<Vec<_>>(), [Some(true), None]);
    }

    #[test]
    fn what_lasts_is_said_once_and_its_end_too() {
        let mut watch = Watch::default();
        let mut look = |now: &[&str]| watch.news(now.iter().copied().collect());
        assert_eq!(look(&[ETH0]), []);
        assert_eq!(look(&[]), [], "it was for a moment");
        assert_eq!(look(&[ETH0]), []);
        assert_eq!(look(&[ETH0, ETH1]), [(ETH0.to_owned(), News::Swallows)]);
        assert_eq!(look(&[ETH0, ETH1]), [(ETH1.to_owned(), News::Swallows)]);
        assert_eq!(look(&[ETH0, ETH1]), []);
        assert_eq!(look(&[ETH1]), [(ETH0.to_owned(), News::Over)]);
        assert_eq!(look(&[ETH0, ETH1]), []);
        assert_eq!(look(&[ETH0, ETH1]), [(ETH0.to_owned(), News::Swallows)], "and again when it comes back");
    }
}
