//! Rings, and the way from a decision about a backend's health to the maps.

use std::sync::Arc;

use anyhow::{Context, Result};
use lb_agent::config::XdpMode;
use lb_agent::dataplane::ebpf::{EbpfDataplane, LoadOptions};
use lb_agent::dataplane::scenarios::World;
use lb_agent::dataplane::{Dataplane, Op, converge};
use lb_agent::maglev::{Member, maglev};
use lb_agent::plan::{Plan, plan};
use lb_agent::reconcile::reconcile;

use super::{add_times, timed};
use crate::report::{Report, progress};

/// Of the flow table: it plays no part here.
const SLOTS: u32 = 1024;
const LOOPBACK: u32 = 1;
const SERVICE: &str = "superset";

/// All numbers of backends.
pub(super) fn measure(sizes: &[u32], rounds: usize, report: &mut Report) -> Result<()> {
    for &backends in sizes {
        progress(&format!("rings of {backends} backends"));
        build(backends, rounds, report)?;
        change(backends, rounds, report)?;
    }
    Ok(())
}

fn build(backends: u32, rounds: usize, report: &mut Report) -> Result<()> {
    let mut times = Vec::new();
    for round in 0..rounds {
        // Other backends each time: an identity is a hash.
        let member = |n: u32| Member {
            identity: (u64::from(n) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(27) ^ round as u64,
            id: u16::try_from(n + 1).unwrap_or(u16::MAX),
            weight: 100,
        };
        let members: Vec<Member> = (0..backends).map(member).collect();
        times.push(timed(|| Ok(maglev(&members)))?.0);
    }
    add_times(report, format!("build a ring, {backends} backends"), &times);
    Ok(())
}

/// Every second round a backend is dead, and healthy in those between.
fn change(backends: u32, rounds: usize, report: &mut Report) -> Result<()> {
    let mut dataplane = EbpfDataplane::load(&LoadOptions::embedded(SLOTS, 1, XdpMode::Auto)?)?;
    let address = |n: u32| format!("10.80.{}.{}:8088", n >> 8, n & 0xff);
    let mut world = World::new([LOOPBACK, u32::MAX]).interfaces(&[0]).snat(&["10.78.0.1/32"]);
    world = world.service(SERVICE, "10.77.0.100:80", &[]);
    for n in 0..backends {
        world = world.backend(SERVICE, &address(n));
    }
    let worlds = [world.clone(), world.sick(&address(0))];
    let mut current = plan(&worlds[0].inputs(), &Plan::default())?;
    converge(&mut dataplane, &current.tables)?;

    let (mut swaps, mut changes) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let world = worlds.get((round + 1) % 2).context("there are two worlds")?;
        let (time, next) = timed(|| {
            let next = plan(&world.inputs(), &current)?;
            dataplane.apply_all(&reconcile(&current.tables, &next.tables))?;
            Ok(next)
        })?;
        changes.push(time);
        let (key, ring) = next.tables.rings.first_key_value().context("the service has a ring")?;
        let op = Op::SetRing(*key, Arc::clone(ring));
        swaps.push(timed(|| Ok(dataplane.apply(&op)?))?.0);
        current = next;
    }
    add_times(report, format!("swap a ring, {backends} backends"), &swaps);
    add_times(report, format!("health decision to maps less batching, {backends} backends"), &changes);
    Ok(())
}
