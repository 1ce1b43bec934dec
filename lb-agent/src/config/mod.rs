//! The configuration file: from text to values, with all errors at once.
//!
//! [`parse`] is pure. What only the node can tell is checked by [`check_node`], from facts that the caller
//! has collected.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use lb_common::hash::PORTS_PER_BUCKET;

use crate::admin::token::TokenFile;
use crate::logging::LogFormat;
use crate::model::ServiceSpec;

mod check;
mod draft;
mod error;
mod health;
mod live;
mod node;
mod passive;
mod policy;
mod reader;
mod section;
mod values;

pub use error::{ConfigError, ConfigErrors};
pub use live::{differences, restart_needed};
pub use node::{NodeProbe, check_node};

/// A configuration that was checked as far as it can be without the node.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[agent]`.
    pub agent: AgentConfig,
    /// `[nat]`.
    pub nat: NatConfig,
    /// Every `[[service]]`, in the order of the file.
    pub services: Vec<ServiceSpec>,
    /// Where it all stands, for messages.
    pub source: Source,
}

/// `[agent]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentConfig {
    /// Where the program is attached.
    pub interfaces: Vec<String>,
    /// How it is attached.
    pub xdp_mode: XdpMode,
    /// Where metrics, health and state are served.
    pub admin: SocketAddr,
    /// The same, and changes, for the agent's own user and root.
    pub socket: PathBuf,
    /// Lets those who have the token change things at `admin`.
    pub admin_token_file: Option<TokenFile>,
    /// Who answers ARP and NDP for the VIPs.
    pub announce: Announce,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Where this node is; backends with the same zone are near.
    pub zone: Option<String>,
    /// RSTs of its own that a CPU may send in a second, 0 to 1,000,000.
    pub reset_rate: u32,
    /// Whether the configuration is read again by itself when the file is another one.
    pub watch: bool,
}

/// `agent.xdp_mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver; an interface that cannot is an error.
    Native,
    /// In the kernel's generic hook: works everywhere, and is slower.
    Generic,
    /// Native, and generic where that fails, with a warning.
    #[default]
    Auto,
}

impl XdpMode {
    /// As in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Auto => "auto",
        }
    }
}

/// `agent.announce`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Announce {
    /// The host: the VIPs are on its interfaces, or are routed to it.
    #[default]
    Off,
    /// The data path, and gratuitous ARP and NDP at the start.
    Arp,
}

/// `[nat]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatConfig {
    /// SNAT addresses and prefixes, in the order of the file. They share no address.
    pub addresses: Vec<IpNet>,
    /// First and last SNAT port, inclusive; at least eight ports.
    pub ports: (u16, u16),
    /// How long a closed flow's port rests for its backend; 1 s to 24 h.
    pub rest: Duration,
    /// Silence after which a flow that does not wait may be reused; 1 s to 24 h.
    pub idle_timeout: Duration,
}

impl NatConfig {
    /// Number of SNAT addresses: blocks of the flow table.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        let sum: u128 = self.addresses.iter().map(values::address_count).sum();
        u32::try_from(sum).unwrap_or(u32::MAX)
    }

    /// Slots of the flow table: SNAT addresses × ports, in whole buckets of eight ports.
    #[must_use]
    pub fn slots(&self) -> u32 {
        let (first, last) = self.ports;
        let ports = (u32::from(last) + 1).saturating_sub(u32::from(first));
        self.blocks().saturating_mul(ports / PORTS_PER_BUCKET * PORTS_PER_BUCKET)
    }

    /// Whether this is a SNAT address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|net| net.contains(&address))
    }
}

/// Where the keys of a configuration stand.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// Name of the file, as it was given.
    pub file: String,
    /// [`digest`] of its text.
    pub digest: u64,
    /// Line of each key that is in the file, by its path (`service[0].backend[1].address`).
    pub lines: BTreeMap<String, u32>,
}

impl Source {
    /// An error about this key. The line is the one of the key; where it is absent, of what it belongs to, or 1.
    #[must_use]
    pub fn error(&self, key: &str, reason: impl Into<String>, advice: impl Into<String>) -> ConfigError {
        let (reason, advice) = (reason.into(), advice.into());
        ConfigError {
            file: self.file.clone(),
            line: Some(self.line(key).unwrap_or(1)),
            key: key.to_owned(),
            reason,
            advice,
        }
    }

    fn line(&self, key: &str) -> Option<u32> {
        let mut key = key;
        loop {
            if let Some(&line) = self.lines.get(key) {
                return Some(line);
            }
            // From `service[0].vip` to `service[0]` to `service`.
            key = key.get(..key.rfind(['.', '['])?)?;
        }
    }
}

/// Tells texts of configuration files apart, within one process.
#[must_use]
pub fn digest(text: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Reads and checks a configuration file.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&name, &text),
        Err(e) => {
            let advice = "give the path of a readable TOML file".to_owned();
            let reason = format!("cannot be read: {e}");
            Err(vec![ConfigError { file: name, line: None, key: String::new(), reason, advice }].into())
        }
    }
}

/// Checks the text of a configuration file; `file` is its name in messages.
///
/// # Errors
/// Everything that is wrong with it; only the first syntax error when it is not TOML.
pub fn parse(file: &str, text: &str) -> Result<Config, ConfigErrors> {
    let mut reader = reader::Reader::new(file, text);
    let draft = draft::read(&mut reader, text);
    if let Some(draft) = &draft {
        check::check(&mut reader, draft);
    }
    let (source, errors) = reader.finish();
    match draft.and_then(draft::Draft::build) {
        Some((agent, nat, services)) if errors.is_empty() => Ok(Config { agent, nat, services, source }),
        Some(_) | None => Err(errors.into()),
    }
}

#[cfg(test)]
mod tests;
