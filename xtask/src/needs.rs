//! What a machine must have, by what it is used for.

use std::path::Path;

use clap::ValueEnum;

use crate::run::which;

/// What a set-up is for. Each wants more than `build`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Purpose {
    /// Compiling everything, the XDP program included.
    Build,
    /// The demo: the lab's tools.
    Demo,
    /// All tests: the lab's tools, what the benchmarks and the stand of Supersets need (they are tested, too), and the kit for
    /// another kernel.
    Test,
    /// The linters.
    Lint,
    /// The benchmarks, with the balancers that they compare with.
    Bench,
    /// The stand of real Supersets: what they need themselves, and the balancers that are compared with.
    Superset,
    /// The stand, and the browser for its dashboard.
    Browser,
    /// All of these.
    All,
}

/// Whether a set-up for `wanted` brings what `part` needs.
pub(crate) fn includes(wanted: Purpose, part: Purpose) -> bool {
    match (wanted, part) {
        (Purpose::All, _) | (_, Purpose::Build) => true,
        (Purpose::Test | Purpose::Bench | Purpose::Superset | Purpose::Browser, Purpose::Demo) => true,
        (Purpose::Test | Purpose::Superset | Purpose::Browser, Purpose::Bench) => true,
        (Purpose::Test | Purpose::Browser, Purpose::Superset) => true,
        (wanted, part) => wanted == part,
    }
}

/// One program (or file) that a Debian package brings.
pub(crate) struct Tool {
    /// Name of a program, or an absolute path of a file.
    pub(crate) probe: &'static str,
    /// Debian package.
    pub(crate) package: &'static str,
    /// Who needs it.
    pub(crate) purpose: Purpose,
    /// What for.
    pub(crate) why: &'static str,
}

impl Tool {
    /// Whether it is here.
    pub(crate) fn is_here(&self) -> bool {
        if self.probe.starts_with('/') { Path::new(self.probe).exists() } else { which(self.probe).is_some() }
    }
}

/// Everything but the eBPF toolchain (see [`crate::toolchain`]) and what cargo installs.
pub(crate) const TOOLS: [Tool; 13] = [
    Tool { probe: "ip", package: "iproute2", purpose: Purpose::Demo, why: "network namespaces of the lab" },
    Tool { probe: "ethtool", package: "ethtool", purpose: Purpose::Demo, why: "veth offloads in the lab" },
    Tool { probe: "bpftool", package: "bpftool", purpose: Purpose::Demo, why: "looking at loaded programs" },
    Tool { probe: "curl", package: "curl", purpose: Purpose::Demo, why: "real HTTP through the balancer" },
    Tool { probe: "nft", package: "nftables", purpose: Purpose::Bench, why: "compared: kernel DNAT" },
    Tool { probe: "haproxy", package: "haproxy", purpose: Purpose::Bench, why: "compared: TCP proxy" },
    Tool {
        probe: "/usr/lib/nginx/modules/ngx_stream_module.so",
        package: "libnginx-mod-stream",
        purpose: Purpose::Bench,
        why: "compared: TCP proxy (brings nginx)",
    },
    Tool { probe: "wrk", package: "wrk", purpose: Purpose::Bench, why: "HTTP load" },
    Tool {
        probe: "/usr/lib/postgresql/15/bin/postgres",
        package: "postgresql-15",
        purpose: Purpose::Superset,
        why: "Superset's metadata and its data",
    },
    Tool {
        probe: "redis-server",
        package: "redis-server",
        purpose: Purpose::Superset,
        why: "Superset's sessions and cache",
    },
    Tool {
        probe: "/usr/lib/python3.11/ensurepip/__init__.py",
        package: "python3.11-venv",
        purpose: Purpose::Superset,
        why: "Superset itself, from PyPI",
    },
    Tool { probe: "chromium", package: "chromium", purpose: Purpose::Browser, why: "looks at the dashboard" },
    Tool {
        probe: "chromedriver",
        package: "chromium-driver",
        purpose: Purpose::Browser,
        why: "steers the browser",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_purpose_brings_the_build() {
        for purpose in Purpose::value_variants() {
            assert!(includes(*purpose, Purpose::Build));
            assert!(includes(Purpose::All, *purpose));
            assert!(includes(*purpose, *purpose));
        }
        assert!(includes(Purpose::Bench, Purpose::Demo));
        assert!(includes(Purpose::Test, Purpose::Demo));
        assert!(includes(Purpose::Test, Purpose::Bench), "no test of a benchmark is skipped");
        assert!(!includes(Purpose::Demo, Purpose::Test), "the demo needs no other kernel: half a gigabyte");
        assert!(includes(Purpose::Test, Purpose::Superset), "login, long query, kill and rolling are tests");
        assert!(!includes(Purpose::Superset, Purpose::Browser), "only one scenario has a browser");
        assert!(!includes(Purpose::Bench, Purpose::Superset));
        assert!(!includes(Purpose::Build, Purpose::Test));
        assert!(!includes(Purpose::Test, Purpose::Lint));
    }
}
