//! Requests to and events from the kernel, each on a socket of its own: a flood of events must not make an answer
//! get lost.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, TryStreamExt};
use ipnet::IpNet;
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState as KernelState,
};
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::proto::sys::AsyncSocket;
use rtnetlink::{Handle, MulticastGroup};
use tokio::task::JoinHandle;

use crate::net::NetError;
use crate::net::decode::{self, Event};
use crate::net::links::Links;
use crate::net::resolve::{Neighbour, NeighbourKey, Route, RouteError};
use crate::net::warm::Ask;

/// The kernel answers within microseconds; beyond this the answer was lost.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Receive buffer of the event socket, in bytes: some ten thousand neighbour events.
const EVENT_BUFFER: usize = 4 << 20;

/// A socket for requests.
pub(crate) struct Netlink {
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Netlink {
    /// Opens it in the network namespace of the calling thread, on the current tokio runtime.
    pub(crate) fn connect() -> Result<Self, NetError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(socket_error)?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// Every interface.
    pub(crate) async fn links(&self) -> Result<Links, NetError> {
        let dump = self.handle.link().get().execute();
        Ok(collect("list interfaces", dump).await?.iter().filter_map(decode::link).collect())
    }

    /// Every IP neighbour.
    pub(crate) async fn neighbours(&self) -> Result<BTreeMap<NeighbourKey, Neighbour>, NetError> {
        let dump = self.handle.neighbours().get().execute();
        Ok(collect("list neighbours", dump).await?.iter().filter_map(decode::neighbour).collect())
    }

    /// Own addresses with their prefixes, by interface index.
    pub(crate) async fn addresses(&self) -> Result<Vec<(u32, IpNet)>, NetError> {
        let dump = self.handle.address().get().execute();
        Ok(collect("list addresses", dump).await?.iter().filter_map(decode::address).collect())
    }

    /// Where the kernel would send a packet for `target`. That there is no way is an answer, not a failure.
    pub(crate) async fn route(&self, target: IpAddr) -> Result<Result<Route, RouteError>, NetError> {
        const WHAT: &str = "look up a route";
        let mut request = RouteMessage::default();
        (request.header.address_family, request.header.destination_prefix_length) = match target {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        request.attributes.push(RouteAttribute::Destination(target.into()));
        let mut answers = Box::pin(self.handle.route().get(request).execute());
        match in_time(WHAT, answers.next()).await? {
            Some(Ok(message)) => Ok(decode::route(&message)),
            Some(Err(rtnetlink::Error::NetlinkError(refused))) => {
                let errno = refused.raw_code().saturating_neg();
                Ok(Err(decode::route_refused(errno, refused.to_io().to_string())))
            }
            Some(Err(error)) => Err(request_error(WHAT, &error)),
            None => Err(NetError::Lost { what: WHAT }),
        }
    }

    /// Asks for a neighbour's MAC. The outcome comes as an event.
    pub(crate) async fn ask(&self, (ifindex, address): NeighbourKey, ask: Ask) -> Result<(), NetError> {
        const WHAT: &str = "ask for a neighbour";
        let mut entry = NeighbourMessage::default();
        entry.header.family = match address {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        entry.header.ifindex = ifindex;
        entry.attributes.push(NeighbourAttribute::Destination(address.into()));
        // `neigh_add` in net/core/neighbour.c: NTF_USE behaves like a packet that is to be sent; a new state of
        // NUD_PROBE sends a solicitation now, to the MAC that is known. Only the former may make an entry.
        let flags = match ask {
            Ask::Resolve => {
                entry.header.flags = NeighbourFlags::Use;
                NLM_F_CREATE
            }
            Ask::Probe => {
                entry.header.state = KernelState::Probe;
                NLM_F_REPLACE
            }
        };
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewNeighbour(entry));
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut answers = self.handle.clone().request(message).map_err(|e| request_error(WHAT, &e))?;
        while let Some(answer) = in_time(WHAT, answers.next()).await? {
            if let NetlinkPayload::Error(refused) = answer.payload {
                return Err(NetError::Request { what: WHAT, why: refused.to_io().to_string() });
            }
        }
        Ok(())
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// A socket that is told of changes.
pub(crate) struct Events {
    messages: BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>,
    connection: JoinHandle<()>,
}

impl Events {
    pub(crate) fn subscribe() -> Result<Self, NetError> {
        // Changes of nexthop objects come as route changes too (net.ipv4.nexthop_compat_mode, on by default).
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
        ];
        let (mut connection, _, messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(socket_error)?;
        let socket = connection.socket_mut().socket_mut();
        // Beyond net.core.rmem_max with CAP_NET_ADMIN; without it (`lb-agent check`), as large as is allowed.
        setsockopt(socket, sockopt::RcvBufForce, &EVENT_BUFFER)
            .or_else(|_| setsockopt(socket, sockopt::RcvBuf, &EVENT_BUFFER))
            .map_err(|errno| socket_error(errno.into()))?;
        let messages = messages.map(|(message, _)| message).boxed();
        Ok(Self { messages, connection: tokio::spawn(connection) })
    }

    /// The next change that means something to us. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Event, NetError> {
        loop {
            let message = self.messages.next().await.ok_or(NetError::Lost { what: "wait for events" })?;
            if let Some(event) = decode::event(message) {
                return Ok(event);
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

async fn collect<T>(
    what: &'static str,
    dump: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, NetError> {
    in_time(what, dump.try_collect()).await?.map_err(|e| request_error(what, &e))
}

pub(crate) async fn in_time<F: Future>(what: &'static str, answer: F) -> Result<F::Output, NetError> {
    tokio::time::timeout(ANSWER_WITHIN, answer).await.map_err(|_| NetError::Lost { what })
}

fn request_error(what: &'static str, error: &rtnetlink::Error) -> NetError {
    NetError::Request { what, why: error.to_string() }
}

pub(crate) fn socket_error(source: std::io::Error) -> NetError {
    NetError::Io { what: "open a netlink socket".to_owned(), source }
}
