//! What is measured: the stages that have to be set, and the scenarios that are played on each.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use lb_agent::dataplane::Tables;
use lb_agent::dataplane::scenarios::World;
use lb_agent::model::Scheduler;
use lb_agent::plan::{Plan, plan};
use lb_tests::packet::world::{Family, VIP};

use super::frames::{Shape, nth};
use super::part::Part;

/// How much dearer a hit may be with a thousand services or backends.
pub(super) const FLAT: f64 = 1.15;
/// First and last SNAT port: 31,744, the default.
const PORTS: (u16, u16) = (1024, 32_767);
/// Index of the loopback interface, which test runs come in by.
pub(super) const LOOPBACK: u32 = 1;

/// State of a program before it is measured.
pub(super) struct Stage {
    pub(super) family: Family,
    /// SNAT addresses, a power of two; the table has as many times 31,744 slots.
    pub(super) blocks: u32,
    pub(super) services: u32,
    /// Of each service.
    pub(super) backends: u32,
    pub(super) fill: Fill,
    pub(super) rows: Vec<Row>,
    /// Without which the product is measured, too.
    pub(super) parts: &'static [Part],
}

/// What is in the flow table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fill {
    /// Nothing, at the beginning of each round.
    Nothing,
    /// Embryonic flows everywhere.
    Embryonic,
    /// This power of two of established flows.
    Established(u32),
}

/// A scenario.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) shape: Shape,
    /// Of the reference's time, at most.
    pub(super) aim: Option<f64>,
    /// The scenario that this one should cost the same as.
    pub(super) flat_to: Option<String>,
}

impl Stage {
    /// A table of so many blocks in which every slot is an embryonic flow's.
    pub(super) const fn full(family: Family, blocks: u32, rows: Vec<Row>) -> Self {
        Self { family, blocks, services: 1, backends: 3, fill: Fill::Embryonic, rows, parts: &[] }
    }

    /// Slots of the flow table.
    pub(super) fn slots(&self) -> u32 {
        self.blocks * u32::from(PORTS.1 - PORTS.0 + 1)
    }

    /// Flows that a table must hold which is not tied to ports: no more than it needs, to be well filled.
    pub(super) fn flows(&self) -> u32 {
        match self.fill {
            Fill::Established(bits) => (2 << bits).max(MIN_FLOWS),
            Fill::Nothing | Fill::Embryonic => self.slots(),
        }
    }

    /// Flows over which packets are spread, as a power of two.
    pub(super) const fn flow_bits(&self) -> u32 {
        match self.fill {
            Fill::Established(bits) => bits,
            Fill::Nothing | Fill::Embryonic => UNLIMITED_BITS,
        }
    }

    /// In a few words.
    pub(super) fn describe(&self) -> String {
        let fill = match self.fill {
            Fill::Nothing => "no flows".to_owned(),
            Fill::Embryonic => "embryonic flows only".to_owned(),
            Fill::Established(bits) => format!("{} established flows", 1u64 << bits),
        };
        let (slots, services, backends) = (self.slots(), self.services, self.backends);
        format!("{:?}, {slots} slots, {fill}, {services} services of {backends} backends", self.family)
    }

    /// What the agent would write for it, without a part.
    pub(super) fn tables(&self, left_out: Option<Part>) -> Result<Tables> {
        let host_bits = self.blocks.ilog2();
        let snat = match self.family {
            Family::V4 => format!("10.78.0.0/{}", 32 - host_bits),
            Family::V6 => format!("fd78::/{}", 128 - host_bits),
        };
        // One interface: everything leaves by the one that it came in by.
        let mut world = World::new([LOOPBACK, u32::MAX]).interfaces(&[0]).snat(&[&snat]);
        world.node.snat_ports = PORTS;
        // A frame that is answered would not be the next run's: what counts is the way to the decision.
        world.node.reset_rate = 0;
        for service in 0..self.services {
            let vip = SocketAddr::new(nth(VIP.ip(self.family), service), VIP.port).to_string();
            let name = format!("s{service}");
            world = world.service(&name, &vip, &[]);
            for backend in 0..self.backends {
                world = world.backend(&name, &backend_socket(self.family, backend));
            }
        }
        for service in &mut world.services {
            // As in a configuration that says nothing about it.
            service.scheduler = Scheduler::LeastWaiting;
            if let Some(part) = left_out {
                part.leave_out(service);
            }
        }
        Ok(plan(&world.inputs(), &Plan::default())?.tables)
    }
}

/// Least size of a flow table: an LRU map keeps some of it for each CPU.
const MIN_FLOWS: u32 = 1 << 15;
/// Flows that never come back: 2^24.
const UNLIMITED_BITS: u32 = 24;

fn backend_socket(family: Family, n: u32) -> String {
    let base: IpAddr = match family {
        Family::V4 => IpAddr::from([10, 80, 0, 1]),
        Family::V6 => IpAddr::from([0xfd80, 0, 0, 0, 0, 0, 0, 1]),
    };
    SocketAddr::new(nth(base, n), 8088).to_string()
}

/// Every stage, smaller ones with `quick`.
pub(super) fn all(quick: bool) -> Vec<Stage> {
    Family::BOTH.into_iter().flat_map(|family| of_family(family, quick)).collect()
}

fn of_family(family: Family, quick: bool) -> Vec<Stage> {
    let (large, many) = if quick { (2, 100) } else { (32, 1000) };
    let (middle_bits, middle_blocks, middle) = if quick { (10, 1, "1 k") } else { (16, 4, "64 k") };
    let v = match family {
        Family::V4 => "v4",
        Family::V6 => "v6",
    };
    let row = |name: String, shape, aim| Row { name: format!("{v} {name}"), shape, aim, flat_to: None };
    let hits = |flows: &str| {
        vec![
            row(format!("ACK of a client, {flows}"), Shape::Ack, Some(0.6)),
            row(format!("data of a client, {flows}"), Shape::Data, Some(0.6)),
        ]
    };
    let replies = |flows: &str| row(format!("reply, {flows}"), Shape::Reply, Some(0.4));
    let stage = |fill, blocks, services, backends, rows| Stage {
        family,
        blocks,
        services,
        backends,
        fill,
        rows,
        parts: &[],
    };
    let flows = format!("{middle} flows");

    let mut one = hits("1 flow");
    one.push(replies("1 flow"));
    let mut some = hits(&flows);
    some.push(replies(&flows));
    some.push(row("no SYN, unknown to a service".into(), Shape::Stray, None));
    some.push(row("for no service".into(), Shape::NoService, None));
    let wide = |what: &str| {
        let name = format!("{v} data of a client, {flows}");
        let row = row(format!("data of a client, {flows}, {what}"), Shape::Data, Some(0.6));
        vec![Row { flat_to: Some(name), ..row }]
    };

    let new = vec![row("SYN, new flow".into(), Shape::Syn, Some(0.4))];
    let mut out = vec![
        Stage { parts: &[Part::Comparing, Part::Retries], ..stage(Fill::Nothing, large, 1, 3, new) },
        Stage::full(family, large, vec![row("SYN, table full of embryonic".into(), Shape::Syn, Some(0.4))]),
        Stage { parts: &[Part::Requests], ..stage(Fill::Established(0), 1, 1, 3, one) },
        Stage {
            parts: &[Part::Requests],
            ..stage(Fill::Established(middle_bits), middle_blocks, 1, 3, some)
        },
    ];
    if !quick {
        out.push(stage(Fill::Established(20), 64, 1, 3, hits("1 M flows")));
    }
    out.push(stage(
        Fill::Established(middle_bits),
        middle_blocks,
        1,
        many,
        wide(&format!("{many} backends")),
    ));
    out.push(stage(
        Fill::Established(middle_bits),
        middle_blocks,
        many,
        3,
        wide(&format!("{many} services")),
    ));
    out
}
