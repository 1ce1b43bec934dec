//! A SYN flood recycles its own slots.

use lb_common::flow::State;
use lb_tests::packet::tcp;
use lb_tests::packet::world::{Family, VIP};
use lb_tests::require_data_path;

use crate::cpus::on_each_cpu;
use crate::table::{Conn, Table, client};

/// Flows that must survive.
const ESTABLISHED: u32 = 20_000;
/// SYNs, each of a tuple of its own.
const SYNS: u32 = 1_000_000;

/// Clients of the flood are not those of the flows.
const FLOODERS: [u8; 2] = [172, 16];

#[test]
fn a_syn_flood_evicts_no_established_flow() {
    require_data_path!("a_syn_flood_evicts_no_established_flow");
    // Two addresses of IPv4: 63,488 slots.
    let table = Table::with(31_744, |world| world.node.snat.push("10.77.0.3/32".parse().unwrap()));
    let conns: Vec<Conn> = (0..ESTABLISHED).map(|n| table.establish(client(n))).collect();
    assert_eq!(table.used().len(), conns.len());

    on_each_cpu(|cpu| flood(&table, cpu));

    let service = table.service(Family::V4);
    assert_eq!(service.new_flows + service.table_full, u64::from(ESTABLISHED + SYNS));
    assert!(service.recycled_embryonic > u64::from(SYNS / 2), "{service:?}");
    for conn in &conns {
        assert_eq!(table.state(conn), State::Established);
        table.send(conn, conn.of_client());
        table.reply(conn, conn.of_backend());
    }
    table.check_books();
}

/// This CPU's half of the SYNs. Their checksums are wrong, which is not the data path's business.
fn flood(table: &Table, cpu: u32) {
    let dataplane = table.lb.dataplane();
    let mut frame = tcp(Family::V4).from(client(0)).to(VIP).syn().syn_options().build();
    frame[26..28].copy_from_slice(&FLOODERS);
    for n in (cpu..SYNS).step_by(2) {
        let [high, middle, low] = [n >> 20, n >> 12 & 0xff, n & 0xfff];
        frame[28..30].copy_from_slice(&[u8::try_from(high).unwrap(), u8::try_from(middle).unwrap()]);
        frame[34..36].copy_from_slice(&u16::try_from(1024 + low).unwrap().to_be_bytes());
        let trial = dataplane.trial(&frame).unwrap_or_else(|e| panic!("{e}"));
        assert!(matches!(trial.verdict, 1 | 3), "{trial:?}");
    }
}
