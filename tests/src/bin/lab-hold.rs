//! Makes a lab, prints the names of its namespaces, and keeps it until Ctrl-C.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use anyhow::{Result, ensure};
use clap::Parser;
use lb_tests::lab::{CLIENT, LB, Lab, SWITCH, Topology, backend_host};
use lb_tests::packet::world::Family;

/// A network of namespaces to play with: `ip netns exec NAME …`.
#[derive(Parser)]
struct Arguments {
    /// 1: everything on one segment. 2: the balancer is the client's router.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    arms: u8,
    /// How many backends.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=80))]
    backends: u8,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(nix::unistd::geteuid().is_root(), "namespaces need root: run it with sudo");
    let topology = match arguments.arms {
        1 => Topology::one_arm(arguments.backends),
        _ => Topology::two_arm(arguments.backends),
    };
    let lab = Lab::new(topology)?;
    let hosts = [CLIENT, LB, SWITCH].map(str::to_owned).into_iter();
    for host in hosts.chain((1..=arguments.backends).map(backend_host)) {
        println!("{host}: {}", lab.namespace(&host)?);
    }
    println!();
    for family in Family::BOTH {
        println!("VIP {}, SNAT {}", topology.vip(family), topology.snat(family));
    }
    loop {
        std::thread::park();
    }
}
