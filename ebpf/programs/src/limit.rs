//! Limits: token buckets of each CPU, and how many bounces the clients of one prefix may cause.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use fairlead_abi::{Address, Limit};

use crate::{
    maps::{BOUNCE_PREFIXES, BOUNCES, LIMITS},
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

/// Whether one more packet of this client's prefix that came back may be sent on in this second; counts it.
#[inline(always)]
#[must_use]
pub fn may_send_on(client: &Address) -> bool {
    let Some(entry) =
        BOUNCES.get_ptr_mut(fairlead_abi::prefix_of(setting!(seed), client) & (BOUNCE_PREFIXES as u32 - 1))
    else {
        return false;
    };
    let (second, most) = ((now_ns() / SECOND) << 32, setting!(bounces_per_prefix));
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
