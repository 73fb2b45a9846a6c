//! What endpoints said lately, where one access finds it: for most packets of a connection that saves a receiver the way
//! through its table of flows.
//!
//! Only a memory: all of it stands in [`FlowEntry`](crate::FlowEntry) too, and what is not found here, is too old here or
//! doesn't fit is looked up there. Whoever takes a flow out of that table forgets it here. An entry is one word, so that it is read and written as a whole: 25 bits of a hash instead
//! of the flow, and 15 of each of its numbers. Of a packet that belongs to none of a bucket's eight flows, hash and numbers
//! fit once in 2⁴⁸ times.

use crate::{
    Address, FlowKey, Numbers,
    numbers::{ACKNOWLEDGED, AFTER_SILENCE, WINDOW},
};

const K1: u64 = 0xa24b_aed4_963e_e407;
const K2: u64 = 0x9fb2_1c65_1e98_df25;
const K3: u64 = 0xc4ce_b9fe_1a85_ec53;

/// Entries of one bucket.
pub const RECENT_ENTRIES: u32 = 8;

/// One cache line of entries.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecentBucket {
    /// [`Recent`]s, in no order.
    pub entries: [u64; RECENT_ENTRIES as usize],
}

/// Where a TCP flow's entry stands; there are none of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecentFlow {
    flow: u64,
    seed: u64,
}

impl RecentFlow {
    /// Of a flow; nobody who doesn't know the seed can make two that are taken for each other.
    #[inline(always)]
    #[must_use]
    pub const fn new(seed: u64, key: &FlowKey) -> Self {
        let [[client_hi, client_lo], [hi, lo]] = [key.client.words(), key.endpoint.words()];
        let ports =
            u16::from_ne_bytes(key.endpoint_port) as u64 | (u16::from_ne_bytes(key.client_port) as u64) << 16;
        let flow = mixed(client_lo, seed)
            ^ mixed(client_hi, seed.rotate_left(11)).rotate_left(7)
            ^ mixed(lo, seed.rotate_left(23)).rotate_left(17)
            ^ mixed(hi, seed.rotate_left(31)).rotate_left(29)
            ^ mixed(ports, seed.rotate_left(43)).rotate_left(41);
        Self { flow: flow.wrapping_mul(K3), seed }
    }

    /// The bucket of its entry; `mask` is the number of buckets less one.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "any bits will do")]
    pub const fn bucket(self, mask: u32) -> u32 {
        ((self.flow ^ self.flow >> 40) >> 4) as u32 & mask
    }

    /// What tells its entry apart from those of others: a flow comes by the VIP and port that it began with.
    #[inline(always)]
    #[must_use]
    pub const fn tag(self, vip: &Address, port: [u8; 2]) -> RecentTag {
        let [hi, lo] = vip.words();
        let seed = self.seed;
        let tag = self.flow
            ^ mixed(lo, seed.rotate_left(3)).rotate_left(13)
            ^ mixed(hi, seed.rotate_left(37)).rotate_left(37)
            ^ mixed(u16::from_ne_bytes(port) as u64, seed.rotate_left(53)).rotate_left(53);
        RecentTag(tag & TAG | LEAST)
    }
}

/// One word with a part of the seed. Twice multiplied: after one, what differs in the highest bit differs in bits that
/// another word could undo, whatever the seed.
#[inline(always)]
const fn mixed(word: u64, seed: u64) -> u64 {
    let mut h = (word ^ seed).wrapping_mul(K1);
    h ^= h >> 32;
    h = h.wrapping_mul(K2);
    h ^ h >> 29
}

/// See [`RecentFlow::tag`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecentTag(u64);

impl RecentTag {
    /// The flow's entry: the endpoint's last number, what it acknowledged, and `jiffies64` then.
    #[inline(always)]
    #[must_use]
    pub const fn entry(self, sequence: u32, client_sequence: u32, seen: u64) -> Recent {
        let [said, heard] = [sequence >> UNIT_SHIFT, client_sequence >> UNIT_SHIFT];
        Recent(self.0 | (said as u64) << SAID | (heard as u64) << HEARD | (seen >> TICK_SHIFT & TIME))
    }

    /// Whether an entry is this flow's.
    #[inline(always)]
    #[must_use]
    pub const fn is_of(self, entry: Recent) -> bool {
        (entry.0 ^ self.0) & TAG == 0
    }
}

/// What the endpoint of a TCP flow said last. From the top: the [tag](RecentTag), the endpoint's number, that of what the client
/// sends next, and when; 0: free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recent(pub u64);

/// The tag's bits; the lowest of them is always set.
const TAG: u64 = u64::MAX << 38;
const LEAST: u64 = 1 << 38;
/// Where the numbers stand, and their bits.
const SAID: u32 = 23;
const HEARD: u32 = 8;
const NUMBER: u64 = (1 << (u32::BITS - UNIT_SHIFT)) - 1;
/// Numbers stand in units of so many bytes.
const UNIT: u32 = 1 << UNIT_SHIFT;
const UNIT_SHIFT: u32 = 17;
/// The bits of the time, which stands in units of 4096 ticks.
const TIME: u64 = 0xff;
const TICK_SHIFT: u32 = 12;
/// What is older counts for nothing, in units of time: a minute on the fastest clock, ten on the slowest. The time begins anew
/// after eighteen times as long, and then an entry seems young again: its flow is in the table yet.
const OLD: u64 = 14;

impl Recent {
    /// How long ago it was said, in units of time, at a reading `now` of `jiffies64`; of a free one, longer than all others.
    #[inline(always)]
    #[must_use]
    pub const fn age(self, now: u64) -> u64 {
        if self.0 == 0 { TIME + 1 } else { (now >> TICK_SHIFT).wrapping_sub(self.0) & TIME }
    }

    /// Whether a client's packet that acknowledges something, and neither begins nor ends anything, has numbers
    /// [near](Numbers::are_near) those of the flow, whether it was silent or not. Of few that are it says no: of those that are
    /// far ahead.
    #[inline(always)]
    #[must_use]
    pub const fn is_near(self, numbers: &Numbers, now: u64) -> bool {
        let sent = ((numbers.sequence >> UNIT_SHIFT) as u64).wrapping_sub(self.0 >> HEARD);
        let got = ((numbers.acknowledged >> UNIT_SHIFT) as u64).wrapping_sub(self.0 >> SAID);
        // The next unit, the same or the one before: less than two units apart.
        (sent.wrapping_add(1) & NUMBER) < 3 && (got.wrapping_add(1) & NUMBER) < 3 && self.age(now) < OLD
    }
}

const _: () = {
    assert!(size_of::<RecentBucket>() == 64);
    assert!(SAID - HEARD == u32::BITS - UNIT_SHIFT && TAG.trailing_zeros() - SAID == u32::BITS - UNIT_SHIFT);
    let apart = 2 * UNIT;
    let windows = [AFTER_SILENCE, ACKNOWLEDGED, WINDOW];
    let mut at = 0;
    while at < windows.len() {
        assert!(apart <= windows[at].behind && apart <= windows[at].ahead);
        at += 1;
    }
};

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "of numbers without a pattern any bits will do")]
mod tests {
    use super::*;
    use crate::{FlowEntry, FlowState};

    const NOW: u64 = 1 << 33;

    /// A sequence of numbers without a pattern.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mixed(self.0, 0)
        }

        fn one_of<const N: usize>(&mut self, of: [u64; N]) -> u64 {
            of[self.next() as usize % N]
        }

        /// About as far from another as some range ends, behind or ahead.
        fn apart(&mut self) -> u32 {
            let far = self.one_of([0, 0, 1 << 17, 1 << 18, 1 << 19, 1 << 24, 1 << 27]) as i64;
            let near = self.next() as i64 % 12_288;
            (if self.next() & 1 == 0 { far } else { -far } + near) as u32
        }
    }

    fn key(number: u64) -> FlowKey {
        let [a, b, c, d, e, ..] = number.to_le_bytes();
        FlowKey {
            endpoint: Address::v4([10, 0, 0, 1]),
            client: Address::v4([10, a, b, c]),
            endpoint_port: [0x1f, 0x90],
            client_port: [d, e],
            protocol: 6,
            padding: [0; 3],
        }
    }

    #[test]
    fn what_is_near_here_is_near_in_the_table_of_flows() {
        let mut random = Random(1);
        let mut near = [0_u32; 2];
        for _ in 0..2_000_000 {
            let idle = random.one_of([0, 1]);
            let age = if idle == 0 { random.next() % 1100 } else { random.next() % 70_000 };
            let flow = FlowEntry {
                sequence: random.next() as u32,
                client_sequence: random.next() as u32,
                state: FlowState::Established as u8,
                seen: NOW - age,
                ..FlowEntry::default()
            };
            let numbers = Numbers {
                sequence: flow.client_sequence.wrapping_add(random.apart()),
                acknowledged: flow.sequence.wrapping_add(random.apart()),
            };
            let tag = RecentFlow::new(7, &key(1)).tag(&Address::v4([203, 0, 113, 1]), [0, 80]);
            if tag.entry(flow.sequence, flow.client_sequence, flow.seen).is_near(&numbers, NOW) {
                assert!(numbers.are_near(&flow, true, NOW), "{flow:?} {numbers:?}");
                near[idle as usize] += 1;
            }
        }
        assert!(near.iter().all(|&near| near > 10_000), "{near:?}");
    }

    #[test]
    fn the_next_packet_of_a_flow_is_near_for_most_of_a_minute() {
        let mut random = Random(2);
        let tag = RecentFlow::new(7, &key(1)).tag(&Address::v4([203, 0, 113, 1]), [0, 80]);
        for _ in 0..10_000 {
            let [sequence, client] = [random.next() as u32, random.next() as u32];
            let length = random.next() as u32 % 65_536;
            let numbers = Numbers { sequence: client, acknowledged: sequence.wrapping_add(length) };
            let said = tag.entry(sequence, client, NOW);
            let age = random.next() % (13 << TICK_SHIFT);
            assert!(said.is_near(&numbers, NOW + age), "{age} {numbers:?}");
            assert!(
                !said.is_near(&numbers, NOW + (15 << TICK_SHIFT) + age)
                    && !said.is_near(&numbers, NOW - 4096)
            );
        }
    }

    #[test]
    fn an_entry_is_its_own_flows_and_the_free_one_is_the_oldest() {
        let tag = |number| RecentFlow::new(7, &key(number)).tag(&Address::v4([203, 0, 113, 1]), [0, 80]);
        for number in 0..10_000 {
            let entry = tag(number).entry(number as u32, 5, NOW);
            assert!(
                tag(number).is_of(entry) && !tag(number + 1).is_of(entry) && !tag(number).is_of(Recent(0))
            );
            assert!(entry.age(NOW) == 0 && Recent(0).age(NOW) > entry.age(NOW - 1));
        }
    }

    #[test]
    fn vip_and_port_tell_flows_of_the_same_addresses_apart() {
        let flow = RecentFlow::new(7, &key(1));
        let vip = Address::v4([203, 0, 113, 1]);
        assert_ne!(flow.tag(&vip, [0, 80]), flow.tag(&vip, [0, 81]));
        assert_ne!(flow.tag(&vip, [0, 80]), flow.tag(&Address::v4([203, 0, 113, 2]), [0, 80]));
    }

    #[test]
    fn no_two_words_undo_each_other_for_all_seeds() {
        // The highest bit of one word, and what it would do to the next one after a single multiplication.
        let client = |hi: u64, lo: u64| {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&hi.to_ne_bytes());
            bytes[8..].copy_from_slice(&lo.to_ne_bytes());
            FlowKey { client: Address::v6(bytes), ..key(0) }
        };
        let same = |seed| {
            RecentFlow::new(seed, &client(0, 1))
                == RecentFlow::new(seed, &client(1 << 63 | 1 << 31, 1 << 63 | 1))
        };
        assert!((0..1000).all(|seed| !same(seed)));
    }

    #[test]
    fn buckets_are_used_alike() {
        const BUCKETS: usize = 1024;
        let mut used = [0_u32; BUCKETS];
        for number in 0..64 * 1024 {
            used[RecentFlow::new(7, &key(number)).bucket(1023) as usize] += 1;
        }
        // 64 each; a binomial distribution leaves these bounds once in many thousand runs.
        assert!(used.iter().all(|&count| (24..=116).contains(&count)), "{used:?}");
    }
}
