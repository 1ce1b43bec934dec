//! Two namespaces, joined by a veth pair whose ends are both called `eth0`; and what is expected of next hops in them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::future::Future;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lb_agent::model::NextHop;
use lb_agent::net::hops::{HopWatcher, Hops};
use lb_common::vlan::VlanTags;
use nix::sched::{CloneFlags, setns};
use tokio::sync::watch;

pub(crate) const POD_MAC: &str = "02:00:00:00:00:05";
pub(crate) const LB_MAC: &str = "02:00:00:00:00:02";
pub(crate) const NEW_MAC: &str = "02:00:00:00:00:77";

/// For what takes the kernel some rounds of solicitations. Shorter than the periodic reading of everything, which
/// would hide that an event was missed.
pub(crate) const EVENTUALLY: Duration = Duration::from_secs(20);
/// For what the kernel tells at once.
pub(crate) const SOON: Duration = Duration::from_secs(1);

pub(crate) struct Lab {
    pub(crate) lb: String,
    pub(crate) pod: String,
}

impl Lab {
    /// 10.0.0.2 and 2001:db8::2 face 10.0.0.5 and 2001:db8::5.
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // What `cargo xtask clean-lab` goes by: "ek-", and the process that made it.
        let unique = format!("ek-{}-hops{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let lab = Self { lb: format!("{unique}-lb"), pod: format!("{unique}-pod") };
        for ns in [&lab.lb, &lab.pod] {
            ip(&format!("netns add {ns}"));
            ip(&format!("-n {ns} link set lo up"));
        }
        lab.connect();
        lab
    }

    pub(crate) fn connect(&self) {
        let Self { lb, pod } = self;
        ip(&format!(
            "link add eth0 netns {lb} address {LB_MAC} type veth peer name eth0 address {POD_MAC} netns {pod}"
        ));
        for (ns, host) in [(lb, 2), (pod, 5)] {
            ip(&format!("-n {ns} addr add 10.0.0.{host}/24 dev eth0"));
            ip(&format!("-n {ns} addr add 2001:db8::{host}/64 dev eth0 nodad"));
            ip(&format!("-n {ns} link set eth0 up"));
            for family in ["ipv4", "ipv6"] {
                // A neighbour may change its mind at once, and not only after a second.
                sysctl(ns, &format!("net/{family}/neigh/eth0/locktime"), "0");
                sysctl(ns, &format!("net/{family}/neigh/eth0/retrans_time_ms"), "100");
            }
        }
        for ns in [lb, pod] {
            await_carrier(ns);
        }
    }

    pub(crate) fn lb(&self, command: &str) {
        ip(&format!("-n {} {command}", self.lb));
    }

    pub(crate) fn pod(&self, command: &str) {
        ip(&format!("-n {} {command}", self.pod));
    }

    /// Runs a test on a thread and a runtime of its own in the namespace `lb`.
    pub(crate) fn run<F: Future>(&self, test: impl FnOnce() -> F + Send) {
        in_namespace(&self.lb, || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
        });
    }

    /// Runs a test with a watcher of eth0.
    pub(crate) fn watch<F: Future>(
        &self,
        test: impl FnOnce(HopWatcher, watch::Receiver<Arc<Hops>>) -> F + Send,
    ) {
        self.run(async || {
            let watcher = HopWatcher::start(vec!["eth0".to_owned()]).await.unwrap();
            let hops = watcher.subscribe();
            test(watcher, hops).await;
        });
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for ns in [&self.lb, &self.pod] {
            let _ = Command::new("ip").args(["netns", "del", ns]).stderr(Stdio::null()).status();
        }
    }
}

pub(crate) fn ip(command: &str) {
    let (ok, _, error) = try_ip(command);
    assert!(ok, "ip {command}: {error}");
}

pub(crate) fn try_ip(command: &str) -> (bool, String, String) {
    let done =
        Command::new("ip").args(command.split_whitespace()).output().expect("run ip (package iproute2)");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.success(), text(&done.stdout), text(&done.stderr))
}

/// The kernel takes notice of a carrier a while after the interface is switched on, and drops frames until then.
pub(crate) fn await_carrier(ns: &str) {
    let deadline = Instant::now() + EVENTUALLY;
    while !try_ip(&format!("-n {ns} -br link show eth0")).1.contains(" UP ") {
        assert!(Instant::now() < deadline, "eth0 in {ns} has no carrier");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn in_namespace<R: Send>(ns: &str, work: impl FnOnce() -> R + Send) -> R {
    let enter_and_work = || {
        let file = File::open(format!("/var/run/netns/{ns}")).unwrap();
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    };
    std::thread::scope(|scope| scope.spawn(enter_and_work).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

pub(crate) fn sysctl(ns: &str, key: &str, value: &str) {
    in_namespace(ns, || {
        fs::write(format!("/proc/sys/{key}"), value).unwrap_or_else(|e| panic!("{key}: {e}"));
    });
}

pub(crate) fn addresses(list: &[&str]) -> BTreeSet<IpAddr> {
    list.iter().map(|a| a.parse().unwrap()).collect()
}

pub(crate) fn mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text.split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

pub(crate) fn port_index(hops: &Hops) -> u32 {
    hops.ports["eth0"].as_ref().unwrap().facts.ifindex
}

/// Whether every target has the next hop `mac` out of eth0 without tags.
pub(crate) fn all_lead_to(hops: &Hops, targets: &[&str], to: &str) -> bool {
    let Some(Ok(port)) = hops.ports.get("eth0") else { return false };
    let wanted = NextHop { ifindex: port.facts.ifindex, mac: mac(to), vlan: VlanTags::default() };
    addresses(targets).iter().all(|target| hops.next.get(target) == Some(&Ok(wanted)))
}

/// Whether the target has no next hop, with this message.
pub(crate) fn fails(hops: &Hops, target: &str, message: &str) -> bool {
    let target: IpAddr = target.parse().unwrap();
    matches!(hops.next.get(&target), Some(Err(error)) if error.to_string() == message)
}

pub(crate) async fn expect(
    hops: &mut watch::Receiver<Arc<Hops>>,
    what: &str,
    within: Duration,
    holds: impl Fn(&Hops) -> bool,
) {
    let reached =
        tokio::time::timeout(within, hops.wait_for(|now| holds(now))).await.is_ok_and(|r| r.is_ok());
    assert!(reached, "{what}: not within {within:?}; the last state is {:#?}", hops.borrow());
}
