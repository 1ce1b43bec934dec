//! Networks of namespaces: a client, a balancer and backends, IPv4 and IPv6 at once.
//!
//! ```text
//! one arm:   client ─┐                      two arms:  client ── lb ── switch ─┬─ backend-1
//!            lb ─────┼─ switch                                                 └─ backend-2 …
//!            backend-1 … ┘                 (and services, if wanted, beside the backends)
//! line:      client ── lb ── backend-1, which has the addresses of all backends
//! ```
//!
//! Needs root, `ip`, `tc` and `ethtool`. Everything is gone when the [`Lab`] is dropped, after a panic, and
//! after SIGINT, SIGTERM or SIGHUP; `cargo xtask clean-lab` removes what a killed process left.

mod agent;
mod cleanup;
pub mod generator;
mod namespace;
pub mod object;
mod process;
pub mod programs;
pub mod rivals;
mod servers;
mod topology;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_agent::admin::client;

pub(crate) use agent::with_socket;
pub use agent::{Agent, Settings};
pub use cleanup::is_ending;
pub(crate) use cleanup::remove as remove_namespace;
use namespace::Namespace;
pub use process::Process;
pub use servers::Servers;
use topology::Wiring;
pub use topology::{Arms, Topology, backend_host};

/// Host name of the client.
pub const CLIENT: &str = "client";
/// Host name of the balancer.
pub const LB: &str = "lb";
/// Host name of the switch: a bridge `br0` with a port called after each host. Nothing runs in it.
pub const SWITCH: &str = "switch";

/// Host name of the host for services, in labs that have one.
pub const SERVICES: &str = "services";

/// A running network.
#[derive(Debug)]
pub struct Lab {
    topology: Topology,
    hosts: BTreeMap<String, Namespace>,
}

impl Lab {
    /// Makes the namespaces and wires them.
    ///
    /// # Errors
    /// Names the command that failed and what it said. What was made until then is removed.
    pub fn new(topology: Topology) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut lab = Self { topology, hosts: BTreeMap::new() };
        for host in topology.hosts() {
            let namespace = Namespace::create(&cleanup::name(&format!("{number}-{host}")))?;
            lab.hosts.insert(host, namespace);
        }
        let wiring = Wiring {
            topology: &topology,
            client: lab.host(CLIENT)?,
            lb: lab.host(LB)?,
            switch: lab.host(SWITCH)?,
            backends: (1..=topology.backend_hosts())
                .map(|n| lab.host(&backend_host(n)))
                .collect::<Result<_>>()?,
            services: lab.hosts.get(SERVICES),
        };
        wiring.connect().context("wire the lab")?;
        Ok(lab)
    }

    /// Enters a network that was kept ([`Lab::keep`]), perhaps by another process. It stays when this value is dropped.
    ///
    /// # Errors
    /// When one of its namespaces is gone, or has no name in `names`.
    pub fn enter(topology: Topology, names: &BTreeMap<String, String>) -> Result<Self> {
        let open = |host: String| {
            let name = names.get(&host).with_context(|| format!("no name for the namespace of {host}"))?;
            Ok((host, Namespace::open(name)?))
        };
        Ok(Self { topology, hosts: topology.hosts().map(open).collect::<Result<_>>()? })
    }

    /// What was asked for; it also knows every address.
    #[must_use]
    pub const fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Name of a host's namespace, for `ip netns exec`.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn namespace(&self, host: &str) -> Result<&str> {
        Ok(self.host(host)?.name())
    }

    /// Runs a program in a host, waits for it and returns its standard output.
    ///
    /// # Errors
    /// When it cannot be started or its exit status is not 0; the error then holds what it printed.
    pub fn exec(&self, host: &str, command: &[&str]) -> Result<String> {
        let (program, arguments) = command.split_first().context("an empty command")?;
        let output = self.output(host, Command::new(program).args(arguments))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        ensure!(
            output.status.success(),
            "{} in {host}: {}: {} {}",
            command.join(" "),
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a prepared command in a host and waits for it, whatever its exit status.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn output(&self, host: &str, command: &mut Command) -> Result<Output> {
        self.host(host)?.output(command)
    }

    /// Starts a prepared command in a host.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, host: &str, command: &mut Command) -> Result<Process> {
        self.host(host)?.place(command)?;
        Process::start(command)
    }

    /// Runs code in a host, on a thread of its own. Sockets and threads that it makes stay in the host; a
    /// runtime must be built inside of it.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn in_ns<T: Send>(&self, host: &str, f: impl FnOnce() -> T + Send) -> Result<T> {
        self.host(host)?.enter(f)
    }

    /// The body of a good answer to `GET path`, asked for from a host, within seconds.
    ///
    /// # Errors
    /// When nobody answers with status 200.
    pub fn get(&self, host: &str, address: SocketAddr, path: &str) -> Result<String> {
        let body = self.in_ns(host, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            anyhow::Ok(runtime.block_on(client::get(address, path))?)
        })??;
        String::from_utf8(body.into()).context("an answer that is no text")
    }

    /// Writes keys below `/proc/sys/net` of a host, as `("ipv4/ip_forward", "1")`.
    ///
    /// # Errors
    /// When there is no such host or key, or the kernel refuses the value.
    pub fn sysctl(&self, host: &str, settings: &[(&str, &str)]) -> Result<()> {
        self.host(host)?.sysctl(settings)
    }

    /// Takes the queues off the balancer's devices, as generic XDP wants it on a veth: it sends past the queue, and when the
    /// veth's ring is full then, the kernel (6.18) may stop the device and never start it again. What is queued waits
    /// for ever, and so do the balancer's own packets.
    ///
    /// # Errors
    /// When `tc` refuses.
    pub fn without_queues(&self) -> Result<()> {
        let devices = self.topology.interfaces();
        let batch: String =
            devices.iter().map(|device| format!("qdisc replace dev {device} root noqueue\n")).collect();
        self.host(LB)?.tc(&batch)
    }

    /// Lets the network stay after this process; `cargo xtask clean-lab` removes it. Returns the namespaces' names by host.
    #[must_use]
    pub fn keep(self) -> BTreeMap<String, String> {
        let name = |(host, namespace): (String, Namespace)| {
            let name = namespace.name().to_owned();
            namespace.keep();
            (host, name)
        };
        self.hosts.into_iter().map(name).collect()
    }

    fn host(&self, host: &str) -> Result<&Namespace> {
        self.hosts.get(host).with_context(|| format!("no host {host} in this lab"))
    }
}

/// Looks every 5 ms whether `condition` holds. Returns how long it took.
///
/// # Errors
/// When it does not hold within `limit`; `what` is the condition in words.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result<Duration> {
    let start = Instant::now();
    while !condition() {
        ensure!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(start.elapsed())
}
