//! Queries that are silent for five minutes, while a million other flows come and go and SYNs of forged senders flood the table.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lb_common::tcp::{ACK, PSH};

use super::arena::{Arena, Contender};
use super::{Name, Report, progress};
use crate::e2e::{Held, LIMIT, service};
use crate::lab::CLIENT;
use crate::lab::generator::Generator;
use crate::packet::tcp4;
use crate::packet::world::Family::V4;

/// How long a query is silent, and how many are.
const SILENCE: Duration = Duration::from_secs(300);
const QUERIES: usize = 20;
/// Connections that wait for nothing meanwhile.
const IDLE: usize = 20;
/// Flows that come and go, a group at a time: a SYN each, a request each, a reset each.
const FLOWS: u64 = 1_048_576;
const GROUP: u64 = 512;
/// SYNs that nobody finishes, for each group.
const FLOOD: u64 = 1024;
/// The first client addresses of both: outside of the lab, so that nobody answers the answers.
const GOING: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const FORGED: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 0);
/// More than are sent: each comes from another port.
const NEVER_AGAIN: u64 = 1 << 28;

/// The proof.
///
/// # Errors
/// When something does not start.
pub fn prove() -> Result<Report> {
    progress("silence: 300 s");
    let mut arena = Arena::new(Contender::Evenkeel("least-waiting"), 3)?;
    arena.lab().without_queues()?;
    // Answers to the generator's clients go where those would be.
    let client = arena.lab().topology().client(V4).to_string();
    arena.lab().exec(crate::lab::LB, &["ip", "route", "add", "198.18.0.0/15", "via", &client])?;
    let mut queries = (0..QUERIES).map(|_| ask(&arena)).collect::<Result<Vec<_>>>()?;
    let mut idle = (0..IDLE).map(|_| Held::open(arena.lab(), arena.vip())).collect::<Result<Vec<_>>>()?;
    let asked = Instant::now();
    let sent = traffic(&mut arena, asked)?;
    let answered = queries.iter_mut().filter_map(|query| answer(query).ok()).filter(|whole| *whole).count();
    let took = asked.elapsed();
    let alive = idle.iter_mut().filter_map(|connection| connection.ask().ok()).count();
    report(&arena, sent, answered, alive, took)
}

/// Connects and asks for a page that takes [`SILENCE`].
fn ask(arena: &Arena) -> Result<TcpStream> {
    let vip = arena.vip();
    let stream = arena.lab().in_ns(CLIENT, || TcpStream::connect_timeout(&vip, LIMIT))?;
    let mut stream = stream.with_context(|| format!("connect to {vip}"))?;
    let path = format!("/sleep?ms={}", SILENCE.as_millis());
    write!(stream, "GET {path} HTTP/1.1\r\nHost: vip\r\nConnection: close\r\n\r\n")
        .context("send a query")?;
    stream.set_read_timeout(Some(SILENCE + LIMIT)).context("set a timeout")?;
    Ok(stream)
}

fn answer(query: &mut TcpStream) -> std::io::Result<bool> {
    let mut answer = Vec::new();
    query.read_to_end(&mut answer)?;
    Ok(answer.starts_with(b"HTTP/1.1 200"))
}

/// Sends everything else, evenly over the silence. Returns how many flows came, and how many SYNs flooded.
fn traffic(arena: &mut Arena, begun: Instant) -> Result<(u64, u64)> {
    let (lab, vip) = (arena.lab(), arena.vip());
    let generator = |packet, clients, flows| Generator::new(lab, vip, &packet, clients, flows);
    let mut syns = generator(tcp4().syn(), GOING, FLOWS)?;
    let mut requests = generator(tcp4().tcp_flags(ACK | PSH).seq(1).ack(1).payload(b"GO"), GOING, FLOWS)?;
    let mut resets = generator(tcp4().rst().seq(3), GOING, FLOWS)?;
    let mut flood = generator(tcp4().syn(), FORGED, NEVER_AGAIN)?;
    let groups = FLOWS / GROUP;
    // Over a little before the queries are.
    let each = (SILENCE - Duration::from_secs(10)) / u32::try_from(groups).context("number of groups")?;
    let mut done = 0;
    lab.in_ns(CLIENT, || -> Result<()> {
        while done < groups {
            let due = each * u32::try_from(done).unwrap_or(u32::MAX);
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
            syns.send(GROUP)?;
            flood.send(FLOOD)?;
            requests.send(GROUP)?;
            resets.send(GROUP)?;
            done += 1;
        }
        Ok(())
    })??;
    Ok((done * GROUP, done * FLOOD))
}

#[expect(clippy::cast_precision_loss, reason = "counts of flows are far below 2^53")]
fn report(
    arena: &Arena,
    (flows, flood): (u64, u64),
    answered: usize,
    alive: usize,
    took: Duration,
) -> Result<Report> {
    let mut report = Report::new(Name::Silence, &["count"]);
    let stand = arena.evenkeel().context("no agent")?;
    let metrics = stand.metrics()?;
    let labels = [("service", service(V4))];
    let counted = metrics.sum("lb_service_new_flows_total", &labels)?;
    let recycled = metrics.sum("lb_service_recycled_embryonic_total", &labels)?;
    for (name, count) in [
        ("flows that came and went", flows as f64),
        ("SYNs that flooded", flood as f64),
        ("new flows by the balancer's count", counted),
        ("unfinished handshakes that made room for others", recycled),
        ("slots of the flow table", stand.status()?.flow_table.map_or(0.0, |table| table.capacity as f64)),
    ] {
        report.row(name, [Some(count)]);
    }
    let seconds = took.as_secs_f64();
    report.aim(
        answered == QUERIES,
        format!("{answered} of {QUERIES} queries were answered after {seconds:.0} s"),
    );
    report.aim(alive == IDLE, format!("{alive} of {IDLE} idle connections were alive then"));
    report.aim(counted >= 1e6, format!("{counted:.0} new flows, aim at least a million"));
    report.aim(recycled > 0.0, "the table was full of unfinished handshakes");
    Ok(report)
}
