//! Messages as words, for an agent that may not reinterpret memory: what comes in may be anything.

use crate::message::{
    ANNOUNCED_WORDS, ANNOUNCEMENT_WORDS, ASK_FLOWS, ASK_WORDS, CLAIM_WORDS, COUNT_WORDS, FLOW_WORDS,
    HEADER_WORDS,
};
use crate::{Address, Announced, Announcement, AskedFlow, Claim, Count, DeliveryKey, Header};

/// One word of eight bytes.
const fn bytes(b: [u8; 8]) -> u64 {
    u64::from_le_bytes(b)
}

/// One word of two halves.
const fn halves(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

const fn word_of(four: [u8; 4], others: [u8; 4]) -> u64 {
    halves(u32::from_le_bytes(four), u32::from_le_bytes(others))
}

const fn address(first: u64, second: u64) -> Address {
    let (a, b) = (first.to_le_bytes(), second.to_le_bytes());
    let mut bytes = [0; 16];
    let mut n = 0;
    while n < 8 {
        bytes[n] = a[n];
        bytes[n + 8] = b[n];
        n += 1;
    }
    Address { bytes }
}

const fn low(word: u64) -> u32 {
    (word & 0xffff_ffff) as u32
}

const fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

impl Header {
    /// As it stands in a message.
    #[must_use]
    pub const fn words(&self) -> [u64; HEADER_WORDS] {
        let [m0, m1] = self.magic.to_le_bytes();
        [word_of([m0, m1, self.kind, self.count], self.key.to_le_bytes()), self.nonce, self.tag]
    }

    /// The reverse of [`words`](Self::words).
    #[must_use]
    pub const fn of(words: [u64; HEADER_WORDS]) -> Self {
        let [m0, m1, kind, count, ..] = words[0].to_le_bytes();
        let magic = u16::from_le_bytes([m0, m1]);
        Self { magic, kind, count, key: high(words[0]), nonce: words[1], tag: words[2] }
    }
}

impl DeliveryKey {
    /// As it stands in a message.
    #[must_use]
    pub const fn words(&self) -> [u64; 5] {
        let ([o0, o1], [v0, v1]) = (self.outer.words(), self.vip.words());
        let [p0, p1] = self.port;
        [o0, o1, v0, v1, word_of([p0, p1, self.protocol, self.family], self.padding.to_le_bytes())]
    }

    /// The reverse of [`words`](Self::words).
    #[must_use]
    pub const fn of([o0, o1, v0, v1, last]: [u64; 5]) -> Self {
        let [p0, p1, protocol, family, ..] = last.to_le_bytes();
        let (outer, vip) = (address(o0, o1), address(v0, v1));
        Self { outer, vip, port: [p0, p1], protocol, family, padding: high(last) }
    }
}

impl Count {
    /// As it stands in a message.
    #[must_use]
    pub const fn words(&self) -> [u64; COUNT_WORDS] {
        let ([h0, h1, h2], [a0, a1, a2, a3, a4]) = (self.header.words(), self.about.words());
        let [x, y] = self.age.to_le_bytes();
        let last = word_of(self.flows.to_le_bytes(), [self.state, self.padding, x, y]);
        [h0, h1, h2, a0, a1, a2, a3, a4, self.connections, last]
    }

    /// The reverse of [`words`](Self::words).
    #[must_use]
    pub const fn of(words: [u64; COUNT_WORDS]) -> Self {
        let [h0, h1, h2, a0, a1, a2, a3, a4, connections, last] = words;
        let [state, padding, x, y] = high(last).to_le_bytes();
        Self {
            header: Header::of([h0, h1, h2]),
            about: DeliveryKey::of([a0, a1, a2, a3, a4]),
            connections,
            flows: low(last),
            state,
            padding,
            age: u16::from_le_bytes([x, y]),
        }
    }
}

impl AskedFlow {
    /// As it stands in a message.
    #[must_use]
    pub const fn words(&self) -> [u64; FLOW_WORDS] {
        let [c0, c1] = self.client.words();
        let [p0, p1] = self.client_port;
        let third = word_of([p0, p1, self.flags, self.answer], self.sequence);
        [c0, c1, third, word_of(self.acknowledgement, self.padding.to_le_bytes())]
    }

    /// The reverse of [`words`](Self::words).
    #[must_use]
    pub const fn of([c0, c1, third, last]: [u64; FLOW_WORDS]) -> Self {
        let [p0, p1, flags, answer, s0, s1, s2, s3] = third.to_le_bytes();
        Self {
            client: address(c0, c1),
            client_port: [p0, p1],
            flags,
            answer,
            sequence: [s0, s1, s2, s3],
            acknowledgement: low(last).to_le_bytes(),
            padding: high(last),
        }
    }
}

impl crate::Ask {
    /// As it stands in a message.
    #[must_use]
    pub const fn words(&self) -> [u64; ASK_WORDS] {
        let mut words = [0; ASK_WORDS];
        let count = self.count.words();
        let mut n = 0;
        while n < COUNT_WORDS {
            words[n] = count[n];
            n += 1;
        }
        let mut flow = 0;
        while flow < ASK_FLOWS {
            let of_flow = self.flows[flow].words();
            let mut n = 0;
            while n < FLOW_WORDS {
                words[COUNT_WORDS + flow * FLOW_WORDS + n] = of_flow[n];
                n += 1;
            }
            flow += 1;
        }
        words
    }
}

impl Claim {
    /// As it stands in a message.
    #[must_use]
    pub const fn words(&self) -> [u64; CLAIM_WORDS] {
        let ([a0, a1, a2, a3, a4], [c0, c1]) = (self.about.words(), self.client.words());
        let ([p0, p1], [v, w, x, y, z]) = (self.client_port, self.padding);
        [a0, a1, a2, a3, a4, c0, c1, bytes([p0, p1, self.kind, v, w, x, y, z])]
    }

    /// The reverse of [`words`](Self::words).
    #[must_use]
    pub const fn of([a0, a1, a2, a3, a4, c0, c1, last]: [u64; CLAIM_WORDS]) -> Self {
        let [p0, p1, kind, v, w, x, y, z] = last.to_le_bytes();
        Self {
            about: DeliveryKey::of([a0, a1, a2, a3, a4]),
            client: address(c0, c1),
            client_port: [p0, p1],
            kind,
            padding: [v, w, x, y, z],
        }
    }
}

impl Announcement {
    /// As it stands in a message.
    #[must_use]
    pub const fn words(&self) -> [u64; ANNOUNCEMENT_WORDS] {
        let [h0, h1, h2] = self.header.words();
        let last = [self.part, self.parts, self.whole, self.list];
        [h0, h1, h2, self.node, self.turn, word_of(self.age.to_le_bytes(), last)]
    }

    /// The reverse of [`words`](Self::words).
    #[must_use]
    pub const fn of([h0, h1, h2, node, turn, last]: [u64; ANNOUNCEMENT_WORDS]) -> Self {
        let [.., part, parts, whole, list] = last.to_le_bytes();
        Self { header: Header::of([h0, h1, h2]), node, turn, age: low(last), part, parts, whole, list }
    }
}

impl Announced {
    /// As it stands in a message.
    #[must_use]
    pub const fn words(&self) -> [u64; ANNOUNCED_WORDS] {
        let [a0, a1, a2, a3, a4] = self.about.words();
        [a0, a1, a2, a3, a4, word_of(self.flows.to_le_bytes(), self.second.to_le_bytes())]
    }

    /// The reverse of [`words`](Self::words).
    #[must_use]
    pub const fn of([a0, a1, a2, a3, a4, last]: [u64; ANNOUNCED_WORDS]) -> Self {
        Self { about: DeliveryKey::of([a0, a1, a2, a3, a4]), flows: low(last), second: high(last) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::*;

    /// Words of which no two bytes are the same as far as there are enough of them.
    fn distinct<const N: usize>() -> [u64; N] {
        core::array::from_fn(|n| {
            u64::from_le_bytes(core::array::from_fn(|b| u8::try_from((n * 8 + b + 1) % 256).unwrap()))
        })
    }

    /// A message's words as its layout has them in memory.
    fn in_memory<T: Copy, const N: usize>(of: &T) -> [u64; N] {
        assert_eq!(size_of::<T>(), 8 * N);
        // SAFETY: messages are plain integers without implicit padding, of this size and aligned as words.
        unsafe { core::ptr::from_ref(of).cast::<[u64; N]>().read() }
    }

    #[test]
    fn words_are_the_layout() {
        let header = Header::of(distinct());
        let count = Count::of(distinct());
        let flow = AskedFlow::of(distinct());
        let claim = Claim::of(distinct());
        let mut ask = Ask { count, ..Ask::default() };
        ask.flows[0] = flow;
        ask.flows[ASK_FLOWS - 1] = flow;
        assert_eq!(header.words(), in_memory(&header));
        assert_eq!(count.words(), in_memory(&count));
        assert_eq!(flow.words(), in_memory(&flow));
        assert_eq!(claim.words(), in_memory(&claim));
        let (announcement, announced) = (Announcement::of(distinct()), Announced::of(distinct()));
        assert_eq!(announcement.words(), in_memory(&announcement));
        assert_eq!(announced.words(), in_memory(&announced));
        assert_eq!(ask.words(), in_memory(&ask));
    }

    #[test]
    fn words_say_all_of_a_message() {
        assert_eq!(Header::of(distinct()).words(), distinct());
        assert_eq!(Count::of(distinct()).words(), distinct());
        assert_eq!(AskedFlow::of(distinct()).words(), distinct());
        assert_eq!(Claim::of(distinct()).words(), distinct());
        assert_eq!(Announcement::of(distinct()).words(), distinct());
        assert_eq!(Announced::of(distinct()).words(), distinct());
        assert_eq!(DeliveryKey::of(distinct()).words(), distinct());
    }

    #[test]
    fn the_tag_is_over_every_word_but_itself() {
        let key = crate::SipKey { k0: 1, k1: 2 };
        let words: [u64; ASK_WORDS] = distinct();
        let tag = message_tag(key, &words);
        for n in 0..ASK_WORDS {
            let mut other = words;
            other[n] ^= 1 << (n % 64);
            assert_eq!(message_tag(key, &other) == tag, n == TAG_WORD, "word {n}");
        }
        assert_ne!(message_tag(key, &words[..COUNT_WORDS]), tag);
        assert_ne!(message_tag(crate::SipKey { k0: 1, k1: 3 }, &words), tag);
    }
}
