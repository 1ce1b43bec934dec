//! A network namespace for a thread, the loaded data path in it, and what the kernel has open.

use std::collections::BTreeSet;
use std::fs;
use std::sync::{Mutex, PoisonError};

use aya::programs::loaded_programs;
use lb_agent::config::XdpMode;
use lb_agent::dataplane::ebpf::{EbpfDataplane, LoadOptions};
use lb_tests::pair::in_pair;
use lb_tests::privilege;

/// One test at a time: some count what is open in this process.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs `test` on a thread in a network namespace of its own. Says so when the test cannot run here.
pub(crate) fn in_network(name: &str, test: impl FnOnce() + Send) {
    if let Err(why) = privilege::data_path() {
        privilege::skipped(name, &why);
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    in_pair(test);
}

/// The data path, loaded and not attached: a new one, of exactly this size, and gone when it is dropped.
pub(crate) fn load(slots: u32, blocks: u32) -> EbpfDataplane {
    EbpfDataplane::load(&LoadOptions::embedded(slots, blocks, XdpMode::Auto).unwrap()).unwrap()
}

/// Ids of the programs that the kernel has.
pub(crate) fn programs() -> BTreeSet<u32> {
    loaded_programs().filter_map(Result::ok).map(|p| p.id()).collect()
}

/// Open descriptors of this process.
pub(crate) fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}
