//! The bench-only XDP programs: loading and attaching them in a lab's hosts.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use aya::maps::{Array, DevMap};
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use lb_tests::lab::Lab;

use crate::machine;

const OBJECT: &str = "bench-lab.o";

/// An interface of a host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interface {
    /// Its index in its namespace.
    pub(super) index: u32,
    /// Its MAC.
    pub(super) mac: [u8; 6],
}

/// Index and MAC of a host's interface.
///
/// # Errors
/// When there is no such interface.
pub(super) fn interface(lab: &Lab, host: &str, device: &str) -> Result<Interface> {
    let text = lab.exec(host, &["ip", "-j", "link", "show", "dev", device])?;
    let links: serde_json::Value = serde_json::from_str(&text).context("what ip -j printed")?;
    let number = |key: &str| links[0][key].as_u64().and_then(|n| u32::try_from(n).ok());
    let index = number("ifindex").with_context(|| format!("{device} of {host} has no index"))?;
    let mut mac = [0; 6];
    let bytes = links[0]["address"].as_str().unwrap_or_default().split(':');
    for (to, byte) in mac.iter_mut().zip(bytes) {
        *to = u8::from_str_radix(byte, 16).with_context(|| format!("MAC of {device} of {host}"))?;
    }
    Ok(Interface { index, mac })
}

/// A loaded copy of the object, with constants of its own. Detached when dropped.
#[derive(Debug)]
pub(super) struct Object(Ebpf);

impl Object {
    /// Loads a copy. `constants` sets its globals.
    ///
    /// # Errors
    /// When the object is not built, or the kernel refuses it.
    pub(super) fn load<'a>(constants: impl FnOnce(&mut EbpfLoader<'a>)) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        constants(&mut loader);
        Ok(Self(loader.load(&machine::object(OBJECT)?).context(OBJECT)?))
    }

    /// Attaches a program in native mode. It replaces none: drop the one that is there before.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn attach(&mut self, lab: &Lab, host: &str, device: &str, program: &str) -> Result<()> {
        let xdp = self.program(program)?;
        let attached = lab.in_ns(host, || xdp.attach(device, XdpMode::Driver))?;
        attached.with_context(|| format!("attach {program} to {device} of {host}")).map(drop)
    }

    /// A program, loaded.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub(super) fn program(&mut self, name: &str) -> Result<&mut Xdp> {
        let program = self.0.program_mut(name).with_context(|| format!("no program {name}"))?;
        let xdp: &mut Xdp = program.try_into().context("not an XDP program")?;
        if xdp.fd().is_err() {
            xdp.load().with_context(|| format!("load {name}"))?;
        }
        Ok(xdp)
    }

    /// Sets the interface that programs send by.
    ///
    /// # Errors
    /// When the host has no such interface.
    pub(super) fn send_by(&mut self, lab: &Lab, host: &str, index: u32) -> Result<()> {
        let map = self.0.map_mut("OUT").context("no map OUT")?;
        let mut out = DevMap::try_from(map).context("OUT")?;
        let set = lab.in_ns(host, || out.set(0, index, None, 0))?;
        set.with_context(|| format!("send by interface {index} of {host}"))
    }

    /// Writes the one value of an array.
    ///
    /// # Errors
    /// When there is no such map.
    pub(super) fn write<T: aya::Pod>(&mut self, map: &'static str, value: &T) -> Result<()> {
        let array = self.0.map_mut(map).with_context(|| format!("no map {map}"))?;
        Array::<_, T>::try_from(array).and_then(|mut array| array.set(0, value, 0)).context(map)
    }

    /// Reads the one value of an array.
    ///
    /// # Errors
    /// When there is no such map.
    pub(super) fn read<T: aya::Pod>(&self, map: &'static str) -> Result<T> {
        let array = self.0.map(map).with_context(|| format!("no map {map}"))?;
        Array::<_, T>::try_from(array).and_then(|array| array.get(&0, 0)).context(map)
    }
}

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
