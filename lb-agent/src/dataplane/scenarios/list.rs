//! The scenarios.

use super::{Scenario, World};
use crate::model::HealthState;

/// Every scenario, on a node with these two interfaces (which a kernel must have).
#[must_use]
pub fn all(ifindexes: [u32; 2]) -> Vec<Scenario> {
    let none = World::new(ifindexes);
    let one = none.clone().service("one", "10.77.0.100:80", &["10.77.0.11:8088", "10.77.0.12:8088"]);
    let three = one
        .clone()
        .backend("one", "10.77.0.13:8088")
        .service("two", "10.77.0.100:443", &["10.77.0.11:8443"])
        .service("six", "[fd77::100]:80", &["[fd77::11]:8088", "[fd77::12]:8088"]);
    let spare = three.clone().priority("10.77.0.13:8088", 1).policy("one", |p| p.min_healthy = 60);
    let zones = three.clone().node_zone(Some("a")).zone("10.77.0.11:8088", "a").zone("10.77.0.12:8088", "a");
    let zones = zones.zone("10.77.0.13:8088", "b").zone("[fd77::11]:8088", "b");
    vec![
        Scenario {
            name: "services and backends come and go",
            steps: vec![
                ("one service", one.clone()),
                ("three services", three.clone()),
                ("a backend less", three.clone().without_backend("one", "10.77.0.11:8088")),
                ("a service less", three.clone().without_service("two")),
                ("all again", three.clone()),
                ("a service without backends", one.clone().service("bare", "10.77.0.101:80", &[])),
                ("nothing", none.clone()),
            ],
        },
        Scenario {
            name: "health goes up and down",
            steps: vec![
                ("all healthy", three.clone()),
                ("one dead", three.clone().sick("10.77.0.11:8088")),
                ("two dead", three.clone().sick("10.77.0.11:8088").sick("10.77.0.12:8088")),
                (
                    "fail open",
                    three.clone().sick("10.77.0.11:8088").sick("10.77.0.12:8088").sick("10.77.0.13:8088"),
                ),
                ("one back", three.clone().sick("10.77.0.11:8088").sick("10.77.0.13:8088")),
                ("all back", three.clone()),
            ],
        },
        Scenario {
            name: "priorities and the floor",
            steps: vec![
                ("all usable", spare.clone()),
                ("the last of the first dead", spare.clone().sick("10.77.0.11:8088").sick("10.77.0.12:8088")),
                ("below the floor", spare.clone().state("10.77.0.12:8088", HealthState::Suspect)),
                ("a suspect one dies", spare.clone().sick("10.77.0.12:8088")),
                ("fail open", {
                    let none = spare.clone().sick("10.77.0.11:8088").sick("10.77.0.12:8088");
                    none.sick("10.77.0.13:8088")
                }),
                ("all back", spare),
            ],
        },
        Scenario {
            name: "zones",
            steps: vec![
                ("two of three near", zones.clone()),
                ("one of two near", zones.clone().sick("10.77.0.11:8088")),
                ("none near", zones.clone().sick("10.77.0.11:8088").sick("10.77.0.12:8088")),
                ("near again", zones.clone()),
                ("all near", zones.clone().without_backend("one", "10.77.0.13:8088")),
                ("a service with a near ring goes", zones.clone().without_service("one")),
                ("no preference", zones.policy("one", |p| p.prefer_zone = false)),
            ],
        },
        Scenario {
            name: "ids are used again",
            steps: vec![
                ("first owner", one.clone()),
                ("nobody", none.clone()),
                (
                    "another service",
                    none.clone().service("two", "10.77.0.101:80", &["10.77.0.21:80", "10.77.0.22:80"]),
                ),
                ("first owner returns", one.clone()),
                (
                    "backends change places",
                    none.clone().service("one", "10.77.0.100:80", &["10.77.0.31:8088"]),
                ),
                ("once more", one.clone()),
            ],
        },
        Scenario {
            name: "a VIP changes",
            steps: vec![
                ("before", three.clone()),
                (
                    "other address",
                    three.clone().without_service("one").service(
                        "one",
                        "10.77.0.102:80",
                        &["10.77.0.11:8088"],
                    ),
                ),
                (
                    "other port",
                    three.clone().without_service("one").service(
                        "one",
                        "10.77.0.102:81",
                        &["10.77.0.11:8088"],
                    ),
                ),
                ("announced", three.clone().announced()),
                ("back", three.clone()),
            ],
        },
        Scenario {
            name: "next hops and interfaces",
            steps: vec![
                ("all known", three.clone()),
                ("one unknown", three.clone().unresolved("10.77.0.11")),
                (
                    "none known",
                    three.clone().unresolved("10.77.0.11").unresolved("10.77.0.12").unresolved("10.77.0.13"),
                ),
                ("other side", three.clone().by_interface(1)),
                ("only one interface", three.clone().interfaces(&[1]).by_interface(0)),
                ("the other interface instead", three.clone().interfaces(&[0]).by_interface(0)),
                ("both", three.clone()),
            ],
        },
        Scenario {
            name: "weights, schedulers and SNAT addresses",
            steps: vec![
                ("equal", three.clone()),
                ("weights", three.clone().weight("10.77.0.11:8088", 300)),
                ("round robin", three.clone().round_robin("one")),
                ("round robin by weight", three.clone().round_robin("one").weight("10.77.0.12:8088", 7)),
                ("more addresses", three.clone().snat(&["10.77.0.1/32", "10.77.1.0/30", "fd77::1/128"])),
                ("fewer addresses", three.clone().snat(&["10.77.1.0/31", "fd77::1/128"])),
                ("equal again", three),
            ],
        },
    ]
}
