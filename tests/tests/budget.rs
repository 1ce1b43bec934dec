//! What the verifier spends on the programs stays within `budget.toml`, on this kernel and on 6.1 (see `kernel_6_1`).

use std::collections::BTreeMap;

use lb_agent::config::XdpMode;
use lb_agent::dataplane::ebpf::{EbpfDataplane, LoadOptions};
use lb_tests::{privilege, require_data_path};
use serde::Deserialize;

#[derive(Deserialize)]
struct Budget {
    lb: u32,
    expire: u32,
}

#[test]
fn verified_instructions_stay_within_the_budget() {
    require_data_path!("verified_instructions_stay_within_the_budget");
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let kernel = release.split('.').take(2).collect::<Vec<_>>().join(".");
    let budgets: BTreeMap<String, Budget> = toml::from_str(include_str!("../budget.toml")).unwrap();
    let Some(budget) = budgets.get(&kernel) else {
        privilege::skipped(
            "verified_instructions_stay_within_the_budget",
            &format!("tests/budget.toml has no numbers for kernel {kernel}"),
        );
        return;
    };
    let options = LoadOptions::embedded(64, 2, XdpMode::Native).unwrap();
    let dataplane = EbpfDataplane::load(&options).unwrap();
    let spent = |name: &str| dataplane.verified_instructions(name).expect("the kernel counts");
    for (name, allowed) in [("lb", budget.lb), ("expire", budget.expire)] {
        let spent = spent(name);
        assert!(
            spent <= allowed,
            "{name} on {kernel}: the verifier looks at {spent} instructions, tests/budget.toml allows {allowed}; \
             find out why, or raise the number in the commit that needs it"
        );
    }
}
