//! The labs' own XDP programs (`bench/ebpf`): loading and attaching them in a lab's hosts.

use anyhow::{Context, Result};
use aya::maps::{Array, DevMap};
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};

use super::Lab;
use crate::machine;

const OBJECT: &str = "bench-lab.o";

/// An interface of a host.
#[derive(Clone, Copy, Debug)]
pub struct Interface {
    /// Its index in its namespace.
    pub index: u32,
    /// Its MAC.
    pub mac: [u8; 6],
}

/// Index and MAC of a host's interface.
///
/// # Errors
/// When there is no such interface.
pub fn interface(lab: &Lab, host: &str, device: &str) -> Result<Interface> {
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
pub struct Object(Ebpf);

impl Object {
    /// Loads a copy. `constants` sets its globals.
    ///
    /// # Errors
    /// When the object is not built, or the kernel refuses it.
    pub fn load<'a>(constants: impl FnOnce(&mut EbpfLoader<'a>)) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        constants(&mut loader);
        Ok(Self(loader.load(&machine::object(OBJECT)?).context(OBJECT)?))
    }

    /// Attaches a program in native mode. It replaces none: drop the one that is there before.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach(&mut self, lab: &Lab, host: &str, device: &str, program: &str) -> Result<()> {
        let xdp = self.program(program)?;
        let attached = lab.in_ns(host, || xdp.attach(device, XdpMode::Driver))?;
        attached.with_context(|| format!("attach {program} to {device} of {host}")).map(drop)
    }

    /// A program, loaded.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn program(&mut self, name: &str) -> Result<&mut Xdp> {
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
    pub fn send_by(&mut self, lab: &Lab, host: &str, index: u32) -> Result<()> {
        let map = self.0.map_mut("OUT").context("no map OUT")?;
        let mut out = DevMap::try_from(map).context("OUT")?;
        let set = lab.in_ns(host, || out.set(0, index, None, 0))?;
        set.with_context(|| format!("send by interface {index} of {host}"))
    }

    /// Writes the one value of an array.
    ///
    /// # Errors
    /// When there is no such map.
    pub fn write<T: aya::Pod>(&mut self, map: &'static str, value: &T) -> Result<()> {
        let array = self.0.map_mut(map).with_context(|| format!("no map {map}"))?;
        Array::<_, T>::try_from(array).and_then(|mut array| array.set(0, value, 0)).context(map)
    }

    /// Reads the one value of an array.
    ///
    /// # Errors
    /// When there is no such map.
    pub fn read<T: aya::Pod>(&self, map: &'static str) -> Result<T> {
        let array = self.0.map(map).with_context(|| format!("no map {map}"))?;
        Array::<_, T>::try_from(array).and_then(|array| array.get(&0, 0)).context(map)
    }
}
