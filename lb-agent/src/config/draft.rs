//! What is in the file, as far as it could be understood. Every key and its default is here.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeTable;

use super::health;
use super::reader::{At, Found, Reader};
use super::section::Section;
use super::values::{self, DAY};
use super::{AgentConfig, Announce, NatConfig, XdpMode, policy};
use crate::admin::DEFAULT_SOCKET;
use crate::admin::token::TokenFile;
use crate::logging::LogFormat;
use crate::model::{
    BackendSpec, DEADLINES, DrainSpec, Forwarding, HealthSpec, Policy, Scheduler, ServiceSpec,
};

const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9470);
const SNAT_PORTS: (u16, u16) = (1024, 32_767);
const RESET_RATE: u32 = 1000;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
/// The default first.
static SCHEDULERS: [(&str, Scheduler); 4] = [
    (Scheduler::LeastWaiting.name(), Scheduler::LeastWaiting),
    (Scheduler::LeastConn.name(), Scheduler::LeastConn),
    (Scheduler::Maglev.name(), Scheduler::Maglev),
    (Scheduler::RoundRobin.name(), Scheduler::RoundRobin),
];

/// The whole file. `None` stands for what was wrong and has been reported.
pub(super) struct Draft {
    pub(super) interfaces: Option<Vec<At<String>>>,
    agent: Option<AgentConfig>,
    pub(super) addresses: Option<Vec<At<IpNet>>>,
    pub(super) ports: Option<(u16, u16)>,
    rest: Option<Duration>,
    idle_timeout: Option<Duration>,
    pub(super) services: Vec<ServiceDraft>,
}

/// One `[[service]]`.
pub(super) struct ServiceDraft {
    pub(super) name: Option<At<String>>,
    pub(super) vip: Option<At<SocketAddr>>,
    forwarding: Option<Forwarding>,
    scheduler: Option<Scheduler>,
    policy: Option<Policy>,
    requests: Option<bool>,
    drain: Option<DrainSpec>,
    health: Option<HealthSpec>,
    pub(super) backends: Vec<BackendDraft>,
}

/// One `[[service.backend]]`.
pub(super) struct BackendDraft {
    /// The address where no name is given.
    pub(super) name: Option<At<String>>,
    pub(super) address: Option<At<SocketAddr>>,
    weight: Option<u32>,
    priority: Option<u32>,
    zone: Option<Option<String>>,
}

/// Reads the text. `None` when it is not TOML.
pub(super) fn read(reader: &mut Reader, text: &str) -> Option<Draft> {
    let document = match DeTable::parse(text) {
        Ok(document) => document,
        Err(error) => {
            reader.syntax_error(&error);
            return None;
        }
    };
    let mut root = Section::root(document.get_ref());
    let mut agent = root.table(reader, "agent");
    let interfaces = read_interfaces(reader, &mut agent);
    let agent_config = read_agent(reader, &mut agent);
    agent.finish(reader);
    let mut nat = root.table(reader, "nat");
    let draft = Draft {
        interfaces,
        agent: agent_config,
        addresses: read_addresses(reader, &mut nat),
        ports: nat.read(reader, "ports", values::ports).or(SNAT_PORTS),
        rest: nat.read(reader, "rest", values::duration(SECOND, DAY)).or(60 * SECOND),
        idle_timeout: nat.read(reader, "idle_timeout", values::duration(SECOND, DAY)).or(HOUR),
        services: {
            nat.finish(reader);
            root.tables(reader, "service").into_iter().map(|s| read_service(reader, s)).collect()
        },
    };
    root.finish(reader);
    Some(draft)
}

fn read_interfaces(reader: &mut Reader, agent: &mut Section<'_>) -> Option<Vec<At<String>>> {
    match agent.list(reader, "interfaces", values::interface) {
        Found::Value(interfaces) => Some(interfaces),
        Found::Wrong => None,
        Found::Absent => {
            let advice = "add it, as interfaces = [\"eth0\"]";
            reader.error(&agent.key("interfaces"), "is missing", advice);
            None
        }
    }
}

/// All of `[agent]` but the interfaces.
fn read_agent(reader: &mut Reader, agent: &mut Section<'_>) -> Option<AgentConfig> {
    let modes = &[("auto", XdpMode::Auto), ("native", XdpMode::Native), ("generic", XdpMode::Generic)];
    let xdp_mode = agent.read(reader, "xdp_mode", values::choice(modes, &[])).or(XdpMode::default());
    let admin = agent.read(reader, "admin", values::socket).or(ADMIN);
    let socket = agent.read(reader, "socket", values::socket_path).or(DEFAULT_SOCKET.into());
    let admin_token_file = agent.read(reader, "admin_token_file", values::file_path).optional();
    let who = &[("off", Announce::Off), ("arp", Announce::Arp)];
    let announce = agent.read(reader, "announce", values::choice(who, &[])).or(Announce::default());
    let formats = &[("human", LogFormat::Human), ("json", LogFormat::Json)];
    let log_format = agent.read(reader, "log_format", values::choice(formats, &[])).or(LogFormat::default());
    let reset_rate = agent.read(reader, "reset_rate", values::integer(0, 1_000_000)).or(RESET_RATE);
    let zone = agent.read(reader, "zone", values::name).optional();
    let watch = agent.read(reader, "watch", values::boolean).or(false);
    Some(AgentConfig {
        interfaces: Vec::new(),
        xdp_mode: xdp_mode?,
        admin: admin?,
        socket: socket?,
        admin_token_file: admin_token_file?.map(TokenFile::new),
        announce: announce?,
        log_format: log_format?,
        zone: zone?,
        reset_rate: reset_rate?,
        watch: watch?,
    })
}

fn read_addresses(reader: &mut Reader, nat: &mut Section<'_>) -> Option<Vec<At<IpNet>>> {
    match nat.list(reader, "addresses", values::network) {
        Found::Value(addresses) => Some(addresses),
        Found::Wrong => None,
        Found::Absent => {
            let advice = "add an address that this node owns, as addresses = [\"10.77.0.1\"]";
            reader.error(&nat.key("addresses"), "is missing", advice);
            None
        }
    }
}

fn read_service(reader: &mut Reader, mut service: Section<'_>) -> ServiceDraft {
    let forwardings = &[("nat", Forwarding::Nat)];
    let scheduler =
        service.read(reader, "scheduler", values::choice(&SCHEDULERS, &[])).or(Scheduler::LeastWaiting);
    let draft = ServiceDraft {
        name: service.required(reader, "name", "\"superset\"", values::name),
        vip: service.required(reader, "vip", "\"10.77.0.100:80\"", values::endpoint),
        forwarding: service
            .read(reader, "forwarding", values::choice(forwardings, &["l2", "ipip"]))
            .or(Forwarding::Nat),
        scheduler,
        policy: policy::read(reader, &mut service, scheduler),
        requests: service.read(reader, "requests", values::boolean).or(true),
        drain: read_drain(reader, &mut service),
        health: {
            let section = service.table(reader, "health");
            health::read(reader, section)
        },
        backends: service.tables(reader, "backend").into_iter().map(|b| read_backend(reader, b)).collect(),
    };
    service.finish(reader);
    draft
}

/// `drain_*` of a service.
fn read_drain(reader: &mut Reader, service: &mut Section<'_>) -> Option<DrainSpec> {
    let default = DrainSpec::default();
    let idle = service.read(reader, "drain_idle", values::duration(Duration::ZERO, HOUR)).or(default.idle);
    let deadline = service
        .read(reader, "drain_deadline", values::duration(*DEADLINES.start(), *DEADLINES.end()))
        .or(default.deadline);
    Some(DrainSpec { idle: idle?, deadline: deadline? })
}

fn read_backend(reader: &mut Reader, mut backend: Section<'_>) -> BackendDraft {
    let name = backend.read(reader, "name", values::name);
    let address = backend.required(reader, "address", "\"10.77.0.11:8088\"", values::endpoint);
    let name = match name {
        Found::Value(value) => Some(At { key: backend.key("name"), value }),
        Found::Absent => address.as_ref().map(|a| At { key: a.key.clone(), value: a.value.to_string() }),
        Found::Wrong => None,
    };
    let weight =
        backend.read(reader, "weight", values::integer(1, u16::MAX.into())).or(BackendSpec::WEIGHT.into());
    let priority = backend.read(reader, "priority", values::integer(0, u8::MAX.into())).or(0);
    let zone = backend.read(reader, "zone", values::name).optional();
    backend.finish(reader);
    BackendDraft { name, address, weight, priority, zone }
}

impl Draft {
    /// The values, when nothing is missing.
    pub(super) fn build(self) -> Option<(AgentConfig, NatConfig, Vec<ServiceSpec>)> {
        let interfaces = self.interfaces?.into_iter().map(|i| i.value).collect();
        let agent = AgentConfig { interfaces, ..self.agent? };
        let nat = NatConfig {
            addresses: self.addresses?.into_iter().map(|a| a.value).collect(),
            ports: self.ports?,
            rest: self.rest?,
            idle_timeout: self.idle_timeout?,
        };
        let services = self.services.into_iter().map(ServiceDraft::build).collect::<Option<_>>()?;
        Some((agent, nat, services))
    }
}

impl ServiceDraft {
    fn build(self) -> Option<ServiceSpec> {
        Some(ServiceSpec {
            name: self.name?.value,
            vip: self.vip?.value,
            forwarding: self.forwarding?,
            scheduler: self.scheduler?,
            policy: self.policy?,
            requests: self.requests?,
            health: self.health?,
            drain: self.drain?,
            backends: self.backends.into_iter().map(BackendDraft::build).collect::<Option<_>>()?,
        })
    }
}

impl BackendDraft {
    fn build(self) -> Option<BackendSpec> {
        let weight = u16::try_from(self.weight?).ok()?;
        let priority = u8::try_from(self.priority?).ok()?;
        let zone = self.zone?;
        Some(BackendSpec {
            weight,
            priority,
            zone,
            ..BackendSpec::new(self.name?.value, self.address?.value)
        })
    }
}
