//! Other balancers at work on a lab's balancer, to compare with: HAProxy, nginx and nftables. IPv4 only.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::{LB, Lab, Process};

/// A service of another balancer.
#[derive(Clone, Debug)]
pub struct Frontend {
    /// Its name in configurations.
    pub name: String,
    /// What clients connect to.
    pub vip: SocketAddr,
    /// What is behind it.
    pub backends: Vec<SocketAddr>,
}

/// What a configuration of HAProxy says besides its services.
#[derive(Clone, Copy, Debug)]
pub struct Haproxy<'a> {
    /// `maxconn`: connections at once.
    pub connections: u32,
    /// `balance`.
    pub balance: &'a str,
    /// Further lines of `defaults`.
    pub defaults: &'a str,
    /// Further words of each `server`.
    pub server: &'a str,
}

impl Haproxy<'_> {
    /// The text of the configuration file: TCP mode, HAProxy's usual timeouts.
    #[must_use]
    pub fn text(&self, frontends: &[Frontend]) -> String {
        let Self { connections, balance, defaults, server } = self;
        let mut text = format!(
            "global\n  maxconn {connections}\ndefaults\n  mode tcp\n  balance {balance}\n  \
             timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n{defaults}"
        );
        for Frontend { name, vip, backends } in frontends {
            // Writing to a string does not fail.
            let _ = writeln!(text, "listen {name}\n  bind {vip}");
            for (n, backend) in (1..).zip(backends) {
                let _ = writeln!(text, "  server s{n} {backend} {server}");
            }
        }
        text
    }

    /// Starts it on a lab's balancer; its files are in `dir`. It needs a moment before it answers.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn start(&self, lab: &Lab, dir: &Path, frontends: &[Frontend]) -> Result<Process> {
        for frontend in frontends {
            own(lab, frontend.vip.ip())?;
        }
        let config = write(dir, "haproxy.cfg", &self.text(frontends))?;
        spawn(lab, dir, Command::new("haproxy").args(["-db", "-f", &config]))
    }
}

/// What a configuration of nginx's `stream` module says besides its services.
#[derive(Clone, Copy, Debug)]
pub struct NginxStream<'a> {
    /// Further words of each `server` of an `upstream`.
    pub server: &'a str,
    /// Further directives of each `server` that listens.
    pub listener: &'a str,
}

impl NginxStream<'_> {
    /// The text of the configuration file; `dir` is for what it writes.
    #[must_use]
    pub fn text(&self, dir: &Path, frontends: &[Frontend]) -> String {
        let mut text = format!(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\ndaemon off;\nuser root;\nworker_processes auto;\n\
             pid {0}/stream.pid;\nerror_log {0}/stream.log;\nevents {{ worker_connections 8000; }}\nstream {{\n",
            dir.display()
        );
        for Frontend { name, vip, backends } in frontends {
            // Writing to a string does not fail.
            let _ = writeln!(text, "upstream {name} {{");
            for backend in backends {
                let _ = writeln!(text, "  server {backend} {};", self.server);
            }
            let _ = writeln!(
                text,
                "}}\nserver {{ listen {vip} backlog=4096; proxy_pass {name}; tcp_nodelay on; {} }}",
                self.listener
            );
        }
        text.push_str("}\n");
        text
    }

    /// Starts it on a lab's balancer; its files are in `dir`. It needs a moment before it answers.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn start(&self, lab: &Lab, dir: &Path, frontends: &[Frontend]) -> Result<Process> {
        for frontend in frontends {
            own(lab, frontend.vip.ip())?;
        }
        let config = write(dir, "stream.conf", &self.text(dir, frontends))?;
        spawn(lab, dir, Command::new("nginx").args(["-c", &config]))
    }
}

/// Makes the kernel of a lab's balancer translate: to a backend by the hash of address and port, and to `source`, an
/// address or a range of them.
///
/// # Errors
/// When `nft` is not installed or refuses the rules.
pub fn nftables(lab: &Lab, dir: &Path, frontends: &[Frontend], source: &str) -> Result<()> {
    let (mut dnat, mut snat) = (String::new(), String::new());
    for Frontend { vip, backends, .. } in frontends {
        let choices: Vec<_> = (0..).zip(backends).map(|(n, b)| format!("{n} : {}", b.ip())).collect();
        let to = backends.first().context("a service without backends")?.port();
        // Writing to a string does not fail.
        let _ = writeln!(
            dnat,
            "    ip daddr {} tcp dport {} dnat to jhash ip saddr . tcp sport mod {} map {{ {} }}:{to}",
            vip.ip(),
            vip.port(),
            choices.len(),
            choices.join(", ")
        );
        let _ = writeln!(snat, "    oifname \"eth1\" tcp dport {to} snat to {source}");
    }
    let text = format!(
        "table ip nat {{\n  chain prerouting {{\n    type nat hook prerouting priority dstnat;\n{dnat}  }}\n  \
         chain postrouting {{\n    type nat hook postrouting priority srcnat;\n{snat}  }}\n}}\n"
    );
    lab.exec(LB, &["nft", "-f", &write(dir, "nftables.conf", &text)?]).map(drop)
}

/// Makes an address the balancer's own. Does nothing when it is.
///
/// # Errors
/// When there is no such lab any more.
pub fn own(lab: &Lab, address: IpAddr) -> Result<()> {
    lab.exec(LB, &["ip", "addr", "replace", &format!("{address}/32"), "dev", "lo"]).map(drop)
}

/// Starts a program on a lab's balancer that writes what it says to `balancer.log` in `dir`.
///
/// # Errors
/// When there is no such program.
pub fn spawn(lab: &Lab, dir: &Path, command: &mut Command) -> Result<Process> {
    let log = std::fs::File::create(dir.join("balancer.log")).context("make a log file")?;
    let copy = log.try_clone().context("duplicate a log file")?;
    lab.spawn(LB, command.stdin(Stdio::null()).stdout(log).stderr(copy))
}

/// Writes a file of a balancer's configuration; returns its path.
///
/// # Errors
/// When that is not possible.
pub fn write(dir: &Path, name: &str, text: &str) -> Result<String> {
    let path = dir.join(name);
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    path.to_str().map(str::to_owned).with_context(|| format!("{} is not UTF-8", path.display()))
}
