//! Reads the configuration again when somebody asks for it, and brings it to the loop and to what is around the loop.
//!
//! All that can block or take time is here: the file, the next hops of new backends. What the configuration means, and
//! whether it can be taken at all, is the loop's to say ([`super::core::reload`]).
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::admin::Published;
use crate::admin::access::Access;
use crate::admin::command::Reload;
use crate::config::{self, Announce, Config, digest, restart_needed};
use crate::logging::LogHandle;
use crate::model::ServiceSpec;
use crate::net::announce::announce;
use crate::net::hops::{HopWatcher, Hops};
use crate::status::reload::{ReloadReport, ReloadResult};

use super::core::reload::NewConfig;
use super::node::{Findings, findings_of_reload};
use super::watch::Watch;

/// How long the next hops of new backends are waited for. A backend that is not resolved by then is left out until it is.
pub const SETTLE: Duration = Duration::from_secs(1);

/// Serves reloads, one after another.
pub struct Reloader {
    path: PathBuf,
    /// The one in use.
    config: Arc<Config>,
    watch: Watch,
    configs: mpsc::Sender<NewConfig>,
    around: Around,
}

/// What goes by the configuration, besides the loop.
pub struct Around {
    /// Finds next hops.
    pub watcher: HopWatcher,
    /// What those may do who connect to `agent.admin`.
    pub access: watch::Sender<Access>,
    /// The loop's latest word.
    pub published: watch::Receiver<Published>,
    /// The log, unless the command line says how it looks.
    pub log: Option<LogHandle>,
    /// Announcements that are going on. They end with this.
    pub announcements: JoinSet<()>,
}

impl Reloader {
    /// `config` is in use, was read from `path`, and all of `around` goes by it. The loop takes `configs`.
    #[must_use]
    pub fn new(path: PathBuf, config: Arc<Config>, configs: mpsc::Sender<NewConfig>, around: Around) -> Self {
        let watch = Watch::new(config.source.digest);
        Self { path, config, watch, configs, around }
    }

    /// Serves until nobody is left who could ask.
    pub async fn serve(mut self, mut requests: mpsc::Receiver<Reload>) {
        loop {
            let request = tokio::select! {
                request = requests.recv() => request,
                () = self.watch.changed(self.path.clone()), if self.config.agent.watch => {
                    Some(Reload::unattended("the file has changed"))
                }
            };
            let Some(Reload { why, reply }) = request else { return };
            info!(config = %self.path.display(), "{why}: reading the configuration again");
            let Some(report) = self.reload().await else { return };
            // Nobody waits for the outcome of a signal; the loop has logged it.
            let _ = reply.send(report);
        }
    }

    /// `None` when the loop has ended.
    async fn reload(&mut self) -> Option<ReloadReport> {
        let (read, warnings) = self.read().await;
        for warning in &warnings {
            warn!("{warning}");
        }
        if let Ok(new) = &read
            && restart_needed(&self.config, new).is_empty()
        {
            self.around.look_up(&self.config, new).await;
        }
        let (reply, answer) = oneshot::channel();
        let new = read.as_ref().ok().cloned();
        let at = SystemTime::now();
        self.configs.send(NewConfig { read, warnings, at, reply }).await.ok()?;
        let report = answer.await.ok()?;
        match new.filter(|_| report.result == ReloadResult::Success) {
            Some(new) => {
                self.around.follow(&self.config, &new);
                self.config = new;
            }
            None => self.around.watcher.set_targets(addresses(&self.config.services)),
        }
        Some(report)
    }

    /// The file, or all that is wrong with it; and what is unlikely to do what is wanted.
    async fn read(&mut self) -> (Result<Arc<Config>, Vec<String>>, Vec<String>) {
        let (path, old) = (self.path.clone(), self.config.clone());
        let read = spawn_blocking(move || {
            // First: should it change after that, it is another one to whoever watches it.
            let text = std::fs::read(&path).ok().map(|text| digest(&text));
            let (read, warnings) = match config::load(&path) {
                Ok(config) => {
                    let Findings { errors, warnings } = findings_of_reload(&old, &config);
                    (if errors.is_empty() { Ok(Arc::new(config)) } else { Err(errors) }, warnings)
                }
                Err(e) => (Err(e.errors().iter().map(ToString::to_string).collect()), Vec::new()),
            };
            (text, read, warnings)
        });
        match read.await {
            Ok((text, read, warnings)) => {
                // Right or wrong: nobody needs to be told of it twice.
                self.watch = text.map_or(self.watch, Watch::new);
                (read, warnings)
            }
            Err(e) => {
                let path = self.path.display();
                (Err(vec![format!("{path}: cannot be read: {e}; this is a fault of lb-agent")]), Vec::new())
            }
        }
    }
}

impl Around {
    /// Has next hops looked up for the backends of both, and gives those that are new the time that it takes.
    async fn look_up(&self, old: &Config, new: &Config) {
        let (known, mut all) = (addresses(&old.services), addresses(&new.services));
        let added: BTreeSet<IpAddr> = all.difference(&known).copied().collect();
        if added.is_empty() {
            return;
        }
        all.extend(known);
        self.watcher.set_targets(all);
        let mut hops = self.watcher.subscribe();
        // One that is not there yet keeps nobody waiting for longer; status says why it is not used.
        let _ = timeout(SETTLE, hops.wait_for(|hops| all_resolved(hops, &added))).await;
    }

    /// Goes by the new configuration.
    fn follow(&mut self, old: &Config, new: &Arc<Config>) {
        self.watcher.set_targets(addresses(&new.services));
        self.access.send_replace(Access::of(&new.agent));
        if let Some(log) = &self.log
            && old.agent.log_format != new.agent.log_format
        {
            log.set_format(new.agent.log_format);
        }
        while self.announcements.try_join_next().is_some() {}
        let (before, mut vips) = (announced(old), announced(new));
        vips.retain(|vip| !before.contains(vip));
        self.announce(vips, new);
    }

    /// Announces these VIPs once the kernel answers for them.
    pub fn announce(&mut self, vips: BTreeSet<IpAddr>, config: &Config) {
        if vips.is_empty() {
            return;
        }
        let (interfaces, mut published) = (config.agent.interfaces.clone(), self.published.clone());
        self.announcements.spawn(async move {
            if published.wait_for(|p| !p.status.dataplane.pending).await.is_err() {
                return;
            }
            let vips: Vec<IpAddr> = vips.into_iter().collect();
            if let Err(e) = announce(&vips, &interfaces).await {
                warn!("agent.announce: the VIPs are not announced: {e}");
            }
        });
    }
}

/// VIPs that the data path answers ARP and NDP for.
pub fn announced(config: &Config) -> BTreeSet<IpAddr> {
    match config.agent.announce {
        Announce::Off => BTreeSet::new(),
        Announce::Arp => config.services.iter().map(|s| s.vip.ip()).collect(),
    }
}

/// Addresses of all backends.
pub fn addresses(services: &[ServiceSpec]) -> BTreeSet<IpAddr> {
    services.iter().flat_map(|s| &s.backends).map(|b| b.address.ip()).collect()
}

/// Whether the next hop of each of these is known.
pub fn all_resolved(hops: &Hops, targets: &BTreeSet<IpAddr>) -> bool {
    targets.iter().all(|t| matches!(hops.next.get(t), Some(Ok(_))))
}
