//! A network namespace for a thread, the loaded data path in it, and a hand in its maps.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{Array, Map, MapData, MapInfo, PerCpuArray, PerCpuValues};
use aya::programs::loaded_programs;
use aya::{Pod, util};
use lb_agent::config::XdpMode;
use lb_agent::dataplane::ebpf::{EbpfDataplane, LoadOptions};
use lb_agent::object;
use lb_tests::privilege;
use nix::sched::{CloneFlags, unshare};

/// Names of the veth pair that every namespace here has.
pub(crate) const PAIR: [&str; 2] = ["left", "right"];

/// One test at a time: some count what is open in this process.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs `test` on a thread in a network namespace of its own, which ends with the thread. Says so when the test
/// cannot run here.
pub(crate) fn in_network(name: &str, test: impl FnOnce() + Send) {
    let needs = privilege::root().and_then(|()| object::bytes().map(drop).map_err(|e| e.to_string()));
    if let Err(why) = needs {
        privilege::skipped(name, &why);
        return;
    }
    let _alone: MutexGuard<'_, ()> = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ip("link add left type veth peer name right\nlink set left up\nlink set right up\nlink set lo up\n");
            test();
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// A batch of `ip` commands, one a line, in this thread's namespace.
pub(crate) fn ip(batch: &str) {
    let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(batch.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{batch}");
}

/// Index of an interface of this thread's namespace.
pub(crate) fn ifindex(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap()
}

/// The data path, loaded and not attached.
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

/// The maps of one data path as the kernel knows them, for what only the data path writes.
pub(crate) struct Maps(Vec<MapInfo>);

impl Maps {
    /// Those of the program with this id.
    pub(crate) fn of_program(id: u32) -> Self {
        let program = loaded_programs().filter_map(Result::ok).find(|p| p.id() == id).unwrap();
        let ids = program.map_ids().unwrap().unwrap();
        Self(ids.into_iter().map(|id| MapInfo::from_id(id).unwrap()).collect())
    }

    /// Writes one value of an array.
    pub(crate) fn set<V: Pod>(&self, name: &str, index: u32, value: V) {
        let mut map = Array::<_, V>::try_from(self.map(name)).unwrap();
        map.set(index, value, 0).unwrap();
    }

    /// Reads one value of an array.
    pub(crate) fn get<V: Pod>(&self, name: &str, index: u32) -> V {
        Array::<_, V>::try_from(self.map(name)).unwrap().get(&index, 0).unwrap()
    }

    /// Writes the same value for every CPU.
    pub(crate) fn set_per_cpu<V: Pod>(&self, name: &str, index: u32, value: V) {
        let mut map = PerCpuArray::<_, V>::try_from(self.map(name)).unwrap();
        let values = vec![value; util::nr_cpus().unwrap()];
        map.set(index, PerCpuValues::try_from(values).unwrap(), 0).unwrap();
    }

    fn map(&self, name: &str) -> Map {
        // The kernel cuts names to 15 characters.
        let cut = &name[..name.len().min(15)];
        let info = self.0.iter().find(|m| m.name_as_str() == Some(cut)).unwrap();
        Map::from_map_data(MapData::from_id(info.id()).unwrap()).unwrap()
    }
}
