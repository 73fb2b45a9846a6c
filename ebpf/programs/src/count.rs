//! Counters: plain additions in this CPU's own entry.

use crate::{
    maps::{BACKEND_COUNTERS, DROPS, SERVICE_COUNTERS},
    parse::Parsed,
};

/// A packet of `bytes` bytes was dropped for the [`DropReason`](fairlead_abi::DropReason) with this number.
#[inline(always)]
pub fn dropped(reason: u32, bytes: usize) {
    if let Some(counter) = DROPS.get_ptr_mut(reason) {
        // SAFETY: this CPU's entry; programs on one CPU don't preempt each other at this hook.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += bytes as u64;
        }
    }
}

/// A packet of a service was forwarded to one of its backends.
#[inline(always)]
pub fn forwarded(packet: &Parsed, service: u32, backend: u32) {
    let bytes = packet.ip.l3 + packet.ip.length;
    let connections = packet.carried.opens() as u64;
    if let Some(counter) = SERVICE_COUNTERS.get_ptr_mut(service) {
        // SAFETY: as above.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += bytes as u64;
            (*counter).connections += connections;
        }
    }
    if let Some(counter) = BACKEND_COUNTERS.get_ptr_mut(backend) {
        // SAFETY: as above.
        unsafe {
            (*counter).packets += 1;
            (*counter).connections += connections;
        }
    }
}

/// A packet for a VIP was answered here (echo) or by an ICMP error.
#[inline(always)]
pub fn answered(service: u32, bytes: usize) {
    if let Some(counter) = SERVICE_COUNTERS.get_ptr_mut(service) {
        // SAFETY: as above.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += bytes as u64;
        }
    }
}
