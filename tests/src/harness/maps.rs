//! A hand in a data path's maps, for what only the data path writes.

use aya::maps::{Array, Map, MapData, MapInfo, MapType, PerCpuArray, PerCpuValues};
use aya::{Pod, util};
use lb_agent::dataplane::ebpf::EbpfDataplane;

use super::bytes;

/// `BPF_F_RDONLY_PROG`: programs do not write the map. Interfaces have it by themselves.
const READ_ONLY: u32 = 1 << 7;

/// The maps of one data path as the kernel knows them.
///
/// All of its methods panic when there is no such map, index or type.
pub struct Maps(Vec<MapInfo>);

impl Maps {
    /// Those of this data path, but for the constants of its programs.
    ///
    /// # Panics
    /// When the kernel does not say which they are.
    #[must_use]
    pub fn of(dataplane: &EbpfDataplane) -> Self {
        let mut maps = dataplane.map_infos().unwrap_or_else(|e| panic!("{e}"));
        maps.retain(|map| map.map_flags() & READ_ONLY == 0 || map.map_type().ok() != Some(MapType::Array));
        Self(maps)
    }

    /// Names of those with something in them besides zeros.
    ///
    /// # Panics
    /// When the kernel does not say.
    #[must_use]
    pub fn used(&self) -> Vec<&str> {
        let is_used = |map: &&MapInfo| !bytes::is_clear(map).unwrap_or_else(|e| panic!("{e:#}"));
        self.iter().filter(is_used).filter_map(MapInfo::name_as_str).collect()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &MapInfo> {
        self.0.iter()
    }

    /// Writes one value of an array.
    ///
    /// # Panics
    /// See [`Maps`].
    pub fn set<V: Pod>(&self, name: &str, index: u32, value: V) {
        self.array(name).set(index, value, 0).unwrap_or_else(|e| panic!("{name} {index}: {e}"));
    }

    /// Reads one value of an array.
    ///
    /// # Panics
    /// See [`Maps`].
    #[must_use]
    pub fn get<V: Pod>(&self, name: &str, index: u32) -> V {
        self.array(name).get(&index, 0).unwrap_or_else(|e| panic!("{name} {index}: {e}"))
    }

    /// Writes the same value for every CPU.
    ///
    /// # Panics
    /// See [`Maps`].
    pub fn set_per_cpu<V: Pod>(&self, name: &str, index: u32, value: V) {
        let mut map =
            PerCpuArray::<_, V>::try_from(self.map(name)).expect("a map with a value for every CPU");
        let values = vec![value; util::nr_cpus().expect("a number of CPUs")];
        let values = PerCpuValues::try_from(values).expect("a value for every CPU");
        map.set(index, values, 0).unwrap_or_else(|e| panic!("{name} {index}: {e}"));
    }

    fn array<V: Pod>(&self, name: &str) -> Array<MapData, V> {
        Array::try_from(self.map(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    fn map(&self, name: &str) -> Map {
        // The kernel cuts names to 15 characters.
        let cut = &name[..name.len().min(15)];
        let info = self.iter().find(|map| map.name_as_str() == Some(cut));
        let info = info.unwrap_or_else(|| panic!("there is no map {name}"));
        let data = MapData::from_id(info.id()).and_then(Map::from_map_data);
        data.unwrap_or_else(|e| panic!("{name}: {e}"))
    }
}
