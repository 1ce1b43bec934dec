//! End to end: an interface that swallows what is forwarded to it is found, and named.
//!
//! A veth takes no redirected frame while its other end has neither an XDP program nor GRO.
#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::time::Duration;

use lb_tests::e2e::{LIMIT, Stand};
use lb_tests::lab::{LB, SWITCH, Settings, Topology, wait_until};
use lb_tests::load::{Load, Pattern, Request};
use lb_tests::packet::world::Family;
use lb_tests::require_agent;

const REQUESTS: u64 = 10;
/// Long enough for an answer, if one came.
const SHORT: Duration = Duration::from_millis(700);
const WARNING: &str = "frames that are forwarded to this interface are lost";
const OVER: &str = "what is forwarded to this interface is not lost any more";

/// How many of some requests were answered within this time each.
fn answered(stand: &Stand, timeout: Duration) -> u64 {
    let load = Load {
        target: stand.topology().vip(Family::V4),
        request: Request::Get("/".to_owned()),
        pattern: Pattern::NewPerRequest { rate: 100 },
        requests: REQUESTS,
        duration: LIMIT,
        timeout,
    };
    stand.client().unwrap().run(&load).unwrap().ok
}

/// GRO at the other end of the interface that leads to the switch.
fn gro(stand: &Stand, on: &str) {
    stand.lab.exec(SWITCH, &["ethtool", "-K", LB, "gro", on]).unwrap();
}

/// What status and metrics say of an interface.
fn takes_redirects(stand: &Stand, interface: &str) -> Option<bool> {
    let status = stand.status().unwrap();
    status.interfaces.iter().find(|i| i.name == interface).unwrap().redirect_target
}

fn wait(stand: &Stand, interface: &str, wanted: Option<bool>) {
    let what = format!("{interface} takes redirected frames: {wanted:?}");
    wait_until(&what, LIMIT, || takes_redirects(stand, interface) == wanted).unwrap();
    let metric = stand.metrics().unwrap().sum("lb_interface_redirect_target", &[("interface", interface)]);
    assert_eq!(metric.ok(), wanted.map(|takes| if takes { 1.0 } else { 0.0 }));
}

/// How often a line about an interface was logged.
fn logged(stand: &Stand, text: &str, interface: &str) -> usize {
    let named = format!("interface=\"{interface}\"");
    stand.agent.log().lines().filter(|line| line.contains(text) && line.contains(&named)).count()
}

fn forwarded(stand: &Stand) -> f64 {
    stand.metrics().unwrap().sum("lb_packets_total", &[("reason", "forwarded")]).unwrap()
}

#[test]
fn an_interface_that_swallows_frames_is_named_until_it_does_not() {
    require_agent!("an_interface_that_swallows_frames_is_named_until_it_does_not");
    let stand = Stand::new(Topology::two_arm).unwrap();
    wait(&stand, "eth0", Some(true));
    wait(&stand, "eth1", Some(true));
    assert_eq!(answered(&stand, LIMIT), REQUESTS);

    gro(&stand, "off");
    wait(&stand, "eth1", Some(false));
    wait(&stand, "eth0", Some(true));
    // Without this nobody would know: the checks take another way, and what is lost counts as forwarded.
    let before = forwarded(&stand);
    assert_eq!(answered(&stand, SHORT), 0);
    assert!(forwarded(&stand) >= before + REQUESTS as f64);
    let status = stand.status().unwrap();
    assert!(status.is_ready() && status.services[0].backends.iter().all(|b| b.state == "healthy"));
    wait_until("it is logged", LIMIT, || logged(&stand, WARNING, "eth1") == 1).unwrap();
    assert!(stand.agent.log().contains("ethtool -K PEER gro on"), "{}", stand.agent.log());
    let people = stand.command(&["status"]).unwrap();
    let line = people.lines().find(|line| line.starts_with("interface eth1: ")).unwrap();
    assert!(line.contains("LOSES what is forwarded to it"), "{people}");

    gro(&stand, "on");
    wait(&stand, "eth1", Some(true));
    assert_eq!(answered(&stand, LIMIT), REQUESTS);
    wait_until("its end is logged", LIMIT, || logged(&stand, OVER, "eth1") == 1).unwrap();
    assert_eq!((logged(&stand, WARNING, "eth1"), logged(&stand, WARNING, "eth0")), (1, 0));
}

/// On a veth also what leaves as it came is redirected.
#[test]
fn one_arm_on_a_veth_swallows_frames_too() {
    require_agent!("one_arm_on_a_veth_swallows_frames_too");
    let stand = Stand::new(Topology::one_arm).unwrap();
    wait(&stand, "eth0", Some(true));
    gro(&stand, "off");
    wait(&stand, "eth0", Some(false));
    assert_eq!(answered(&stand, SHORT), 0);
    gro(&stand, "on");
    wait(&stand, "eth0", Some(true));
    assert_eq!(answered(&stand, LIMIT), REQUESTS);
}

/// The generic hook sends by the network stack.
#[test]
fn generic_mode_needs_nothing_of_the_peer() {
    require_agent!("generic_mode_needs_nothing_of_the_peer");
    let settings = Settings { xdp_mode: "generic", ..Settings::default() };
    let stand = Stand::with(Topology::two_arm(1), &settings).unwrap();
    gro(&stand, "off");
    for interface in ["eth0", "eth1"] {
        wait(&stand, interface, None);
    }
    assert_eq!(answered(&stand, LIMIT), REQUESTS);
}
