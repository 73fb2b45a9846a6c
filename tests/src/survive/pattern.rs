//! Bytes that follow from a seed: who knows the seed can tell a lost, repeated or foreign one.

/// The bytes of one seed, as far as they have been made or checked.
#[derive(Clone, Debug)]
pub struct Pattern {
    seed: u64,
    offset: u64,
}

impl Pattern {
    /// From the first byte on.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { seed, offset: 0 }
    }

    /// How many bytes have gone by.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Writes the next bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.next();
        }
    }

    /// Whether these are the next bytes; where not, the offset is the wrong one's.
    #[must_use]
    pub fn check(&mut self, bytes: &[u8]) -> bool {
        for &byte in bytes {
            let before = self.offset;
            if self.next() != byte {
                self.offset = before;
                return false;
            }
        }
        true
    }

    fn next(&mut self) -> u8 {
        let word = (self.offset / 8).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.seed;
        let at = usize::try_from(self.offset % 8).expect("below 8");
        self.offset += 1;
        word.to_be_bytes()[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_right_however_it_is_cut() {
        let mut bytes = vec![0; 1000];
        Pattern::new(7).fill(&mut bytes);
        let mut pattern = Pattern::new(7);
        assert!(bytes.chunks(13).all(|part| pattern.check(part)));
        assert_eq!(pattern.offset(), 1000);
    }

    #[test]
    fn lost_and_foreign_bytes_are_found() {
        let mut bytes = vec![0; 4096];
        Pattern::new(7).fill(&mut bytes);
        assert!(!Pattern::new(8).check(&bytes[..16]));
        for lost in [1, 8, 1448, 2000] {
            let mut pattern = Pattern::new(7);
            assert!(pattern.check(&bytes[..100]));
            assert!(!pattern.check(&bytes[100 + lost..]), "{lost} lost bytes");
        }
    }
}
