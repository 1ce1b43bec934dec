//! The XDP object that was embedded when the agent was built.
#![forbid(unsafe_code)]

/// This build has no object inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this lb-agent was built without its data path: run \"cargo xtask build\"")]
pub struct NotEmbedded;

/// The ELF object of the XDP program, aligned for parsing in place.
///
/// # Errors
/// When the agent was built without one, as `cargo build` does on a machine without the eBPF toolchain.
pub const fn bytes() -> Result<&'static [u8], NotEmbedded> {
    EMBEDDED
}

#[cfg(not(has_bpf_object))]
const EMBEDDED: Result<&[u8], NotEmbedded> = Err(NotEmbedded);

#[cfg(has_bpf_object)]
const EMBEDDED: Result<&[u8], NotEmbedded> = Ok(&OBJECT.bytes);

/// `include_bytes!` aligns to 1; ELF structures are read in place and need 8.
#[cfg(has_bpf_object)]
#[repr(C, align(8))]
struct Aligned<T: ?Sized> {
    bytes: T,
}

#[cfg(has_bpf_object)]
static OBJECT: &Aligned<[u8]> = &Aligned { bytes: *include_bytes!(env!("EVENKEEL_BPF_OBJECT_PATH")) };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_an_aligned_bpf_object_or_says_what_to_run() {
        match bytes() {
            Ok(object) => {
                assert_eq!(object.as_ptr() as usize % 8, 0);
                assert_eq!(object.get(..4), Some(b"\x7fELF".as_slice()));
                assert_eq!(object.get(18..20), Some(247u16.to_le_bytes().as_slice()), "e_machine is EM_BPF");
            }
            Err(e) => assert!(e.to_string().contains("cargo xtask build")),
        }
    }
}
