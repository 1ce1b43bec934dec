//! The smallest possible XDP forwarder, for one direction.

use std::net::Ipv4Addr;

use anyhow::Result;
use lb_tests::lab::Lab;
use lb_tests::lab::object::{Interface, Object};

/// What the smallest forwarder does to packets of one direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rewrite {
    /// Interface of the balancer where it is attached.
    pub(super) device: &'static str,
    /// The program.
    pub(super) program: &'static str,
    /// Destination of the packets that are meant.
    pub(super) to: Ipv4Addr,
    /// The source that they get.
    pub(super) new_source: Ipv4Addr,
    /// The destination that they get.
    pub(super) new_dest: Ipv4Addr,
    /// From the VIP's ports to the backend's.
    pub(super) port_shift: u16,
    /// The interface that they leave by.
    pub(super) out: Interface,
    /// The MAC that they go to.
    pub(super) next_hop: [u8; 6],
}

/// Starts the smallest forwarder for one direction.
///
/// # Errors
/// When the kernel refuses it.
pub(super) fn forward(lab: &Lab, host: &str, rewrite: &Rewrite) -> Result<Object> {
    let words = |address: Ipv4Addr| u32::from_ne_bytes(address.octets());
    let ethernet: Vec<u8> = rewrite.next_hop.into_iter().chain(rewrite.out.mac).collect();
    let ethernet: Vec<u32> =
        ethernet.chunks_exact(4).map(|c| u32::from_ne_bytes([c[0], c[1], c[2], c[3]])).collect();
    let (to, source, dest) = (words(rewrite.to), words(rewrite.new_source), words(rewrite.new_dest));
    let mut object = Object::load(|loader| {
        loader
            .override_global("MATCH", &to, true)
            .override_global("NEW_SOURCE", &source, true)
            .override_global("NEW_DEST", &dest, true)
            .override_global("PORT_SHIFT", &rewrite.port_shift, true)
            .override_global("ETHERNET_0", &ethernet[0], true)
            .override_global("ETHERNET_4", &ethernet[1], true)
            .override_global("ETHERNET_8", &ethernet[2], true);
    })?;
    object.send_by(lab, host, rewrite.out.index)?;
    object.attach(lab, host, rewrite.device, rewrite.program)?;
    Ok(object)
}
