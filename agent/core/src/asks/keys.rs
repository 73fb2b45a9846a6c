//! Keys of messages, from the federation's secrets.
//!
//! In comes the text of a file, out go keys for each cluster: whoever learns one cluster's keys can't speak for another.
//! A secret is replaced without a gap in three steps, each on all nodes before the next: the new one is added as second,
//! moved to the front, and the old one removed. A key has a number that depends only on secret and cluster, so that
//! nodes at different steps name it alike.

use std::fmt;

use fairlead_abi::{SipHash, SipKey};
use thiserror::Error;

/// Why a file holds no secrets.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SecretError {
    /// It has no secret.
    #[error("no secret: a line of 64 hexadecimal digits is expected")]
    None,
    /// It has too many.
    #[error("line {line}: a third secret; at most two are taken")]
    TooMany {
        /// From 1.
        line: usize,
    },
    /// A line is no secret. What stands there isn't told.
    #[error("line {line}: not a secret of 64 hexadecimal digits")]
    Malformed {
        /// From 1.
        line: usize,
    },
    /// Somebody has yet to write one.
    #[error(
        "line {line}: a secret of nothing but zeros, which everybody knows: write what `openssl rand -hex 32` prints"
    )]
    Zeros {
        /// From 1.
        line: usize,
    },
    /// Whoever meant to replace the other one has not.
    #[error("line {line}: the same secret again: remove the line, or write the other secret")]
    Same {
        /// From 1.
        line: usize,
    },
}

/// 32 bytes that only the federation's nodes know.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Secret([SipKey; 2]);

/// The federation's secrets: the first signs, both are taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secrets {
    first: Secret,
    second: Option<Secret>,
}

/// A key and the number by which messages name it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// [`fairlead_abi::Header::key`].
    pub id: u32,
    /// The key.
    pub key: SipKey,
}

/// The keys of one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// What is sent is tagged with it.
    pub first: Key,
    /// What comes in may also be tagged with it.
    pub second: Option<Key>,
}

impl Secrets {
    /// From the text of a file: one or two lines of 64 hexadecimal digits; empty lines and those that begin with `#`
    /// don't count.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let mut secrets = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line_text = line.trim();
            if line_text.is_empty() || line_text.starts_with('#') {
                continue;
            }
            if secrets.len() == 2 {
                return Err(SecretError::TooMany { line: number });
            }
            let secret = Secret::parse(line_text).ok_or(SecretError::Malformed { line: number })?;
            if secret.0 == [SipKey::default(); 2] {
                return Err(SecretError::Zeros { line: number });
            }
            if secrets.contains(&secret) {
                return Err(SecretError::Same { line: number });
            }
            secrets.push(secret);
        }
        let first = *secrets.first().ok_or(SecretError::None)?;
        Ok(Self { first, second: secrets.get(1).copied() })
    }

    /// The keys of a cluster.
    #[must_use]
    pub fn keys(&self, cluster: &str) -> Keys {
        Keys { first: self.first.key(cluster), second: self.second.map(|secret| secret.key(cluster)) }
    }
}

impl Keys {
    /// The key with this number.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<Key> {
        [Some(self.first), self.second].into_iter().flatten().find(|key| key.id == id)
    }
}

impl Secret {
    fn parse(line: &str) -> Option<Self> {
        let digits = line.bytes().map(|byte| char::from(byte).to_digit(16)).collect::<Option<Vec<u32>>>()?;
        let words: Vec<u64> = digits
            .chunks_exact(16)
            .map(|digits| digits.iter().fold(0, |word, &digit| word << 4 | u64::from(digit)).swap_bytes())
            .collect();
        let [a, b, c, d] = words[..] else { return None };
        let whole = digits.len() == 64;
        whole.then_some(Self([SipKey { k0: a, k1: b }, SipKey { k0: c, k1: d }]))
    }

    fn key(&self, cluster: &str) -> Key {
        let derive = |purpose| self.derive(purpose, cluster);
        Key { id: (derive(0) >> 32) as u32, key: SipKey { k0: derive(1), k1: derive(2) } }
    }

    /// SipHash-2-4 under the second half of the secret, over (purpose, length of the name, name filled up with zeros, the
    /// same under the first half): unknown as long as either half is. The key's number is one such output; like any of
    /// them it tells nothing of the others.
    fn derive(&self, purpose: u64, cluster: &str) -> u64 {
        let name = cluster.as_bytes().chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        });
        let mut words: Vec<u64> = [purpose, cluster.len() as u64].into_iter().chain(name).collect();
        words.push(hash(self.0[0], &words));
        hash(self.0[1], &words)
    }
}

fn hash(key: SipKey, words: &[u64]) -> u64 {
    words.iter().fold(SipHash::new(key), |hash, &word| hash.word(word)).finish(words.len() as u64)
}

/// Without the secret.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").field("two", &self.second.is_some()).finish_non_exhaustive()
    }
}

/// Without the key.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const NEW: &str = "FFEEDDCCBBAA99887766554433221100ffeeddccbbaa99887766554433221100";

    fn secrets(text: &str) -> Secrets {
        Secrets::parse(text).unwrap()
    }

    #[test]
    fn bytes_stand_in_the_order_of_the_file() {
        let [a, b] = secrets(OLD).first.0;
        assert_eq!([a.k0, a.k1], [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]);
        assert_eq!([b.k0, b.k1], [0x1716_1514_1312_1110, 0x1f1e_1d1c_1b1a_1918]);
    }

    #[test]
    fn values_are_pinned() {
        // A change of these parts the agents before it from those after. Computed by a program in Python.
        let key = secrets(OLD).keys("eu-1").first;
        assert_eq!((key.id, key.key.k0, key.key.k1), PINNED);
    }

    const PINNED: (u32, u64, u64) = (0xca8b_4476, 0x2ca0_996f_b2b8_0e4a, 0xfe64_b4b5_0f5b_b3e7);

    #[test]
    fn clusters_and_secrets_have_their_own_keys() {
        let names = ["", "a", "a\0", "b", "eu-1", "eu-2", "a-name-of-16-byt", "a-name-of-16-byte"];
        let mut keys: Vec<(u32, u64, u64)> = [OLD, NEW]
            .iter()
            .flat_map(|text| names.map(|name| secrets(text).keys(name).first))
            .map(|key| (key.id, key.key.k0, key.key.k1))
            .collect();
        keys.sort_unstable();
        keys.dedup_by(|a, b| a.0 == b.0 || a.1 == b.1 || a.2 == b.2);
        assert_eq!(keys.len(), 16);
    }

    #[test]
    fn a_secret_is_replaced_without_a_gap() {
        let steps = [OLD.to_owned(), format!("{OLD}\n{NEW}"), format!("{NEW}\n{OLD}"), NEW.to_owned()];
        for (before, after) in steps.iter().zip(&steps[1..]) {
            let [before, after] = [before, after].map(|text| secrets(text).keys("eu-1"));
            assert_eq!(after.get(before.first.id), Some(before.first), "those at the next step take it");
            assert_eq!(before.get(after.first.id), Some(after.first), "and those at the one before");
        }
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        let refused = |text: &str| Secrets::parse(text).unwrap_err();
        assert_eq!(refused("# none\n\n"), SecretError::None);
        assert_eq!(refused(&OLD[1..]), SecretError::Malformed { line: 1 });
        assert_eq!(refused(&format!("#\n{OLD}0")), SecretError::Malformed { line: 2 });
        assert_eq!(refused(&format!("{OLD}{OLD}")), SecretError::Malformed { line: 1 });
        assert_eq!(refused(&OLD.replace("0f", "0é")), SecretError::Malformed { line: 1 });
        assert_eq!(refused(&format!("{OLD}\n{NEW}\n{OLD}")), SecretError::TooMany { line: 3 });
        assert_eq!(refused(&"0".repeat(64)), SecretError::Zeros { line: 1 });
        assert_eq!(refused(&format!("{NEW}\n#\n{}", NEW.to_lowercase())), SecretError::Same { line: 3 });
        assert!(secrets(&format!("# new\n {NEW} \r\n\n{OLD}\n")).second.is_some());
    }

    #[test]
    fn secrets_are_not_told() {
        let told = format!("{:?} {:?}", secrets(OLD), secrets(OLD).keys("a"));
        assert!(!told.contains("k0") && !told.contains("506"), "{told}");
    }
}
