//! Counters: plain additions in this CPU's own entry.

use fairlead_abi::{BackendCounters, FlowEvent, ServiceCounters};

use crate::{
    maps::{BACKEND_COUNTERS, DROPS, FLOW_EVENTS, SERVICE_COUNTERS},
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

/// Counters that were asked for ahead of their use: where traffic goes to thousands of services they are in no cache, and
/// their memory is waited for together with the slot's and the backend's instead of after them.
#[derive(Clone, Copy)]
pub struct Ahead<T>(Option<*mut T>);

/// The counters of a service.
#[inline(always)]
#[must_use]
pub fn service(id: u32) -> Ahead<ServiceCounters> {
    ahead(SERVICE_COUNTERS.get_ptr_mut(id))
}

/// The counters of a backend.
#[inline(always)]
#[must_use]
pub fn backend(index: u32) -> Ahead<BackendCounters> {
    ahead(BACKEND_COUNTERS.get_ptr_mut(index))
}

#[inline(always)]
fn ahead<T>(counters: Option<*mut T>) -> Ahead<T> {
    if let Some(counters) = counters {
        // SAFETY: this CPU's entry, which is made of words. Volatile, because nothing needs the value.
        let _ = unsafe { counters.cast::<u64>().read_volatile() };
    }
    Ahead(counters)
}

/// A packet of a service was forwarded to one of its backends.
#[inline(always)]
pub fn forwarded(packet: &Parsed, service: u32, backend: u32) {
    let (service, backend) = (SERVICE_COUNTERS.get_ptr_mut(service), BACKEND_COUNTERS.get_ptr_mut(backend));
    forwarded_ahead(packet, Ahead(service), Ahead(backend));
}

/// As [`forwarded`].
#[inline(always)]
pub fn forwarded_ahead(packet: &Parsed, service: Ahead<ServiceCounters>, backend: Ahead<BackendCounters>) {
    let bytes = packet.ip.l3 + packet.ip.length;
    let connections = packet.carried.opens() as u64;
    if let Some(counter) = service.0 {
        // SAFETY: as in `dropped`.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += bytes as u64;
            (*counter).connections += connections;
        }
    }
    if let Some(counter) = backend.0 {
        // SAFETY: as in `dropped`.
        unsafe {
            (*counter).packets += 1;
            (*counter).connections += connections;
        }
    }
}

/// A packet for a VIP was answered here: an echo request.
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

/// Something became of a packet whose flow the slot's current backend may not know.
#[inline(always)]
pub fn event(event: FlowEvent) {
    if let Some(count) = FLOW_EVENTS.get_ptr_mut(event as u32) {
        // SAFETY: as above.
        unsafe { *count += 1 }
    }
}
