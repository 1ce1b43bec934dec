//! Segments of our own making: every byte of both headers.

use lb_common::addr::Addr;
use lb_common::checksum::{addr_sum, fold};
use lb_common::headers::{TCP_LEN, Tcp};
use lb_common::offer::OPTIONS_LEN;
use lb_common::reason::Reason;
use lb_common::service::PROTOCOL_TCP;

use crate::family::Family;
use crate::packet::{Both, Packet};
use crate::parse::Frame;

/// What is in a segment without data. Ports are in network order, numbers in host order.
pub(crate) struct Own<'a> {
    pub(crate) src: &'a Addr,
    pub(crate) dst: &'a Addr,
    pub(crate) sport: u16,
    pub(crate) dport: u16,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    /// A SYN's.
    pub(crate) options: Option<[u8; OPTIONS_LEN]>,
}

/// Blanks what may stay in the frame as padding: data does not travel as such (RFC 894). A segment of IPv4 without tags
/// and options leaves six bytes of the least frame, every other one less.
#[inline(always)]
fn clear(packet: &mut Packet, end: usize) {
    for at in [end, end + 2, end + 4] {
        let Some(two) = packet.header_mut::<[u8; 2]>(at) else { return };
        *two = [0; 2];
    }
}

impl Own<'_> {
    /// Writes the segment over the packet in a frame, which becomes as long as it must be.
    #[inline(always)]
    pub(crate) fn write<F: Family>(&self, packet: &mut Packet, frame: &Frame) -> Result<(), Reason> {
        let options = if self.options.is_some() { OPTIONS_LEN } else { 0 };
        let tcp_len = TCP_LEN + options;
        let end = frame.l3 + F::LEN + tcp_len;
        clear(packet, end);
        if !packet.set_len(end) {
            return Err(Reason::Resize);
        }
        let tcp = Tcp {
            source: self.sport.to_ne_bytes(),
            dest: self.dport.to_ne_bytes(),
            seq: self.seq.to_be_bytes(),
            ack: self.ack.to_be_bytes(),
            offset: (tcp_len as u8 / 4) << 4,
            flags: self.flags,
            window: self.window.to_be_bytes(),
            check: self.checksum(tcp_len).to_ne_bytes(),
            urgent: [0; 2],
        };
        let headers = packet.header_mut::<Both<F::Header, Tcp>>(frame.l3).ok_or(Reason::Resize)?;
        F::compose(&mut headers.first, self.src, self.dst, tcp_len as u16);
        headers.second = tcp;
        if let Some(options) = self.options {
            let at = frame.l3 + F::LEN + TCP_LEN;
            *packet.header_mut::<[u8; OPTIONS_LEN]>(at).ok_or(Reason::Resize)? = options;
        }
        Ok(())
    }

    /// The TCP checksum (RFC 9293 §3.1), as it stands in memory.
    #[inline(always)]
    fn checksum(&self, tcp_len: usize) -> u16 {
        let word = |host: u16| u64::from(host.to_be());
        let long = |host: u32| u64::from(host.to_be());
        let mut sum = addr_sum(self.src) + addr_sum(self.dst);
        sum += word(u16::from(PROTOCOL_TCP)) + word(tcp_len as u16);
        sum += u64::from(self.sport) + u64::from(self.dport) + long(self.seq) + long(self.ack);
        sum += word((tcp_len as u16 / 4) << 12 | u16::from(self.flags)) + word(self.window);
        if let Some(o) = self.options {
            for i in 0..OPTIONS_LEN / 4 {
                sum += u64::from(u32::from_ne_bytes([o[4 * i], o[4 * i + 1], o[4 * i + 2], o[4 * i + 3]]));
            }
        }
        !fold(sum)
    }
}
