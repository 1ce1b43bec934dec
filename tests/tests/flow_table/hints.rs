//! The map of hints, which nobody but the data path writes otherwise.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};

use aya::maps::{Array, Map, MapData, MapInfo};
use aya::programs::loaded_programs;
use lb_common::hint::Hint;

use crate::table::Table;

/// The hints of this table: one of the maps that its program uses.
pub(crate) fn of(table: &Table) -> Array<MapData, Hint> {
    let program = table.lb.dataplane().packet_program().expect("a descriptor");
    let facts = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_fd().as_raw_fd())).unwrap();
    let id = facts.lines().find_map(|line| line.strip_prefix("prog_id:")).expect("the program's id");
    let id: u32 = id.trim().parse().unwrap();
    let info = loaded_programs().filter_map(Result::ok).find(|p| p.id() == id).expect("the program");
    for id in info.map_ids().unwrap().expect("its maps") {
        let Ok(map) = MapInfo::from_id(id) else { continue };
        if map.name_as_str() == Some("HINTS") {
            return Array::try_from(Map::Array(MapData::from_id(id).unwrap())).unwrap();
        }
    }
    panic!("the program has no map HINTS");
}
