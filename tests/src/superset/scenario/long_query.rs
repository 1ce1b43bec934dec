//! A query that is silent for 90 s, while another replica is killed and a SYN flood hits the VIP.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::lab::generator::Generator;
use crate::lab::{CLIENT, LB};
use crate::packet::tcp4;
use crate::packet::world::Family;
use crate::proof::Report;
use crate::superset::replica::replica_name;
use crate::superset::{Scenario, Session, Stand};

/// How long the query is silent.
pub const SILENCE: Duration = Duration::from_secs(90);
/// SYNs that nobody finishes: so many at once, so often.
const BURST: u64 = 1024;
const BURSTS: u32 = 100;
/// Their first address. Nobody is there, so nobody answers the answers.
const FORGED: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 0);
/// More than are sent: each comes from another port or address.
const NEVER_AGAIN: u64 = 1 << 28;

/// The scenario.
///
/// # Errors
/// When the query cannot be begun, or the replica not be killed.
pub fn prove(stand: &mut Stand, silence: Duration) -> Result<Report> {
    let session = Session::log_in(stand)?;
    let database = session.database()?;
    let begun = Instant::now();
    let query = session.start_query(database, &format!("select pg_sleep({})", silence.as_secs()));
    let worker = stand.wait_for_query()?;
    let victim = (1..=stand.replicas()).find(|n| *n != worker).context("only one replica")?;
    stand.daemon(&replica_name(victim))?.kill()?;
    let flood = flood(stand, silence.mul_f64(0.5))?;
    let answer = session.client.wait(query)?;
    let took = begun.elapsed();
    let new = Session::log_in(stand).map(drop);
    stand.start_replica(victim)?;

    let mut report = Report::new(Scenario::LongQuery, &["count"]);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let (sent, seconds) = (flood as f64, took.as_secs_f64());
    report.row("SYNs that flooded", [Some(sent)]);
    report.row("seconds until the answer", [Some(seconds)]);
    let why = answer.as_ref().err().map(|e| format!(": {e:#}")).unwrap_or_default();
    let silence = silence.as_secs();
    report.aim(
        answer.is_ok(),
        format!(
            "the answer to {silence} s of silence came after {seconds:.1} s, through {sent:.0} SYNs{why}"
        ),
    );
    let why = new.as_ref().err().map(|e| format!(": {e:#}")).unwrap_or_default();
    report.aim(new.is_ok(), format!("another user could log in with {} dead{why}", replica_name(victim)));
    Ok(report)
}

/// Sends SYNs of forged senders to the VIP, evenly over this time. Returns how many.
fn flood(stand: &Stand, duration: Duration) -> Result<u64> {
    let lab = stand.lab();
    // What the replicas answer goes where those senders would be.
    let client = lab.topology().client(Family::V4).to_string();
    lab.exec(LB, &["ip", "route", "replace", "198.18.0.0/15", "via", &client])?;
    let mut syns = Generator::new(lab, stand.vip(), &tcp4().syn(), FORGED, NEVER_AGAIN)?;
    let begun = Instant::now();
    lab.in_ns(CLIENT, || {
        for burst in 0..BURSTS {
            std::thread::sleep((duration / BURSTS * burst).saturating_sub(begun.elapsed()));
            syns.send(BURST)?;
        }
        anyhow::Ok(u64::from(BURSTS) * BURST)
    })?
}
