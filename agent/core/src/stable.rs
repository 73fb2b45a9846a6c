//! Hashes that are the same on every machine and in every version of the compiler.
//!
//! The standard library's hashers promise neither; rings, VIP choices and fingerprints need both.

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// FNV-1a over bytes and words, finished by the 64-bit mixer of MurmurHash3.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stable(u64);

impl Stable {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(OFFSET ^ seed)
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(PRIME);
        }
        self
    }

    /// One step for a whole word; the words must be well mixed themselves, as [`finish`](Self::finish) gives them.
    pub(crate) const fn word(self, word: u64) -> Self {
        Self((self.0 ^ word).wrapping_mul(PRIME).rotate_left(23))
    }

    pub(crate) const fn finish(self) -> u64 {
        let mut h = self.0;
        h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        h ^ (h >> 33)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_pinned() {
        // A change of these moves every VIP and every slot of every federation.
        assert_eq!(Stable::new(0).bytes(b"").0, 0xcbf2_9ce4_8422_2325);
        assert_eq!(Stable::new(0).bytes(b"a").0, 0xaf63_dc4c_8601_ec8c, "FNV-1a's published vector");
        assert_eq!(Stable::new(0).bytes(b"foobar").0, 0x8594_4171_f739_67e8, "FNV-1a's published vector");
        assert_ne!(Stable::new(0).word(1).word(2).finish(), Stable::new(0).word(2).word(1).finish());
    }
}
