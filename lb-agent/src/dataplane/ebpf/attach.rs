//! Attaching the program to interfaces, natively or not.

use aya::programs::xdp::XdpLinkId;
use aya::programs::{ProgramError, Xdp, XdpMode as Flags};

use super::error::{because, causes, failure, os_error};
use super::{EbpfDataplane, LB, query};
use crate::agent::program::Attachment;
use crate::config::XdpMode;
use crate::dataplane::DataplaneError;

/// An interface that the program is attached to.
#[derive(Debug)]
pub(super) struct Attached {
    /// Its name when that was done.
    pub(super) interface: String,
    link: XdpLinkId,
    how: Attachment,
}

impl EbpfDataplane {
    /// Attaches the program to an interface of this network namespace. It is detached when this value is dropped.
    ///
    /// [`XdpMode::Auto`] tries the driver first; the result says why it fell back. An interface that the program is
    /// attached to already keeps it.
    ///
    /// # Errors
    /// When another program is attached there, which is left alone, or the kernel refuses.
    pub fn attach_to(
        &mut self,
        interface: &str,
        ifindex: u32,
        mode: XdpMode,
    ) -> Result<Attachment, DataplaneError> {
        if let Some(attached) = self.links.get(&ifindex) {
            return Ok(attached.how.clone());
        }
        let what = format!("interface {interface}: attach XDP program");
        if let Some(id) = query::attached_program(ifindex).map_err(|e| failure(&*what, &e))? {
            let why = format!(
                "program {id} is attached already: see \"bpftool prog show id {id}\"; its owner removes it, or \"ip \
                 link set dev {interface} xdp off\""
            );
            return Err(because(what, why));
        }
        let (link, how) = match mode {
            XdpMode::Native => self.attach_natively(ifindex).map_err(|why| because(what, why))?,
            XdpMode::Generic => self.attach_generically(ifindex, None).map_err(|why| because(what, why))?,
            XdpMode::Auto => match self.attach_natively(ifindex) {
                Ok(attached) => attached,
                Err(native) => self
                    .attach_generically(ifindex, Some(native.clone()))
                    .map_err(|why| because(what, format!("natively: {native}; generically: {why}")))?,
            },
        };
        self.links.insert(ifindex, Attached { interface: interface.to_owned(), link, how: how.clone() });
        Ok(how)
    }

    /// Detaches the program from an interface. Does nothing when it is not attached there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn detach_from(&mut self, ifindex: u32) -> Result<(), DataplaneError> {
        let Some(attached) = self.links.remove(&ifindex) else { return Ok(()) };
        let detached = self.program_mut(LB)?.detach(attached.link);
        detached.map_err(|e| failure(format!("interface {}: detach XDP program", attached.interface), &e))
    }

    fn attach_natively(&mut self, ifindex: u32) -> Result<(XdpLinkId, Attachment), String> {
        let link =
            self.attach_with(ifindex, Flags::Driver).map_err(|e| refusal(os_error(&e), &causes(&e)))?;
        Ok((link, Attachment { mode: XdpMode::Native.name(), refused: None }))
    }

    fn attach_generically(
        &mut self,
        ifindex: u32,
        refused: Option<String>,
    ) -> Result<(XdpLinkId, Attachment), String> {
        let link = self.attach_with(ifindex, Flags::Skb).map_err(|e| refusal(os_error(&e), &causes(&e)))?;
        Ok((link, Attachment { mode: XdpMode::Generic.name(), refused }))
    }

    fn attach_with(&mut self, ifindex: u32, flags: Flags) -> Result<XdpLinkId, ProgramError> {
        let program = self.ebpf.program_mut(LB).ok_or(ProgramError::NotLoaded)?;
        let program: &mut Xdp = program.try_into()?;
        program.attach_to_if_index(ifindex, flags)
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
