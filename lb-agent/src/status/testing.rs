use std::time::{Duration, SystemTime};

use super::*;

/// Two backends, one healthy for a while, one dead; the agent started at `start`.
pub(crate) fn sample_status(start: SystemTime) -> Status {
    let backend = BackendStatus {
        name: "superset-1".into(),
        address: "10.77.0.11:8088".parse().unwrap(),
        id: Some(1),
        generation: Some(1),
        weight: 100,
        slow_start: None,
        priority: 0,
        in_ring: true,
        near: false,
        zone: None,
        state: "healthy".into(),
        health: "healthy".into(),
        since: start + Duration::from_secs(10),
        why: "2 good checks in a row".into(),
        next_hop: Some(NextHopStatus {
            interface: "eth0".into(),
            mac: "02:00:00:00:00:01".into(),
            vlans: vec![12],
        }),
        unresolved: None,
        flows: Some(7),
        waiting: Some(2),
        new_flows: Some(4711),
        drain: None,
    };
    let dead = BackendStatus {
        name: "superset-2".into(),
        state: "dead".into(),
        health: "dead".into(),
        why: "connection refused (3 in a row)".into(),
        in_ring: false,
        next_hop: None,
        unresolved: Some("no answer to ARP".into()),
        flows: None,
        waiting: None,
        new_flows: None,
        ..backend.clone()
    };
    Status {
        version: "0.1.0".into(),
        started: start,
        config: "/etc/evenkeel/lb.toml".into(),
        config_loaded: start,
        config_refused: None,
        not_ready: vec![],
        zone: None,
        interfaces: vec![InterfaceStatus {
            name: "eth0".into(),
            ifindex: 2,
            mac: "02:00:00:00:00:aa".into(),
            xdp_mode: "native".into(),
            not_native: None,
            redirect_target: Some(true),
        }],
        services: vec![ServiceStatus {
            name: "superset".into(),
            id: Some(1),
            vip: "10.77.0.100:80".parse().unwrap(),
            forwarding: "nat".into(),
            scheduler: "maglev".into(),
            standing: "healthy".into(),
            priority: Some(0),
            fail_open: false,
            backends: vec![backend, dead],
        }],
        flow_table: Some(FlowTableStatus {
            capacity: 31_744,
            free: 31_000,
            embryonic: 4,
            established: 313,
            closed: 427,
        }),
        dataplane: DataplaneStatus::default(),
    }
}
