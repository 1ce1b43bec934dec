//! From the object file to programs and maps in the kernel.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use aya::maps::MapError;
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use lb_common::flow::{MAX_SLOTS, MIN_SLOTS, Slot, WAYS};
use lb_common::node::MAX_SNAT_ADDRESSES;

use super::counters::KernelCounters;
use super::error::{because, causes, failure};
use super::expire::Closer;
use super::flows::FlowTable;
use super::maps::{Maps, data};
use super::{CLOCK, EXPIRE, EbpfDataplane, LB, clock};
use crate::config::XdpMode;
use crate::dataplane::DataplaneError;
use crate::object::{self, NotEmbedded};

/// What is loaded, and how large its maps are. The kernel allocates all of it at once.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions<'a> {
    /// The ELF object, aligned to 8.
    pub object: &'a [u8],
    /// Slots of the flow table, a multiple of 8: 66 bytes each.
    pub slots: u32,
    /// Blocks: SNAT addresses.
    pub blocks: u32,
    /// How the program is attached, where nothing else is said.
    pub mode: XdpMode,
}

impl LoadOptions<'static> {
    /// The object that is inside this program.
    ///
    /// # Errors
    /// When there is none.
    pub fn embedded(slots: u32, blocks: u32, mode: XdpMode) -> Result<Self, NotEmbedded> {
        Ok(Self { object: object::bytes()?, slots, blocks, mode })
    }
}

impl EbpfDataplane {
    /// Makes the maps and loads the programs. Nothing sees a packet yet.
    ///
    /// No limit of locked memory is raised: kernels that have what the programs need (5.18) do not count maps
    /// against it.
    ///
    /// # Errors
    /// When a size is out of range, or the kernel refuses a map or a program.
    pub fn load(options: &LoadOptions<'_>) -> Result<Self, DataplaneError> {
        check(options)?;
        let buckets = options.slots / WAYS_U32;
        let step = clock::jiffy()?;
        let mut loader = EbpfLoader::new();
        loader
            .override_global("NANOSECONDS_PER_JIFFY", &step, true)
            .map_max_entries("FLOWS", options.slots)
            .map_max_entries("HINTS", buckets)
            .map_max_entries("SNAT", options.blocks);
        let mut ebpf = loader.load(options.object).map_err(|e| not_created(&e, options))?;
        for name in [LB, EXPIRE, CLOCK] {
            load_program(&mut ebpf, name)?;
        }
        let flows = Arc::new(FlowTable::map(&data(&ebpf, "FLOWS")?)?);
        let closer = Closer::new(program(&ebpf, EXPIRE)?, Arc::clone(&flows))?;
        Ok(Self {
            maps: Maps::open(&ebpf)?,
            counters: Arc::new(KernelCounters::open(&ebpf, Arc::clone(&flows))?),
            flows,
            closer: Arc::new(closer),
            rings: Mutex::default(),
            next_scan: Arc::default(),
            links: BTreeMap::new(),
            mode: options.mode,
            ebpf,
        })
    }
}

#[expect(clippy::cast_possible_truncation, reason = "8")]
const WAYS_U32: u32 = WAYS as u32;

fn check(options: &LoadOptions<'_>) -> Result<(), DataplaneError> {
    let (slots, blocks) = (options.slots, options.blocks);
    let what = || format!("flow table of {slots} slots in {blocks} blocks");
    if !(MIN_SLOTS..=MAX_SLOTS).contains(&slots) || !slots.is_multiple_of(WAYS_U32) {
        return Err(because(
            what(),
            format!("slots must be a multiple of 8 from {MIN_SLOTS} to {MAX_SLOTS}"),
        ));
    }
    if !(1..=MAX_SNAT_ADDRESSES).contains(&blocks) {
        return Err(because(what(), format!("blocks must be from 1 to {MAX_SNAT_ADDRESSES}")));
    }
    Ok(())
}

fn not_created(error: &EbpfError, options: &LoadOptions<'_>) -> DataplaneError {
    if let EbpfError::MapError(MapError::CreateError { name, io_error }) = error {
        return because(format!("map {name}: create"), creation_hint(name, io_error, options));
    }
    failure("XDP object: load", error)
}

fn creation_hint(map: &str, error: &std::io::Error, options: &LoadOptions<'_>) -> String {
    let megabytes = (u64::from(options.slots) * size_of::<Slot>() as u64) >> 20;
    match error.raw_os_error() {
        Some(libc::EPERM) => format!("{error}: run as root, or with CAP_BPF and CAP_NET_ADMIN"),
        Some(libc::ENOMEM) if map == "FLOWS" => {
            format!("{error}: {} slots take {megabytes} MiB; configure fewer nat.addresses", options.slots)
        }
        _ => error.to_string(),
    }
}

/// What is said when the object lacks a program.
pub(super) fn missing(program: &str) -> DataplaneError {
    because(format!("program {program}"), "the XDP object has no such program: build both from one source")
}

/// A program of the object.
pub(super) fn program<'a>(ebpf: &'a Ebpf, name: &str) -> Result<&'a Xdp, DataplaneError> {
    let found = ebpf.program(name).map(TryInto::try_into);
    found.ok_or_else(|| missing(name))?.map_err(|e| failure(format!("program {name}"), &e))
}

fn load_program(ebpf: &mut Ebpf, name: &str) -> Result<(), DataplaneError> {
    let program: &mut Xdp = ebpf
        .program_mut(name)
        .ok_or_else(|| missing(name))?
        .try_into()
        .map_err(|e: ProgramError| failure(format!("program {name}"), &e))?;
    program.load().map_err(|e| {
        let what = format!("program {name}: load");
        let ProgramError::LoadError { io_error, verifier_log } = &e else { return failure(what, &e) };
        let log = verifier_log.to_string();
        tracing::debug!(program = name, %log, "the kernel refused a program");
        because(what, format!("{}: {}", causes(io_error), last_words(&log)))
    })
}

/// Lines of the verifier's log that say why, without its statistics.
const LAST_LINES: usize = 3;

/// The end of a verifier's log, on one line.
fn last_words(log: &str) -> String {
    let is_statistics = |line: &&str| {
        ["processed ", "verification time", "stack depth", "max_states"].iter().any(|s| line.starts_with(s))
    };
    let lines = log.lines().map(str::trim).filter(|line| !line.is_empty() && !is_statistics(line));
    let lines: Vec<&str> = lines.collect();
    match lines.get(lines.len().saturating_sub(LAST_LINES)..) {
        None | Some([]) => "the verifier said nothing; see the kernel's log".into(),
        Some(last) => last.join(" | "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked_before_anything_is_made() {
        for (slots, blocks) in [(0, 1), (12, 1), (MAX_SLOTS + 8, 1), (8, 0), (8, MAX_SNAT_ADDRESSES + 1)] {
            let options = LoadOptions { object: &[], slots, blocks, mode: XdpMode::Auto };
            let text = EbpfDataplane::load(&options).unwrap_err().to_string();
            assert!(text.contains("must be") && text.contains(&slots.to_string()), "{text}");
        }
        let nonsense = LoadOptions { object: b"not an object   ", slots: 8, blocks: 1, mode: XdpMode::Auto };
        let text = EbpfDataplane::load(&nonsense).unwrap_err().to_string();
        assert!(text.starts_with("XDP object: load: "), "{text}");
    }

    #[test]
    fn last_words_are_the_reason_and_not_the_statistics() {
        let log = "0: R1=ctx()\n; let x = 1;\n14: (71) r1 = *(u8 *)(r6 +0)\ninvalid access to packet\n\
                   R6 offset is outside of the packet\nverification time 99 usec\nstack depth 0\n\
                   processed 15 insns (limit 1000000) max_states_per_insn 0\n\n";
        let want =
            "14: (71) r1 = *(u8 *)(r6 +0) | invalid access to packet | R6 offset is outside of the packet";
        assert_eq!(last_words(log), want);
        assert!(last_words("").contains("said nothing"));
        assert_eq!(last_words("one"), "one");
    }

    #[test]
    fn refused_maps_say_what_to_do() {
        let options = LoadOptions { object: &[], slots: 1 << 20, blocks: 1, mode: XdpMode::Auto };
        let hint = |map, code| creation_hint(map, &std::io::Error::from_raw_os_error(code), &options);
        assert!(hint("NODE", libc::EPERM).contains("root"));
        assert!(hint("FLOWS", libc::ENOMEM).contains("64 MiB"));
    }
}
