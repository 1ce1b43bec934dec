//! Who plays: a lab, a web server in each backend, the agent; and how to ask them.

use std::cell::RefCell;
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_agent::status::{BackendStatus, ServiceStatus, Status};

use super::Options;
use super::config::{ADMIN, SERVERS, SERVICE, config, server_name};
use crate::lab::{CLIENT, LB, Lab, Process, SWITCH, Topology, backend_host, wait_until};
use crate::metrics::Samples;
use crate::packet::world::Family;

/// For a program to come up on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(15);

/// The lab and what runs in it; gone when dropped.
#[derive(Debug)]
pub(super) struct Stage {
    options: Options,
    servers: RefCell<Vec<Process>>,
    agent: RefCell<Option<Process>>,
    // Last: what runs in it ends first.
    lab: Lab,
}

impl Stage {
    /// An empty lab.
    pub(super) fn new(options: &Options) -> Result<Self> {
        for program in [&options.agent, &options.server] {
            ensure!(program.exists(), "{} is not there: run \"cargo xtask demo\"", program.display());
        }
        let lab = Lab::new(Topology::two_arm(SERVERS)).context("make the lab")?;
        Ok(Self { options: options.clone(), servers: RefCell::default(), agent: RefCell::default(), lab })
    }

    pub(super) const fn lab(&self) -> &Lab {
        &self.lab
    }

    pub(super) const fn topology(&self) -> &Topology {
        self.lab.topology()
    }

    /// The configuration, once it is written.
    pub(super) fn config(&self) -> PathBuf {
        self.options.directory.join("demo.toml")
    }

    /// What the agent logs.
    pub(super) fn log(&self) -> PathBuf {
        self.options.directory.join("lb-agent.log")
    }

    /// Gives the balancer the service's addresses. The lab routes them there in any case; on an interface they can
    /// be pinged, and the agent has no doubt that clients reach it.
    pub(super) fn own_vips(&self) -> Result<()> {
        for family in Family::BOTH {
            let vip = self.topology().vip(family).ip().to_string();
            self.lab.exec(LB, &["ip", "address", "add", &vip, "dev", "lo"])?;
        }
        Ok(())
    }

    /// Starts every server, and waits until each says that it is well.
    pub(super) fn start_servers(&self) -> Result<()> {
        for n in 1..=SERVERS {
            let server = self.start_server(n)?;
            self.servers.borrow_mut().push(server);
        }
        for n in 1..=SERVERS {
            let address = self.topology().backend(n, Family::V4);
            wait_until(&format!("{} answers", server_name(n)), PATIENCE, || {
                self.get(address, "/health").is_ok()
            })?;
        }
        Ok(())
    }

    fn start_server(&self, n: u8) -> Result<Process> {
        let mut command = background(&self.options.server);
        // Nobody listens to a server that stays when the demo has ended.
        command.args(["--name", &server_name(n)]).stdout(Stdio::null()).stderr(Stdio::null());
        for family in Family::BOTH {
            command.args(["--listen", &self.topology().backend(n, family).to_string()]);
        }
        self.lab.spawn(&backend_host(n), &mut command)
    }

    /// Kills a server at once, without a word to anybody. `n` counts from 1.
    pub(super) fn kill_server(&self, n: u8) -> Result<()> {
        self.servers.borrow_mut().get_mut(usize::from(n) - 1).context("no such server")?.kill();
        Ok(())
    }

    /// Starts a server that was killed.
    pub(super) fn restart_server(&self, n: u8) -> Result<()> {
        let server = self.start_server(n)?;
        *self.servers.borrow_mut().get_mut(usize::from(n) - 1).context("no such server")? = server;
        Ok(())
    }

    /// Writes the configuration.
    pub(super) fn write_config(&self) -> Result<()> {
        let path = self.config();
        // Not in the directory: that may be too deep for a socket's path.
        let socket = std::env::temp_dir().join(format!("ek-demo-{}.sock", std::process::id()));
        std::fs::create_dir_all(&self.options.directory)
            .and_then(|()| std::fs::write(&path, config(self.topology(), &socket)))
            .with_context(|| format!("write {}", path.display()))
    }

    /// Starts the agent, and waits until it says that it is ready. Returns how long that took.
    pub(super) fn start_agent(&self) -> Result<Duration> {
        let path = self.log();
        let log = File::create(&path).with_context(|| format!("write {}", path.display()))?;
        let mut command = background(&self.options.agent);
        command.args(["run", "--config"]).arg(self.config());
        command.stdout(log.try_clone().context("duplicate the log's handle")?).stderr(log);
        let mut agent = self.lab.spawn(LB, &mut command)?;
        let mut runs = true;
        let ready = wait_until("lb-agent is ready", PATIENCE, || {
            runs = agent.is_running();
            !runs || self.get(ADMIN, "/readyz").is_ok()
        });
        self.agent.replace(Some(agent));
        let why = || format!("see {}, which ends: {}", path.display(), last_line(&path));
        ensure!(runs, "lb-agent ended at its start: {}", why());
        ready.with_context(why)
    }

    /// Asks the agent to end, and waits for that.
    pub(super) fn stop_agent(&self) -> Result<ExitStatus> {
        self.agent.borrow_mut().as_mut().context("no agent runs")?.terminate(PATIENCE)
    }

    /// What `GET /status` says.
    pub(super) fn status(&self) -> Result<Status> {
        let body = self.get(ADMIN, "/status")?;
        serde_json::from_str(&body).context("read the agent's status")
    }

    /// The part of the status about the story's service.
    pub(super) fn service(&self) -> Result<ServiceStatus> {
        service(self.status()?)
    }

    /// The part about one of its backends.
    pub(super) fn backend(&self, name: &str) -> Result<BackendStatus> {
        backend(self.service()?, name)
    }

    /// How many flows each backend of the service was given so far.
    pub(super) fn new_flows(&self) -> Result<Vec<u64>> {
        Ok(self.service()?.backends.iter().map(|b| b.new_flows.unwrap_or_default()).collect())
    }

    /// Whether the metrics call a backend healthy.
    pub(super) fn is_up(&self, name: &str) -> Result<bool> {
        let labels = [("service", SERVICE), ("backend", name)];
        Ok(self.metrics()?.sum("lb_backend_up", &labels)? == 1.0)
    }

    /// Address and port of the service.
    pub(super) fn target(&self) -> SocketAddr {
        self.topology().vip(Family::V4)
    }

    /// What `GET /metrics` says.
    pub(super) fn metrics(&self) -> Result<Samples> {
        Samples::parse(&self.get(ADMIN, "/metrics")?)
    }

    /// The body of a good answer, asked for from the balancer.
    fn get(&self, address: SocketAddr, path: &str) -> Result<String> {
        self.lab.get(LB, address, path)
    }

    /// Ends everything. Returns what is left of it all the same.
    pub(super) fn leave(self) -> Vec<String> {
        let names = self.namespaces();
        let mut pids: Vec<_> = self.servers.borrow().iter().map(Process::pid).collect();
        pids.extend(self.agent.borrow().as_ref().map(Process::pid));
        drop(self);
        let namespaces = names.into_iter().filter(|name| Path::new("/run/netns").join(name).exists());
        let processes = pids.into_iter().filter(|pid| Path::new(&format!("/proc/{pid}")).exists());
        namespaces.chain(processes.map(|pid| format!("process {pid}"))).collect()
    }

    /// Lets everything run on. Returns how to play with it, line by line.
    pub(super) fn keep(self) -> Vec<String> {
        let topology = *self.topology();
        let [v4, v6] = Family::BOTH.map(|family| topology.vip(family));
        let (agent, server) = (self.options.agent.clone(), self.options.server.clone());
        let pids: Vec<_> = self.servers.into_inner().into_iter().map(Process::keep).collect();
        self.agent.into_inner().map(Process::keep);
        let names = self.lab.keep();
        let within = |host: &str| format!("  ip netns exec {}", names.get(host).map_or("?", String::as_str));
        let (client, lb, last) = (within(CLIENT), within(LB), within(&backend_host(SERVERS)));
        let listen = Family::BOTH.map(|family| format!("--listen '{}'", topology.backend(SERVERS, family)));
        let (agent, server, name) = (agent.display(), server.display(), server_name(SERVERS));
        vec![
            "Send requests to the service; the answer says who gave it:".to_owned(),
            format!("{client} curl http://{}/", v4.ip()),
            format!("{client} curl 'http://[{}]/'", v6.ip()),
            "Look at the balancer:".to_owned(),
            format!("{lb} {agent} status"),
            format!("{lb} curl -s http://{ADMIN}/metrics"),
            format!("{lb} bpftool net"),
            format!("Kill {name}, and start it again:"),
            format!("  kill -9 {}", pids.last().copied().unwrap_or_default()),
            format!("{last} {server} --name {name} {} &", listen.join(" ")),
            "Remove it all:".to_owned(),
            "  cargo xtask clean-lab".to_owned(),
        ]
    }

    fn namespaces(&self) -> Vec<String> {
        let hosts =
            [CLIENT, LB, SWITCH].map(str::to_owned).into_iter().chain((1..=SERVERS).map(backend_host));
        hosts.filter_map(|host| self.lab.namespace(&host).ok().map(str::to_owned)).collect()
    }
}

/// A backend out of a service's status.
pub(super) fn backend(service: ServiceStatus, name: &str) -> Result<BackendStatus> {
    let mut backends = service.backends.into_iter();
    backends.find(|b| b.name == name).with_context(|| format!("the status has no backend {name}"))
}

/// The story's service out of a status.
pub(super) fn service(status: Status) -> Result<ServiceStatus> {
    let mut services = status.services.into_iter();
    services.find(|s| s.name == SERVICE).with_context(|| format!("the status has no service {SERVICE}"))
}

/// A command that the terminal's Ctrl-C does not reach, so that everything ends in order.
fn background(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.process_group(0).stdin(Stdio::null());
    command
}

fn last_line(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().last().unwrap_or("(nothing)").to_owned()
}
