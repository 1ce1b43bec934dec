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
    /// All tests: the lab's tools, what the benchmarks need (they are tested, too), and the kit for another kernel.
    Test,
    /// The linters.
    Lint,
    /// The benchmarks, with the balancers that they compare with.
    Bench,
    /// All of these.
    All,
}

/// Whether a set-up for `wanted` brings what `part` needs.
pub(crate) fn includes(wanted: Purpose, part: Purpose) -> bool {
    match (wanted, part) {
        (Purpose::All, _) | (_, Purpose::Build) | (Purpose::Test | Purpose::Bench, Purpose::Demo) => true,
        (Purpose::Test, Purpose::Bench) => true,
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
pub(crate) const TOOLS: [Tool; 8] = [
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
        assert!(!includes(Purpose::Build, Purpose::Test));
        assert!(!includes(Purpose::Test, Purpose::Lint));
    }
}
