//! What there is of the stand, for people.

use std::fmt::Write as _;

use anyhow::Result;
use lb_agent::status::BackendStatus;

use super::agent::{AGENT, SERVICE};
use super::place::Place;
use super::stand::Stand;
use super::state::State;
use crate::lab::{CLIENT, LB, programs};

/// Lines about the programs, the replicas as the balancer sees them, and how to play with it all.
///
/// # Errors
/// When the stand's state cannot be read.
pub fn status(place: &Place) -> Result<String> {
    if State::load(place)?.is_none() {
        return Ok("the stand is down: \"cargo xtask superset up\" brings it up\n".to_owned());
    }
    let Some(stand) = Stand::find(place)? else {
        return Ok("the stand's lab is gone: \"cargo xtask superset up\" makes another one\n".to_owned());
    };
    let mut text = String::new();
    // Writing to a string does not fail.
    for (name, daemon) in &stand.state.daemons {
        let runs =
            if daemon.is_running() { format!("runs, process {}", daemon.pid()) } else { "ended".to_owned() };
        let _ = writeln!(text, "{name:<14} {runs:<22} {}", stand.log(name).display());
    }
    match stand.agent_status() {
        Ok(status) => {
            for backend in status.services.iter().filter(|s| s.name == SERVICE).flat_map(|s| &s.backends) {
                text.push_str(&line(backend));
            }
        }
        Err(e) => {
            let _ = writeln!(text, "the balancer does not answer: {e:#}");
        }
    }
    let within = |host: &str| stand.state.namespaces.get(host).map_or("?", String::as_str);
    let agent = programs::agent().map_or_else(|_| AGENT.to_owned(), |path| path.display().to_string());
    let _ = write!(
        text,
        "\nSuperset, user admin, password admin:\n  ip netns exec {} curl -i http://{}/login/\n\
         The balancer:\n  ip netns exec {} {agent} status\n  {agent} drain {SERVICE}/superset-1 --wait --socket {}\n",
        within(CLIENT),
        stand.vip(),
        within(LB),
        stand.socket().display()
    );
    Ok(text)
}

fn line(backend: &BackendStatus) -> String {
    let count = |n: Option<u64>| n.map_or_else(|| "?".to_owned(), |n| n.to_string());
    format!(
        "{:<14} {:<22} {} flows, {} waiting, {} so far\n",
        backend.name,
        format!("{}{}", backend.state, if backend.in_ring { ", gets connections" } else { "" }),
        count(backend.flows),
        count(backend.waiting),
        count(backend.new_flows)
    )
}
