//! The rows of the table: what is measured.

/// Which values are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Better {
    /// Rates.
    Higher,
    /// Times.
    Lower,
}

/// Something that is measured of every program, once a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Row {
    /// Requests over 64 connections that stay.
    KeepAlive,
    /// Requests over 64 connections at once, each request over a new one.
    NewConnections,
    /// Connect, request, response: median.
    ExchangeP50,
    /// The same, 99th percentile.
    ExchangeP99,
    /// 64 bytes there and back over one connection: median.
    PingP50,
    /// The same, 99th percentile.
    PingP99,
    /// One connection, to the client.
    BulkDown,
    /// One connection, to the server.
    BulkUp,
    /// [`Row::NewConnections`] with the balancer on a CPU of its own and all else on the other.
    ApartConnections,
    /// CPU time of the balancer meanwhile.
    CpuPerConnection,
    /// Frames of 1,000 flows.
    RateFew,
    /// CPU time of the balancer for each.
    TimeFew,
    /// Frames of 200,000 flows.
    RateMany,
    /// CPU time of the balancer for each.
    TimeMany,
    /// SYNs, each from another client.
    RateSyns,
    /// CPU time of the balancer for each.
    TimeSyns,
}

impl Row {
    /// All of them, as they stand in the table.
    pub(super) const ALL: [Self; 16] = [
        Self::KeepAlive,
        Self::NewConnections,
        Self::ExchangeP50,
        Self::ExchangeP99,
        Self::PingP50,
        Self::PingP99,
        Self::BulkDown,
        Self::BulkUp,
        Self::ApartConnections,
        Self::CpuPerConnection,
        Self::RateFew,
        Self::TimeFew,
        Self::RateMany,
        Self::TimeMany,
        Self::RateSyns,
        Self::TimeSyns,
    ];

    /// As it is called in tables.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::KeepAlive => "requests, keep-alive",
            Self::NewConnections => "requests, new connection each",
            Self::ExchangeP50 => "connect-request-response p50",
            Self::ExchangeP99 => "connect-request-response p99",
            Self::PingP50 => "ping-pong p50",
            Self::PingP99 => "ping-pong p99",
            Self::BulkDown => "bulk down",
            Self::BulkUp => "bulk up",
            Self::ApartConnections => "new connections, balancer's own CPU",
            Self::CpuPerConnection => "balancer CPU per 1,000 connections",
            Self::RateFew => "packet rate, 1,000 flows",
            Self::TimeFew => "time per packet, 1,000 flows",
            Self::RateMany => "packet rate, 200,000 flows",
            Self::TimeMany => "time per packet, 200,000 flows",
            Self::RateSyns => "packet rate, SYNs",
            Self::TimeSyns => "time per packet, SYNs",
        }
    }

    /// Its unit.
    pub(super) const fn unit(self) -> &'static str {
        match self {
            Self::KeepAlive | Self::NewConnections | Self::ApartConnections => "1/s",
            Self::ExchangeP50 | Self::ExchangeP99 | Self::PingP50 | Self::PingP99 => "µs",
            Self::BulkDown | Self::BulkUp => "Gbit/s",
            Self::CpuPerConnection => "ms",
            Self::RateFew | Self::RateMany | Self::RateSyns => "Mpps",
            Self::TimeFew | Self::TimeMany | Self::TimeSyns => "ns",
        }
    }

    /// Which values are better.
    pub(super) const fn better(self) -> Better {
        match self {
            Self::KeepAlive
            | Self::NewConnections
            | Self::ApartConnections
            | Self::BulkDown
            | Self::BulkUp
            | Self::RateFew
            | Self::RateMany
            | Self::RateSyns => Better::Higher,
            Self::ExchangeP50
            | Self::ExchangeP99
            | Self::PingP50
            | Self::PingP99
            | Self::CpuPerConnection
            | Self::TimeFew
            | Self::TimeMany
            | Self::TimeSyns => Better::Lower,
        }
    }
}
