//! A balancer at work.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};
use lb_agent::status::{BackendStatus, Status};

use super::{Client, Held, LIMIT};
use crate::lab::{Agent, CLIENT, LB, Lab, Servers, Settings, Topology, backend_host, programs, wait_until};
use crate::load::{Load, Pattern, Request};
use crate::metrics::Samples;
use crate::packet::world::Family;

/// A lab with a server on every backend, and the agent, ready. When a test fails its log is on stderr.
#[derive(Debug)]
pub struct Stand {
    // In this order they end.
    /// The agent.
    pub agent: Agent,
    /// The servers.
    pub servers: Servers,
    /// The network.
    pub lab: Lab,
}

/// Name of the service of a family in the agent's configuration.
#[must_use]
pub const fn service(family: Family) -> &'static str {
    match family {
        Family::V4 => "superset-v4",
        Family::V6 => "superset-v6",
    }
}

impl Stand {
    /// Three backends. Everything is ready when this returns, and every backend is healthy.
    ///
    /// # Errors
    /// When something does not start.
    pub fn new(topology: fn(u8) -> Topology) -> Result<Self> {
        // Where nobody has the VIP, the balancer must answer for it.
        let announce = topology(3) == Topology::one_arm(3);
        Self::with(topology(3), &Settings { announce, ..Settings::default() })
    }

    /// Another network, or an agent with other settings. Everything is ready as well, and in the ring unless it stands by.
    ///
    /// # Errors
    /// When something does not start.
    pub fn with(topology: Topology, settings: &Settings) -> Result<Self> {
        let lab = Lab::new(topology)?;
        if settings.xdp_mode == "generic" {
            lab.without_queues()?;
        }
        let servers = Servers::start(&lab)?;
        Self::over(lab, servers, settings)
    }

    /// The same in a network that has its servers already.
    ///
    /// # Errors
    /// When the agent does not start, or a server is not healthy.
    pub fn over(lab: Lab, servers: Servers, settings: &Settings) -> Result<Self> {
        let topology = *lab.topology();
        let agent = Agent::start(&lab, &settings.text(&topology))?;
        let stand = Self { agent, servers, lab };
        for family in Family::BOTH {
            for n in (1..=topology.backends).filter(|n| !settings.absent.contains(n)) {
                stand.wait_for(family, n, "is healthy", |b| {
                    b.state == "healthy" && (b.in_ring || b.priority > 0)
                })?;
            }
        }
        Ok(stand)
    }

    /// The network.
    #[must_use]
    pub const fn topology(&self) -> &Topology {
        self.lab.topology()
    }

    /// What the agent says of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> Result<Status> {
        self.agent.status(&self.lab)
    }

    /// The agent's metrics.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metrics(&self) -> Result<Samples> {
        self.agent.metrics(&self.lab)
    }

    /// Runs `lb-agent` with these arguments on the balancer; gives its standard output.
    ///
    /// # Errors
    /// When its exit status is not 0.
    pub fn command(&self, arguments: &[&str]) -> Result<String> {
        let output = self.lab.output(LB, Command::new(programs::agent()?).args(arguments))?;
        ensure!(output.status.success(), "{arguments:?}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs `lb-agent` with these arguments and the agent's socket on the balancer, whatever comes of it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn ask(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(programs::agent()?);
        self.lab.output(LB, command.args(arguments).arg("--socket").arg(self.agent.socket()))
    }

    /// A load generator on the client.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn client(&self) -> Result<Client> {
        Client::new(&self.lab, CLIENT)
    }

    /// A connection that is kept, to this backend: as many are opened as it takes, 200 at most.
    ///
    /// # Errors
    /// When one cannot be opened, or none is this backend's.
    pub fn held(&self, family: Family, n: u8) -> Result<Held> {
        for _ in 0..200 {
            let held = Held::open(&self.lab, self.topology().vip(family))?;
            if held.server() == backend_host(n) {
                return Ok(held);
            }
        }
        bail!("none of 200 connections went to {}", backend_host(n))
    }

    /// Makes 150 new connections for a request each, and gives how many of them each server answered.
    ///
    /// # Errors
    /// When a single one fails.
    pub fn flawless(&self, family: Family) -> Result<BTreeMap<String, u64>> {
        let load = Load {
            target: self.topology().vip(family),
            request: Request::Get("/".to_owned()),
            pattern: Pattern::NewPerRequest { rate: 300 },
            requests: 150,
            duration: 4 * LIMIT,
            timeout: LIMIT,
        };
        let report = self.client()?.run(&load)?;
        ensure!(report.ok == load.requests, "{family:?}: {report:?}");
        Ok(report.servers)
    }

    /// Waits until the agent says this of a backend, numbered from 1.
    ///
    /// # Errors
    /// When it does not in time; what it says is in the error.
    pub fn wait_for(
        &self,
        family: Family,
        n: u8,
        what: &str,
        holds: impl Fn(&BackendStatus) -> bool,
    ) -> Result<()> {
        let (service, name) = (service(family), backend_host(n));
        let mut last = None;
        wait_until(&format!("{name} of {service} {what}"), LIMIT, || {
            last = self.status().ok().and_then(|status| backend(&status, service, &name));
            last.as_ref().is_some_and(&holds)
        })
        .with_context(|| format!("{last:?}"))?;
        Ok(())
    }

    /// What must hold whatever was done: no fault of ours was counted, what was decided is in the kernel, and nobody
    /// had to wait for a place in the flow table.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check(&self) -> Result<()> {
        let metrics = self.metrics()?;
        for (name, labels) in [
            ("lb_packets_total", [("reason", "internal")].as_slice()),
            ("lb_packets_total", &[("reason", "table-full")]),
            ("lb_packets_total", &[("reason", "resize")]),
            ("lb_packets_total", &[("reason", "unknown-port")]),
            ("lb_packets_total", &[("reason", "ip-length")]),
            ("lb_packets_total", &[("reason", "tcp-flags")]),
            ("lb_dataplane_errors_total", &[]),
            ("lb_dataplane_drift_total", &[]),
            ("lb_service_table_full_total", &[]),
            ("lb_service_reused_unrested_total", &[]),
        ] {
            let value = metrics.sum(name, labels)?;
            ensure!(value == 0.0, "{name} {labels:?} is {value}");
        }
        ensure!(metrics.sum("lb_packets_total", &[("reason", "forwarded")])? > 0.0, "nothing was forwarded");
        let status = self.status()?;
        ensure!(status.dataplane.last_error.is_none(), "{:?}", status.dataplane);
        Ok(())
    }
}

fn backend(status: &Status, service: &str, name: &str) -> Option<BackendStatus> {
    let service = status.services.iter().find(|s| s.name == service)?;
    service.backends.iter().find(|b| b.name == name).cloned()
}

impl Drop for Stand {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A test cannot do anything about a closed stderr.
            let _ = writeln!(std::io::stderr(), "the agent's log:\n{}", self.agent.log());
        }
    }
}
