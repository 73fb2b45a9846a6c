//! SipHash-2-4 (Aumasson and Bernstein, 2012): the tag of messages between agents, and what their keys are derived by.
//!
//! Only over whole words: every message is made of them. State comes in and goes out by value, so that a program that
//! may not keep a message on its stack adds word after word as it reads them from the packet.

/// A key of 128 bits.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SipKey {
    /// Its first eight bytes, little-endian.
    pub k0: u64,
    /// The others.
    pub k1: u64,
}

/// A hash that has begun.
#[derive(Clone, Copy, Debug)]
pub struct SipHash {
    v: [u64; 4],
}

impl SipHash {
    /// Of no word yet.
    #[inline(always)]
    #[must_use]
    pub const fn new(key: SipKey) -> Self {
        Self {
            v: [
                key.k0 ^ 0x736f_6d65_7073_6575,
                key.k1 ^ 0x646f_7261_6e64_6f6d,
                key.k0 ^ 0x6c79_6765_6e65_7261,
                key.k1 ^ 0x7465_6462_7974_6573,
            ],
        }
    }

    /// Adds the next eight bytes, little-endian.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, word: u64) -> Self {
        let [v0, v1, v2, v3] = self.v;
        let [v0, v1, v2, v3] = round(round([v0, v1, v2, v3 ^ word]));
        Self { v: [v0 ^ word, v1, v2, v3] }
    }

    /// The hash of the `words` words that were added.
    #[inline(always)]
    #[must_use]
    pub const fn finish(self, words: u64) -> u64 {
        // The last block holds what is left of the message, nothing, and in its upper byte the length in bytes.
        let [v0, v1, v2, v3] = self.word(words << 59).v;
        let v = round(round(round(round([v0, v1, v2 ^ 0xff, v3]))));
        v[0] ^ v[1] ^ v[2] ^ v[3]
    }
}

#[inline(always)]
const fn round([mut v0, mut v1, mut v2, mut v3]: [u64; 4]) -> [u64; 4] {
    v0 = v0.wrapping_add(v1);
    v1 = v1.rotate_left(13) ^ v0;
    v0 = v0.rotate_left(32);
    v2 = v2.wrapping_add(v3);
    v3 = v3.rotate_left(16) ^ v2;
    v0 = v0.wrapping_add(v3);
    v3 = v3.rotate_left(21) ^ v0;
    v2 = v2.wrapping_add(v1);
    v1 = v1.rotate_left(17) ^ v2;
    v2 = v2.rotate_left(32);
    [v0, v1, v2, v3]
}

/// The hash of all of `words`.
#[inline(always)]
#[must_use]
pub const fn siphash<const N: usize>(key: SipKey, words: &[u64; N]) -> u64 {
    let mut hash = SipHash::new(key);
    let mut n = 0;
    while n < N {
        hash = hash.word(words[n]);
        n += 1;
    }
    hash.finish(N as u64)
}

const _: () = assert!(size_of::<SipKey>() == 16);

#[cfg(test)]
mod tests {
    use core::hash::Hasher;

    use siphasher::sip::SipHasher24;

    use super::*;

    /// The reference implementation's key: the bytes 0 to 15.
    const KEY: SipKey = SipKey { k0: 0x0706_0504_0302_0100, k1: 0x0f0e_0d0c_0b0a_0908 };

    /// The reference implementation's message: as many bytes, counted from 0.
    fn counted<const N: usize>() -> [u64; N] {
        core::array::from_fn(|n| {
            u64::from_le_bytes(core::array::from_fn(|b| u8::try_from((n * 8 + b) % 256).unwrap()))
        })
    }

    #[test]
    fn the_published_vectors() {
        // `vectors_sip64` of the reference implementation, those of whole words.
        let of = |bytes: [u8; 8]| u64::from_le_bytes(bytes);
        assert_eq!(siphash(KEY, &counted::<0>()), of([0x31, 0x0e, 0x0e, 0xdd, 0x47, 0xdb, 0x6f, 0x72]));
        assert_eq!(siphash(KEY, &counted::<1>()), of([0x62, 0x24, 0x93, 0x9a, 0x79, 0xf5, 0xf5, 0x93]));
        assert_eq!(siphash(KEY, &counted::<2>()), of([0xdb, 0x9b, 0xc2, 0x57, 0x7f, 0xcc, 0x2a, 0x3f]));
        assert_eq!(siphash(KEY, &counted::<3>()), of([0x94, 0xaf, 0x49, 0xf6, 0xc6, 0x50, 0xad, 0xb8]));
        assert_eq!(siphash(KEY, &counted::<4>()), of([0xce, 0x7c, 0xf2, 0x72, 0x2f, 0x51, 0x27, 0x71]));
    }

    #[test]
    fn the_same_as_another_implementation() {
        fn compare<const N: usize>() {
            for n in 0..64u64 {
                let key = SipKey { k0: n.wrapping_mul(0x9e37_79b9_7f4a_7c15), k1: !n };
                let words = counted::<N>().map(|word| word ^ key.k0.rotate_left(7));
                let mut theirs = SipHasher24::new_with_keys(key.k0, key.k1);
                words.iter().for_each(|word| theirs.write(&word.to_le_bytes()));
                assert_eq!(siphash(key, &words), theirs.finish(), "{N} words, key {key:?}");
            }
        }
        compare::<0>();
        compare::<1>();
        compare::<9>();
        compare::<31>();
        compare::<32>();
        compare::<33>();
        compare::<73>();
    }
}
