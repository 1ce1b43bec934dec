//! Which devices take frames that are redirected to them: generic netlink, family `netdev` (from Linux 6.3 on).
//!
//! A redirect to a device that takes none is lost without a word: the kernel learns of it after the program's verdict.
//! rtnetlink says nothing of it either, not even when it changes.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use netlink_packet_generic::ctrl::nlas::{GenlCtrlAttrs, McastGrpAttrs};
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use rtnetlink::packet_core::{
    DecodeError, Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable, NlasIterator, ParseableParametrized, parse_u32, parse_u64,
};
use rtnetlink::proto::sys::protocols::NETLINK_GENERIC;
use rtnetlink::proto::sys::{AsyncSocket, SocketAddr};
use rtnetlink::proto::{ConnectionHandle, NetlinkProtoError, new_connection};
use tokio::task::JoinHandle;

use crate::net::NetError;
use crate::net::netlink::{in_time, socket_error};

const FAMILY: &str = "netdev";
/// The group that is told of devices and their features.
const GROUP: &str = "mgmt";

// Linux: include/uapi/linux/netdev.h.
const CMD_DEV_GET: u8 = 1;
const CMD_DEV_DEL_NTF: u8 = 3;
const ATTRIBUTE_IFINDEX: u16 = 1;
const ATTRIBUTE_XDP_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_BASIC`: a program can be attached in the driver.
const BASIC: u64 = 1;
/// `NETDEV_XDP_ACT_NDO_XMIT`: the device sends what is redirected to it.
const NDO_XMIT: u64 = 1 << 2;

/// Whether a device can do something, by interface index.
pub(crate) type Targets = BTreeMap<u32, bool>;

/// Something that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A device is new or different: its index, and whether it takes redirected frames.
    Device(u32, bool),
    /// A device is gone.
    Gone(u32),
    /// Changes were lost.
    Overrun,
}

/// Asks for and follows what devices can do.
pub(crate) struct Netdev {
    family: u16,
    handle: ConnectionHandle<GenlMessage<Message>>,
    messages: BoxStream<'static, NetlinkMessage<GenlMessage<Message>>>,
    _connection: Connection,
}

impl Netdev {
    /// Opens a socket in the network namespace of the calling thread, on the current tokio runtime. From then on
    /// [`Netdev::next`] knows of every change. `None` when the kernel does not have the family.
    pub(crate) async fn open() -> Result<Option<Self>, NetError> {
        let Some((family, group)) = find_family().await? else { return Ok(None) };
        let (mut connection, handle, messages) = new_connection(NETLINK_GENERIC).map_err(socket_error)?;
        connection.socket_mut().socket_mut().add_membership(group).map_err(socket_error)?;
        let messages = messages.map(|(message, _)| message).boxed();
        Ok(Some(Self { family, handle, messages, _connection: Connection(tokio::spawn(connection)) }))
    }

    /// Whether each device takes redirected frames.
    pub(crate) async fn targets(&mut self) -> Result<Targets, NetError> {
        Ok(self.features().await?.into_iter().map(|(ifindex, all)| (ifindex, all & NDO_XMIT != 0)).collect())
    }

    /// Whether each device takes a program in its driver.
    pub(crate) async fn native(&mut self) -> Result<Targets, NetError> {
        Ok(self.features().await?.into_iter().map(|(ifindex, all)| (ifindex, all & BASIC != 0)).collect())
    }

    /// Flags of every device, by interface index.
    async fn features(&mut self) -> Result<BTreeMap<u32, u64>, NetError> {
        const WHAT: &str = "list XDP features";
        let header = GenlHeader { cmd: CMD_DEV_GET, version: 1 };
        let request = GenlMessage::new(header, Message::default(), self.family);
        // The kernel leaves NLM_F_MULTI out of these answers, and without it netlink-proto takes the first one for the
        // only one, unless an acknowledgement is to follow. It does not for a dump; what follows is its end.
        let answers = ask(&self.handle, WHAT, request, NLM_F_DUMP | NLM_F_ACK).await?;
        let mut all = BTreeMap::new();
        for answer in answers {
            let Message { ifindex, features, .. } = answer.map_err(|errno| refused(WHAT, errno))?.payload;
            all.insert(ifindex, features);
        }
        Ok(all)
    }

    /// The next change. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Change, NetError> {
        loop {
            let message = self.messages.next().await;
            let message = message.ok_or(NetError::Lost { what: "wait for changes of XDP features" })?;
            if let Some(change) = change(message) {
                return Ok(change);
            }
        }
    }
}

/// Ends with its owner.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Numbers of the family and of its group; `None` on a kernel that is too old for it.
async fn find_family() -> Result<Option<(u16, u32)>, NetError> {
    const WHAT: &str = "look up generic netlink family netdev";
    let (connection, handle, _) = new_connection(NETLINK_GENERIC).map_err(socket_error)?;
    let _connection = Connection(tokio::spawn(connection));
    let name = GenlCtrlAttrs::FamilyName(FAMILY.to_owned());
    let request = GenlMessage::from_payload(GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![name] });
    let nlas = match ask(&handle, WHAT, request, 0).await?.pop() {
        Some(Ok(family)) => family.payload.nlas,
        Some(Err(libc::ENOENT)) => return Ok(None),
        Some(Err(errno)) => return Err(refused(WHAT, errno)),
        None => return Err(NetError::Lost { what: WHAT }),
    };
    let id = nlas.iter().find_map(|nla| if let GenlCtrlAttrs::FamilyId(id) = nla { Some(*id) } else { None });
    let groups =
        nlas.iter().find_map(|nla| if let GenlCtrlAttrs::McastGroups(g) = nla { Some(g) } else { None });
    let group = groups.into_iter().flatten().find_map(|group| group_id(group));
    let found = id.zip(group);
    found.map(Some).ok_or_else(|| NetError::Request { what: WHAT, why: format!("no id or no group {GROUP}") })
}

fn group_id(group: &[McastGrpAttrs]) -> Option<u32> {
    let named = group.iter().any(|nla| matches!(nla, McastGrpAttrs::Name(name) if name == GROUP));
    let id = group.iter().find_map(|nla| if let McastGrpAttrs::Id(id) = nla { Some(*id) } else { None });
    id.filter(|_| named)
}

/// Sends a request and collects the answers; a refusal is an answer, with its `errno`.
async fn ask<F>(
    handle: &ConnectionHandle<GenlMessage<F>>,
    what: &'static str,
    request: GenlMessage<F>,
    flags: u16,
) -> Result<Vec<Result<GenlMessage<F>, i32>>, NetError>
where
    F: GenlFamily + Emitable + std::fmt::Debug,
    GenlMessage<F>: NetlinkSerializable + NetlinkDeserializable,
{
    let mut message = NetlinkMessage::from(request);
    message.header.flags = NLM_F_REQUEST | flags;
    message.finalize();
    let failed = |e: NetlinkProtoError| NetError::Request { what, why: e.to_string() };
    let answers = handle.request(message, SocketAddr::new(0, 0)).map_err(failed)?;
    let answers = in_time(what, answers.collect::<Vec<_>>()).await?;
    Ok(answers.into_iter().filter_map(outcome).collect())
}

fn outcome<F>(answer: NetlinkMessage<GenlMessage<F>>) -> Option<Result<GenlMessage<F>, i32>> {
    if let NetlinkPayload::Error(refused) = &answer.payload {
        return Some(Err(refused.raw_code().saturating_neg()));
    }
    if let NetlinkPayload::InnerMessage(message) = answer.payload { Some(Ok(message)) } else { None }
}

fn refused(what: &'static str, errno: i32) -> NetError {
    NetError::Request { what, why: std::io::Error::from_raw_os_error(errno).to_string() }
}

fn change(message: NetlinkMessage<GenlMessage<Message>>) -> Option<Change> {
    if let NetlinkPayload::Overrun(_) = &message.payload {
        return Some(Change::Overrun);
    }
    let NetlinkPayload::InnerMessage(message) = message.payload else { return None };
    message.payload.change()
}

/// A message about a device, as far as it is read here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Message {
    command: u8,
    /// 0 in a message that is not about a device.
    ifindex: u32,
    features: u64,
}

impl Message {
    fn change(self) -> Option<Change> {
        match self {
            Self { ifindex: 0, .. } => None,
            Self { command: CMD_DEV_DEL_NTF, ifindex, .. } => Some(Change::Gone(ifindex)),
            Self { ifindex, features, .. } => Some(Change::Device(ifindex, features & NDO_XMIT != 0)),
        }
    }
}

impl GenlFamily for Message {
    fn family_name() -> &'static str {
        FAMILY
    }

    fn command(&self) -> u8 {
        self.command
    }

    fn version(&self) -> u8 {
        1
    }
}

/// A request for every device has no attributes.
impl Emitable for Message {
    fn buffer_len(&self) -> usize {
        0
    }

    fn emit(&self, _: &mut [u8]) {}
}

impl ParseableParametrized<[u8], GenlHeader> for Message {
    fn parse_with_param(attributes: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        let mut message = Self { command: header.cmd, ..Self::default() };
        for attribute in NlasIterator::new(attributes) {
            let attribute = attribute?;
            match attribute.kind() {
                ATTRIBUTE_IFINDEX => message.ifindex = parse_u32(attribute.value())?,
                ATTRIBUTE_XDP_FEATURES => message.features = parse_u64(attribute.value())?,
                _ => {}
            }
        }
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn told(command: u8, attributes: &[Vec<u8>]) -> Option<Change> {
        let header = GenlHeader { cmd: command, version: 1 };
        Message::parse_with_param(&attributes.concat(), header).unwrap().change()
    }

    #[test]
    fn only_the_one_feature_counts() {
        let device = attribute(ATTRIBUTE_IFINDEX, &7_u32.to_ne_bytes());
        let zero_copy_segments = attribute(4, &1_u32.to_ne_bytes());
        for (features, takes) in [(0, false), (0x23, false), (0x67, true), (4, true), (!4, false)] {
            let features = attribute(ATTRIBUTE_XDP_FEATURES, &u64::to_ne_bytes(features));
            let message = [device.clone(), attribute(2, &[]), features, zero_copy_segments.clone()];
            // New, and changed.
            for command in [2, 4] {
                assert_eq!(told(command, &message), Some(Change::Device(7, takes)));
            }
            assert_eq!(told(CMD_DEV_DEL_NTF, &message), Some(Change::Gone(7)));
        }
    }

    #[test]
    fn other_messages_of_the_family_are_none_of_ours() {
        // A page pool has other attributes under other commands; none has the number of a device's index.
        assert_eq!(told(6, &[]), None);
        let header = GenlHeader { cmd: 4, version: 1 };
        assert!(Message::parse_with_param(&[8, 0, 1, 0, 7], header).is_err(), "cut off");
    }
}
