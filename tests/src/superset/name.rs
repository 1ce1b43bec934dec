//! Which scenarios there are. Shared with `cargo xtask`, which lists them without building anything.

use clap::ValueEnum;

/// Something that users do while something happens to the replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Scenario {
    /// One login, then pages of all replicas
    Login,
    /// 90 s of silence in SQL Lab, while another replica is killed and SYNs flood
    LongQuery,
    /// A replica is killed under page views
    Kill,
    /// Every replica is drained, stopped, started and warmed under page views and queries
    Rolling,
    /// Every thread of a replica has a long query
    Busy,
    /// A replica hangs under page views
    Hang,
    /// A replica's link is cut under page views
    Cut,
    /// A replica gets SIGTERM with a query under way, and no drain before it
    Graceful,
    /// PostgreSQL is down, then Redis
    Databases,
    /// TLS and HTTP/2 pass through to nginx in front of each replica
    Tls,
    /// A real browser loads the dashboard while replicas are restarted
    Dashboard,
    /// 200 WebSockets, idle for five minutes, through a drain and a reload
    Websocket,
    /// Three replicas become five and three again, by reloads under page views
    Scale,
    /// The doctor finds each fault of a replica, a database or the balancer's host
    Doctor,
}

impl Scenario {
    /// As it is called on the command line, in tables and in files.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::LongQuery => "long-query",
            Self::Kill => "kill",
            Self::Rolling => "rolling",
            Self::Busy => "busy",
            Self::Hang => "hang",
            Self::Cut => "cut",
            Self::Graceful => "graceful",
            Self::Databases => "databases",
            Self::Tls => "tls",
            Self::Dashboard => "dashboard",
            Self::Websocket => "websocket",
            Self::Scale => "scale",
            Self::Doctor => "doctor",
        }
    }
}
