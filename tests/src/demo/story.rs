//! The chapters.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::config::{SERVERS, server_name};
use super::outage;
use super::screen::{Screen, count};
use super::show::Show;
use super::stage::Stage;
use super::table::flows_since;
use super::traffic::{RATE, SHARE, Traffic};
use crate::lab::{CLIENT, LB, Topology};
use crate::packet::world::Family;

/// How long the quiet part of the traffic takes.
const CALM: Duration = Duration::from_secs(6);

/// Tells all of it but the end.
pub(super) fn tell(stage: &Stage, screen: &mut Screen) -> Result<()> {
    introduce(stage, screen);
    start(stage, screen)?;
    attached(stage, screen)?;
    first_requests(stage, screen)?;
    let shared = calm(stage, screen)?;
    // Without a working balancer the rest would be a long list of the same failure.
    ensure!(shared, "requests do not get through: the rest of the demo is left out");
    outage::fall(stage, screen)?;
    outage::rise(stage, screen)
}

fn introduce(stage: &Stage, screen: &mut Screen) {
    screen.heading("Evenkeel: a load balancer inside the Linux kernel, at work");
    screen.line("");
    for line in picture(stage.topology()).lines() {
        screen.line(line);
    }
    screen.line("");
    screen.line("Each box is a network namespace of this machine, which behaves like a computer of its own.");
}

fn picture(topology: &Topology) -> String {
    let [client, vip] = [topology.client(Family::V4), topology.vip(Family::V4).ip()].map(|a| a.to_string());
    let [one, two, three] =
        [1, 2, 3].map(|n| format!("{}  {}", server_name(n), topology.backend(n, Family::V4)));
    format!(
        "                                     +-- {one}\n\
         [ client ] ------ [ balancer ] ------+-- {two}\n\
         {client:<18}{vip:<19}+-- {three}\n\
         {:<18}is the address of the service",
        ""
    )
}

fn start(stage: &Stage, screen: &mut Screen) -> Result<()> {
    screen.heading("1. Start");
    stage.start_servers()?;
    screen.claim(true, &format!("{SERVERS} web servers run and answer GET /health"));
    stage.own_vips()?;
    stage.write_config()?;
    let took = stage.start_agent()?;
    screen.claim(true, &format!("the balancer is ready {} ms after its start", took.as_millis()));
    screen.command(&format!("lb-agent run --config {}", stage.config().display()), "");
    screen.note(&format!("its log: {}", stage.log().display()));
    let servers = stage.service()?.backends;
    let states: Vec<_> = servers.iter().map(|b| format!("{} is {}", b.name, b.state)).collect();
    let healthy = servers.iter().all(|b| b.state == "healthy");
    screen.claim(healthy, &format!("it has checked the servers: {}", states.join(", ")));
    Ok(())
}

/// In the driver, as bpftool, the status and the metrics say.
fn attached(stage: &Stage, screen: &mut Screen) -> Result<()> {
    let seen = stage.lab().exec(LB, &["bpftool", "net", "show"])?;
    let seen = xdp_lines(&seen);
    let (status, metrics) = (stage.status()?, stage.metrics()?);
    let mut native = true;
    for name in stage.topology().interfaces() {
        let by_bpftool =
            seen.iter().any(|l| l.starts_with(&format!("{name}(")) && l.contains(") driver id "));
        let by_status = status.interfaces.iter().any(|i| i.name == *name && i.xdp_mode == "native");
        let labels = [("interface", *name), ("mode", "native")];
        let by_metrics = metrics.sum("lb_xdp_mode", &labels).unwrap_or_default() == 1.0;
        native &= by_bpftool && by_status && by_metrics;
    }
    let names = stage.topology().interfaces().join(" and ");
    let text = format!(
        "its program runs in the network driver of {names} (native XDP): bpftool, status and metrics agree"
    );
    screen.claim(native, &text);
    screen.command("bpftool net", &seen.join("\n"));
    Ok(())
}

/// The lines about XDP in the output of `bpftool net show`.
fn xdp_lines(output: &str) -> Vec<&str> {
    output.lines().skip_while(|l| *l != "xdp:").skip(1).take_while(|l| !l.trim().is_empty()).collect()
}

fn first_requests(stage: &Stage, screen: &mut Screen) -> Result<()> {
    screen.heading("2. First requests");
    for (family, name) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
        let url = match stage.topology().vip(family) {
            SocketAddr::V4(vip) => format!("http://{}/", vip.ip()),
            SocketAddr::V6(vip) => format!("http://[{}]/", vip.ip()),
        };
        let answer = stage
            .lab()
            .exec(CLIENT, &["curl", "--silent", "--show-error", "--fail", "--max-time", "5", &url]);
        let text = answer.unwrap_or_else(|e| format!("{e:#}"));
        let server = (1..=SERVERS).map(server_name).find(|name| text.starts_with(&format!("{name} ")));
        screen.claim(server.is_some(), &format!("one of the servers answers over {name}"));
        screen.command(&format!("curl {url}"), text.trim_end());
    }
    screen.note("(who answered, and which address the request came from: the balancer's)");
    Ok(())
}

/// Traffic, and nothing happens. Returns whether everything was answered.
fn calm(stage: &Stage, screen: &mut Screen) -> Result<bool> {
    screen.heading(&format!("3. Traffic: {RATE} new connections a second, one request each"));
    screen.line("");
    let base = stage.new_flows()?;
    let ((), traffic) = Traffic::during(stage.lab(), stage.target(), |traffic| {
        let mut show = Show::new(stage, screen, traffic, &base);
        show.go_on(CALM)?;
        show.finish()
    })?;
    let (service, tally) = (stage.service()?, traffic.tally(..));
    screen.line("");
    let (ok, attempts) = (count(tally.ok), count(tally.attempts));
    let all = tally.ok > 0 && tally.failures() == 0;
    screen.claim(all, &format!("{ok} of {attempts} requests were answered{}", tally.reasons()));

    let shares = (1..=SERVERS).map(|n| tally.answers_of(&server_name(n)) * 100 / tally.ok.max(1));
    let shares: Vec<_> = shares.collect();
    let fair = shares.iter().all(|share| SHARE.contains(share));
    let text: Vec<_> = shares.iter().map(|share| format!("{share} %")).collect();
    screen.claim(fair, &format!("every server got its share: {}", text.join(", ")));

    let counted = service.backends.iter().zip(&base);
    let counted: Vec<_> =
        counted.map(|(b, base)| (flows_since(b, *base), tally.answers_of(&b.name))).collect();
    let agree = counted.iter().all(|(flows, answers)| flows == answers);
    let text: Vec<_> =
        counted.iter().map(|(flows, answers)| format!("{} and {}", count(*flows), count(*answers))).collect();
    screen.claim(agree, &format!("balancer and client counted the same: {}", text.join(", ")));
    screen.note("(flows are connections as the balancer counts them)");
    Ok(all)
}

/// The agent's end.
pub(super) fn stop(stage: &Stage, screen: &mut Screen) -> Result<()> {
    let status = stage.stop_agent()?;
    let left = stage.lab().exec(LB, &["bpftool", "net", "show"])?;
    let gone = xdp_lines(&left).is_empty();
    screen.claim(
        status.success() && gone,
        "told to stop, the balancer took its program off the network and ended",
    );
    Ok(())
}
