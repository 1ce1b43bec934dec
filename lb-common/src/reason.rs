//! Why a packet was not simply forwarded.

/// What the kernel is told to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To the host's own network stack, untouched.
    Pass,
    /// Away.
    Drop,
    /// Back out of the interface that it came in by, rewritten into an answer.
    Reply,
    /// Back out of the interface that it came in by, rewritten into a RST; unless there were too many of those.
    Reset,
    /// On, as a packet of our own making.
    Sent,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal => $verdict:ident,)+) => {
        /// Every way a packet can end other than being forwarded: the index of its counter, its metric
        /// label, and the verdict. Dense from 0.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        #[must_use]
        pub enum Reason { $($(#[doc = $doc])+ $variant,)+ }

        impl Reason {
            /// Every reason in the order of its counter.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Value of the `reason` label in metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// One sentence for operators.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+),)+ }
            }

            /// The one table from reason to verdict.
            #[inline(always)]
            #[must_use]
            pub const fn verdict(self) -> Verdict {
                match self { $(Self::$variant => Verdict::$verdict,)+ }
            }
        }
    };
}

reasons! {
    /// Not ours to judge: the frame is neither IPv4 nor IPv6 (nor ARP for an announced VIP).
    NotIp = "not-ip" => Pass,
    /// The destination MAC is another machine's, or a group's.
    NotLocal = "not-local" => Pass,
    /// The frame came in by an interface that the configuration does not name.
    UnknownPort = "unknown-port" => Pass,
    /// More than two VLAN tags.
    VlanDepth = "vlan-depth" => Pass,
    /// The frame ends within the Ethernet, VLAN or fixed IP header.
    ShortFrame = "short-frame" => Pass,
    /// IP, but neither TCP nor ICMP.
    OtherProtocol = "other-protocol" => Pass,
    /// Addressed to no service: the host's own traffic.
    NoService = "no-service" => Pass,
    /// ICMP that is no echo request to a VIP and no error about a flow.
    IcmpOther = "icmp-other" => Pass,
    /// The IP version or header length contradicts the ethertype or the specification.
    IpHeader = "ip-header" => Pass,
    /// To a VIP, and longer by its IP header than the frame is.
    IpLength = "ip-length" => Drop,
    /// To a VIP, with IPv4 options or IPv6 extension headers.
    IpOptions = "ip-options" => Drop,
    /// To a VIP, a fragment.
    Fragment = "fragment" => Drop,
    /// To a VIP, with a TTL or hop limit that ends here.
    TtlExpired = "ttl-expired" => Drop,
    /// To a VIP, too short for a TCP header.
    TcpShort = "tcp-short" => Drop,
    /// To a VIP, with a TCP data offset that is too small or lies outside of the packet.
    TcpOffset = "tcp-offset" => Drop,
    /// To a VIP, with TCP flags that no TCP sends: none, SYN+FIN, SYN+RST.
    TcpFlags = "tcp-flags" => Drop,
    /// To a service, belongs to no known flow, and is no SYN: its sender is told.
    FlowUnknown = "flow-unknown" => Reset,
    /// The backend of the flow was removed from the configuration: the client is told.
    BackendGone = "backend-gone" => Reset,
    /// The backend of the flow is dead: the client is told.
    BackendDead = "backend-dead" => Reset,
    /// As one of these three, but a RST itself, which is not answered.
    StrayReset = "stray-reset" => Drop,
    /// As one of these, but this CPU has sent as many RSTs as it may (`agent.reset_rate`).
    ResetLimited = "reset-limited" => Drop,
    /// A backend's RST in answer to a SYN, turned into a SYN to another backend.
    SynRetried = "syn-retried" => Sent,
    /// The service has no usable backend.
    NoBackend = "no-backend" => Drop,
    /// The next hop of the chosen backend is not known.
    Unresolved = "unresolved" => Drop,
    /// No slot could be claimed: both buckets are full of live flows, or no SNAT address of the family.
    TableFull = "table-full" => Drop,
    /// The frame could not be grown or shrunk for its new VLAN tags.
    Resize = "resize" => Drop,
    /// An ICMP error about a flow that does not hold enough of the packet that caused it, or is malformed.
    IcmpShort = "icmp-short" => Drop,
    /// An ICMP error to a VIP about a flow that is not known.
    IcmpNoFlow = "icmp-no-flow" => Drop,
    /// An entry that must exist was not found in a map: a fault of Evenkeel, please report it.
    Internal = "internal" => Drop,
    /// An ICMP or ICMPv6 echo request to a VIP, answered.
    EchoReply = "echo-reply" => Reply,
    /// An ARP request for an announced VIP, answered.
    ArpReply = "arp-reply" => Reply,
    /// A neighbour solicitation for an announced VIP, answered.
    NeighborAdvert = "neighbor-advert" => Reply,
}

/// Number of reasons and of their counters.
pub const REASONS: u32 = Reason::ALL.len() as u32;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn dense_and_named_once() {
        for (i, r) in Reason::ALL.iter().enumerate() {
            assert_eq!(*r as usize, i);
            assert!(!r.help().trim().is_empty());
        }
        let names: BTreeSet<_> = Reason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
    }
}
