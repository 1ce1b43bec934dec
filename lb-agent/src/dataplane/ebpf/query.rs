//! Which XDP program an interface has: one question to the kernel over netlink.

use std::io;
use std::os::fd::AsRawFd;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};

/// Room for the answer about one interface, its virtual functions included.
const ANSWER: usize = 64 * 1024;

/// Id of the program that is attached to the interface, in whatever mode.
///
/// # Errors
/// When there is no such interface, or netlink cannot be used.
pub(super) fn attached_program(ifindex: u32) -> io::Result<Option<u32>> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        Some(SockProtocol::NetlinkRoute),
    )?;
    let mut link = LinkMessage::default();
    link.header.index = ifindex;
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetLink(link));
    request.header.flags = NLM_F_REQUEST;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    send(netlink.as_raw_fd(), &bytes, MsgFlags::empty())?;
    let mut answer = vec![0; ANSWER];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let answer = answer.get(..length).unwrap_or_default();
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(answer).map_err(io::Error::other)?;
    if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = &answer.payload {
        return Ok(program_of(link));
    }
    if let NetlinkPayload::Error(e) = &answer.payload {
        return Err(e.to_io());
    }
    Err(io::Error::other(format!("unexpected answer from netlink: {:?}", answer.payload)))
}

fn program_of(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| {
        let LinkAttribute::Xdp(xdp) = attribute else { return None };
        xdp.iter().find_map(|xdp| {
            let (LinkXdp::ProgId(id)
            | LinkXdp::DrvProgId(id)
            | LinkXdp::SkbProgId(id)
            | LinkXdp::HwProgId(id)) = xdp
            else {
                return None;
            };
            (*id != 0).then_some(*id)
        })
    })
}
