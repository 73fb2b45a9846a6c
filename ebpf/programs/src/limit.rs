//! Limits: token buckets of each CPU, and how many bounces the clients of one prefix and all may cause.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use fairlead_abi::{ALL_BOUNCES, Address, Limit, bounces_of};

use crate::{
    maps::{BOUNCE_COUNTS, BOUNCES, LIMITS},
    setting,
};

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// Takes a token of this CPU's bucket, which holds a second's worth; false: there is none.
#[inline(always)]
#[must_use]
pub fn may(limit: Limit) -> bool {
    let rate = match limit {
        Limit::Icmp => setting!(icmp_per_second),
        Limit::Unclaimed => setting!(reports_per_second),
        Limit::Bounces => setting!(bounces_per_second),
    } as u64;
    let Some(bucket) = LIMITS.get_ptr_mut(limit as u32) else {
        return false;
    };
    let now = now_ns();
    // SAFETY: this CPU's entry.
    unsafe {
        let elapsed = now.saturating_sub((*bucket).refilled_ns).min(SECOND);
        let earned = elapsed * rate / SECOND;
        if earned > 0 {
            (*bucket).tokens = ((*bucket).tokens + earned).min(rate);
            (*bucket).refilled_ns = now;
        }
        if (*bucket).tokens == 0 {
            return false;
        }
        (*bucket).tokens -= 1;
    }
    true
}

/// Whether one more packet of this client that came back may be sent on in this second: of its prefix, and of all. Counts it.
#[inline(always)]
#[must_use]
pub fn may_send_on(client: &Address) -> bool {
    let second = (now_ns() / SECOND) << 32;
    let prefix = bounces_of(setting!(seed), client, BOUNCE_COUNTS as u32);
    is_within(prefix, second, setting!(bounces_per_prefix))
        && is_within(ALL_BOUNCES, second, setting!(bounces_in_all))
}

/// Whether fewer than `most` have been counted in a second, which stands in the upper half; counts one more.
#[inline(always)]
fn is_within(index: u32, second: u64, most: u32) -> bool {
    let Some(entry) = BOUNCES.get_ptr_mut(index) else { return false };
    // SAFETY: a word of the map. CPUs that count at the same time lose some of each other's, which only widens the limit.
    unsafe {
        let before = entry.read_volatile();
        let count = if before & !0xffff_ffff == second { before as u32 } else { 0 };
        if count >= most {
            return false;
        }
        entry.write_volatile(second | (count + 1) as u64);
    }
    true
}

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: the helper has no arguments.
    unsafe { bpf_ktime_get_ns() }
}
