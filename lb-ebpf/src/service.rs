//! Is a packet ours?

use lb_common::addr::Addr;
use lb_common::reason::Reason;
use lb_common::service::{Service, ServiceKey, VipFlags};

use crate::maps;

/// The service at an address and port (network order), with its id.
#[inline(always)]
pub(crate) fn find(vip: &Addr, port: u16) -> Option<(u16, &'static Service)> {
    #[expect(clippy::needless_borrows_for_generic_args, reason = "the next aya takes references only")]
    // SAFETY: the value is a number that is copied out; a concurrent update can only give the old or the new.
    let id = *unsafe { maps::SERVICE_IDS.get(&ServiceKey::tcp(*vip, port)) }?;
    let service = maps::SERVICES.get(id)?;
    service.is_live().then_some((id as u16, service))
}

/// The flags of a VIP address.
#[inline(always)]
pub(crate) fn vip(address: &Addr) -> Option<VipFlags> {
    // SAFETY: as in `find`.
    unsafe { maps::VIPS.get(address) }.copied()
}

/// The reason to drop an odd packet, if it is addressed to a VIP; otherwise it is the host's.
#[inline(never)]
pub(crate) fn judge(dst: &Addr, reason: Reason) -> Reason {
    if vip(dst).is_some() { reason } else { Reason::NoService }
}

/// The same for a packet whose port (network order) is known.
#[inline(never)]
pub(crate) fn judge_port(dst: &Addr, port: u16, reason: Reason) -> Reason {
    if find(dst, port).is_some() { reason } else { Reason::NoService }
}
