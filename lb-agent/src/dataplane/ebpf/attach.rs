//! Attaching the program to interfaces, natively or not.

use aya::programs::{ProgramError, XdpMode as Flags};

use super::error::{because, causes, failure, os_error};
use super::{EbpfDataplane, LB, query};
use crate::dataplane::DataplaneError;
use crate::model::XdpMode;

/// In which mode an interface's program runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachedMode {
    /// In the driver.
    Native,
    /// In the network stack, which is several times slower.
    Generic {
        /// Why it is not in the driver; `None` when generic is what was asked for.
        refused: Option<String>,
    },
}

impl AttachedMode {
    /// Label in metrics and status.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Native => XdpMode::Native.name(),
            Self::Generic { .. } => XdpMode::Generic.name(),
        }
    }
}

impl EbpfDataplane {
    /// Attaches the program to an interface of this network namespace. It is detached when this value is dropped.
    ///
    /// [`XdpMode::Auto`] tries the driver first; the result says why it fell back.
    ///
    /// # Errors
    /// When another program is attached there, which is left alone, or the kernel refuses.
    pub fn attach(
        &mut self,
        interface: &str,
        ifindex: u32,
        mode: XdpMode,
    ) -> Result<AttachedMode, DataplaneError> {
        let what = || format!("interface {interface}: attach XDP program");
        if let Some(id) = query::attached_program(ifindex).map_err(|e| failure(what(), &e))? {
            let why = format!(
                "program {id} is attached already: see \"bpftool prog show id {id}\"; \"ip link set dev {interface} \
                 xdp off\" or its owner removes it"
            );
            return Err(because(what(), why));
        }
        let native = |e: &ProgramError| refusal(os_error(e), &causes(e));
        match mode {
            XdpMode::Native => match self.attach_with(ifindex, Flags::Driver) {
                Ok(()) => Ok(AttachedMode::Native),
                Err(e) => Err(because(format!("{} natively", what()), native(&e))),
            },
            XdpMode::Generic => self.attach_generic(ifindex, &what(), None),
            XdpMode::Auto => match self.attach_with(ifindex, Flags::Driver) {
                Ok(()) => Ok(AttachedMode::Native),
                Err(e) => self.attach_generic(ifindex, &what(), Some(native(&e))),
            },
        }
    }

    /// Detaches the program from an interface. Does nothing when it is not attached there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn detach(&mut self, ifindex: u32) -> Result<(), DataplaneError> {
        let Some(link) = self.links.remove(&ifindex) else { return Ok(()) };
        let detached = self.program_mut(LB)?.detach(link);
        detached.map_err(|e| failure(format!("interface index {ifindex}: detach XDP program"), &e))
    }

    fn attach_generic(
        &mut self,
        ifindex: u32,
        what: &str,
        refused: Option<String>,
    ) -> Result<AttachedMode, DataplaneError> {
        match (self.attach_with(ifindex, Flags::Skb), refused) {
            (Ok(()), refused) => Ok(AttachedMode::Generic { refused }),
            (Err(e), None) => Err(failure(what, &e)),
            (Err(e), Some(why)) => Err(because(what, format!("natively: {why}; generic: {}", causes(&e)))),
        }
    }

    fn attach_with(&mut self, ifindex: u32, flags: Flags) -> Result<(), ProgramError> {
        let program = self.ebpf.program_mut(LB).ok_or(ProgramError::NotLoaded)?;
        let program: &mut aya::programs::Xdp = program.try_into()?;
        let link = program.attach_to_if_index(ifindex, flags)?;
        self.links.insert(ifindex, link);
        Ok(())
    }
}

/// Why a driver refused, and what helps.
fn refusal(code: Option<i32>, said: &str) -> String {
    let advice = match code {
        Some(libc::EOPNOTSUPP) => "the driver has no native XDP, or an offload is in its way (ethtool -k)",
        Some(libc::ERANGE) => "the MTU of the interface or of its peer is too large for native XDP: lower it",
        Some(libc::ENOSPC) => {
            "fewer receive queues than the peer of this veth has transmit queues: ethtool -L DEV rx N"
        }
        Some(libc::ENOMEM) => "the device has too few queues left for native XDP: ethtool -L DEV combined N",
        Some(libc::EBUSY | libc::EEXIST) => "another XDP program is attached",
        Some(libc::ENODEV) => "there is no such interface in this network namespace",
        Some(libc::EPERM) => "run as root, or with CAP_BPF and CAP_NET_ADMIN",
        _ => return said.to_owned(),
    };
    format!("{advice} ({said})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_helps_and_keep_the_kernels_words() {
        let text = refusal(Some(libc::ERANGE), "Numerical result out of range (os error 34)");
        assert!(text.contains("MTU") && text.contains("os error 34"), "{text}");
        assert!(refusal(Some(libc::ENOSPC), "x").contains("ethtool -L"));
        assert_eq!(refusal(Some(libc::EINVAL), "as it was"), "as it was");
        assert_eq!(refusal(None, "as it was"), "as it was");
    }
}
