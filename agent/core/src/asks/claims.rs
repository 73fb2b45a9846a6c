//! Claims: what a receiver's agent sends to a gateway's, and how that one reads it.
//!
//! A message holds claims of one cluster's backends, tagged with that cluster's key. Claims carry no state: one that comes
//! twice, or late, makes a guess that costs a bounce.

use fairlead_abi::message::{CLAIM_WORDS, CLAIMS, HEADER_WORDS, MAGIC, message_kind, message_tag};
use fairlead_abi::{Claim, Header};

use super::keys::Keys;
use super::letters::{Refusal, sealed};

/// Words of the longest message.
pub(super) const WORDS: usize = HEADER_WORDS + CLAIMS * CLAIM_WORDS;

/// The message of these claims, of which it takes at most [`CLAIMS`], with the sender's number; `keys` are those of the
/// cluster that the claiming backends are of.
#[must_use]
pub fn claims(claims: &[Claim], keys: &Keys, nonce: u64) -> Vec<u8> {
    let claims = &claims[..claims.len().min(CLAIMS)];
    let count = u8::try_from(claims.len()).expect("at most CLAIMS");
    let header = Header { magic: MAGIC, kind: message_kind::CLAIM, count, key: keys.first.id, nonce, tag: 0 };
    let mut words: Vec<u64> = header.words().to_vec();
    words.extend(claims.iter().flat_map(Claim::words));
    sealed(&mut words, keys.first)
}

/// The claims in a message, before its tag is looked at.
pub(super) fn read(words: &[u64], header: &Header) -> Result<Vec<Claim>, Refusal> {
    let (claims, rest) = words[HEADER_WORDS..].as_chunks::<CLAIM_WORDS>();
    if !rest.is_empty() || claims.is_empty() || claims.len() != usize::from(header.count) {
        return Err(Refusal::Malformed);
    }
    Ok(claims.iter().map(|&claim| Claim::of(claim)).collect())
}

/// Whether a message has the tag of one of a cluster's keys.
pub(super) fn is_tagged(words: &[u64], header: &Header, keys: &Keys) -> bool {
    keys.get(header.key).is_some_and(|key| message_tag(key.key, words) == header.tag)
}
