//! Everything around one measured balancer: fresh namespaces, real servers, and the balancer at work.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lb_tests::lab::rivals::write;
use lb_tests::lab::{CLIENT, LB, Lab, Process, Topology, wait_until};
use tempfile::TempDir;

use super::balancer::{Balancer, Running};
use super::exchange::{self, Server};
use super::{cpu, wrk};

/// From a service's port at the VIP to its port at the backends.
pub(super) const PORT_SHIFT: u16 = 8008;
/// Backends, all of them addresses of one host.
const BACKENDS: u8 = 3;
/// How long a balancer may take to start.
const READY: Duration = Duration::from_secs(20);
/// How long one attempt to connect may take meanwhile.
const CONNECT: Duration = Duration::from_millis(100);

/// What is behind the VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    /// nginx.
    Web,
    /// One request and one answer a connection.
    Answers,
    /// Pings and bulk data.
    Streams,
}

/// All of them.
pub(super) const SERVICES: [Service; 3] = [Service::Web, Service::Answers, Service::Streams];

impl Service {
    /// Its name in configurations.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Answers => "answers",
            Self::Streams => "streams",
        }
    }

    /// Its port at the VIP.
    pub(super) const fn port(self) -> u16 {
        match self {
            Self::Web => 80,
            Self::Answers => 81,
            Self::Streams => 82,
        }
    }

    /// Its port at every backend.
    pub(super) const fn backend_port(self) -> u16 {
        self.port() + PORT_SHIFT
    }
}

/// A balancer at work between a client and servers. Everything ends when it is dropped.
#[derive(Debug)]
pub(super) struct Stand {
    pub(super) balancer: Balancer,
    pub(super) running: Running,
    pub(super) server: Server,
    web: Process,
    pub(super) lab: Lab,
    dir: TempDir,
}

/// Who does what, after [`Stand::set_apart`].
#[derive(Clone, Debug)]
pub(super) struct Apart {
    /// All threads of the balancer: those of its processes, and the kernel's that process packets for it.
    pub(super) balancer: Vec<u32>,
    /// Of these, the one that processes what comes from clients.
    pub(super) front: u32,
    /// The kernel's thread that processes packets for the servers.
    pub(super) servers: u32,
}

impl Stand {
    /// Builds it and waits until every service answers through the balancer.
    ///
    /// # Errors
    /// When something does not start; what the balancer said is in the error.
    pub(super) fn new(balancer: Balancer) -> Result<Self> {
        let lab = Lab::new(Topology::line(BACKENDS))?;
        let dir = tempfile::tempdir().context("make a directory")?;
        let host = lab.topology().host_of(1);
        let server =
            Server::start(&lab, &host, Service::Answers.backend_port(), Service::Streams.backend_port())?;
        let web = web_server(&lab, &host, dir.path())?;
        let running = balancer.start(&lab, dir.path())?;
        let mut stand = Self { balancer, running, server, web, lab, dir };
        stand.wait().with_context(|| format!("{} does not balance", balancer.label()))?;
        Ok(stand)
    }

    /// Where clients connect to.
    pub(super) fn target(&self, service: Service) -> SocketAddr {
        self.balancer.target(&self.lab, service)
    }

    /// Runs code in the client, on the client's CPU.
    pub(super) fn client<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.lab.in_ns(CLIENT, || cpu::on(cpu::CLIENT_CPU, f)?)?
    }

    /// Gives the balancer a CPU of its own and puts everything else on the other.
    pub(super) fn set_apart(&self) -> Result<Apart> {
        let backend = self.lab.topology().host_of(1);
        cpu::napi_thread(&self.lab, CLIENT, "eth0", cpu::CLIENT_CPU)?;
        let servers = cpu::napi_thread(&self.lab, &backend, "eth0", cpu::CLIENT_CPU)?;
        cpu::pin_process(self.web.pid(), cpu::CLIENT_CPU)?;
        let mut threads = Vec::new();
        if let Some(process) = &self.running.process {
            for pid in children(process.pid())?.into_iter().chain([process.pid()]) {
                cpu::pin_process(pid, cpu::BALANCER_CPU)?;
                threads.extend(cpu::threads_of(pid)?);
            }
        }
        let thread = |device| cpu::napi_thread(&self.lab, LB, device, cpu::BALANCER_CPU);
        let front = thread("eth0")?;
        threads.extend([front, thread("eth1")?]);
        Ok(Apart { balancer: threads, front, servers })
    }

    fn wait(&mut self) -> Result<()> {
        for service in [Service::Answers, Service::Web] {
            let target = self.target(service);
            let mut ended = false;
            let waited = wait_until(&format!("an answer of {target}"), READY, || {
                ended = self.running.process.as_mut().is_some_and(|process| !process.is_running());
                ended || self.answers(service, target)
            });
            if ended || waited.is_err() {
                let log = std::fs::read_to_string(self.dir.path().join("balancer.log")).unwrap_or_default();
                let last: Vec<_> = log.lines().rev().take(5).collect();
                let why = waited.err().filter(|_| !ended).map_or("it ended".to_owned(), |e| e.to_string());
                bail!("{why}; it said last: {}", last.into_iter().rev().collect::<Vec<_>>().join(" / "));
            }
        }
        Ok(())
    }

    fn answers(&self, service: Service, target: SocketAddr) -> bool {
        // A SYN that is lost now would be sent again a second later.
        let connect = || TcpStream::connect_timeout(&target, CONNECT);
        if !self.lab.in_ns(CLIENT, connect).is_ok_and(|connected| connected.is_ok()) {
            return false;
        }
        match service {
            Service::Web => self.lab.in_ns(CLIENT, || wrk::get(target)).is_ok_and(|got| got.is_ok()),
            Service::Answers | Service::Streams => {
                self.lab.in_ns(CLIENT, || exchange::one(target)).is_ok_and(|took| took.is_ok())
            }
        }
    }
}

/// Child processes: nginx's workers.
fn children(pid: u32) -> Result<Vec<u32>> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    Ok(text.split_whitespace().filter_map(|word| word.parse().ok()).collect())
}

/// nginx as the backend: one process on the server's CPU.
fn web_server(lab: &Lab, host: &str, dir: &Path) -> Result<Process> {
    let port = Service::Web.backend_port();
    let text = format!(
        "daemon off;\nmaster_process off;\nuser root;\npid {0}/web.pid;\nerror_log {0}/web.log;\n\
         events {{ worker_connections 8000; }}\nhttp {{\n  access_log off;\n  keepalive_requests 100000000;\n  \
         client_body_temp_path {0}/b; proxy_temp_path {0}/p; fastcgi_temp_path {0}/f;\n  \
         uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;\n  \
         server {{ listen {port} backlog=4096; location / {{ return 200 \"OK\\n\"; }} }}\n}}\n",
        dir.display()
    );
    let config = write(dir, "web.conf", &text)?;
    let mut command = Command::new("nginx");
    command.args(["-c", &config]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    cpu::on(cpu::SERVER_CPU, || lab.spawn(host, &mut command))?
}
