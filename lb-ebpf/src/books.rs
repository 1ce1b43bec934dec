//! How many flows each backend has, and how many of them wait: every change by whoever won the swap that made it so.

use lb_common::flow::Ctrl;

use crate::{atomic, maps};

/// Takes a flow that has ended out of its backend's load. Called by whoever won the swap that ended it.
#[inline(always)]
pub(crate) fn retire(ended: Ctrl) {
    if !ended.is_open() {
        return;
    }
    if ended.is_waiting() {
        add_waiting(ended, u64::MAX);
    }
    add_flows(ended, u64::MAX);
}

/// Changes the number of flows of a flow's backend.
#[inline(always)]
pub(crate) fn add_flows(ctrl: Ctrl, change: u64) {
    if is_current(ctrl)
        && let Some(load) = maps::LOAD.get_ptr_mut(u32::from(ctrl.backend()))
    {
        // SAFETY: points into `LOAD`, whose fields are aligned words.
        unsafe { atomic::fetch_add(&raw mut (*load).flows, change) };
    }
}

#[inline(always)]
pub(crate) fn add_waiting(ctrl: Ctrl, change: u64) {
    if is_current(ctrl)
        && let Some(load) = maps::LOAD.get_ptr_mut(u32::from(ctrl.backend()))
    {
        // SAFETY: as in `add_flows`.
        unsafe { atomic::fetch_add(&raw mut (*load).waiting, change) };
    }
}

/// Whether the backend's load is still this flow's to change: a new generation starts from zero.
#[inline(always)]
fn is_current(ctrl: Ctrl) -> bool {
    maps::BACKENDS.get(u32::from(ctrl.backend())).is_some_and(|b| b.generation == ctrl.generation())
}

/// A backend has answered a SYN: it does not fail in a row any more.
#[inline(always)]
pub(crate) fn answered(ctrl: Ctrl) {
    if is_current(ctrl)
        && let Some(load) = maps::LOAD.get_ptr_mut(u32::from(ctrl.backend()))
    {
        // SAFETY: points into `LOAD`. Written only when it changes anything: the line is shared by all CPUs.
        unsafe {
            let failures = &raw mut (*load).failures;
            if failures.read_volatile() != 0 {
                failures.write_volatile(0);
            }
        }
    }
}

/// A backend has refused a SYN, or not answered it: `how` is `REFUSED` or `UNANSWERED`.
#[inline(always)]
pub(crate) fn failed(ctrl: Ctrl, how: u64) {
    if is_current(ctrl)
        && let Some(load) = maps::LOAD.get_ptr_mut(u32::from(ctrl.backend()))
    {
        // SAFETY: as in `add_flows`.
        unsafe { atomic::fetch_add(&raw mut (*load).failures, how) };
    }
}

/// A backend has cut off a flow.
#[inline(always)]
pub(crate) fn cut_off(ctrl: Ctrl) {
    if is_current(ctrl)
        && let Some(load) = maps::LOAD.get_ptr_mut(u32::from(ctrl.backend()))
    {
        // SAFETY: as in `add_flows`.
        unsafe { atomic::fetch_add(&raw mut (*load).resets, 1) };
    }
}
