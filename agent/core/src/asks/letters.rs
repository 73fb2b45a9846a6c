//! Questions on their way: how they are numbered and tagged, and which answers are theirs.
//!
//! An answer counts only if a question with its number waits, it comes from where that one went, speaks of the backend
//! that was asked, and has the tag of the key that the question had. It is then matched to the question's own flows:
//! of an answer only the answers are read.

use std::collections::VecDeque;
use std::time::Duration;

use fairlead_abi::message::{
    ASK_FLOWS, ASK_WORDS, COUNT_WORDS, FLOW_WORDS, HEADER_WORDS, MAGIC, TAG_WORD, message_kind, message_tag,
};
use fairlead_abi::{Address, Ask, AskedFlow, Count, DeliveryKey, Header};

use super::keys::Key;
use super::polls::Holding;

/// How long a question waits: over the longest way round the earth and back.
pub(super) const WAITS: Duration = Duration::from_secs(1);

/// Questions that wait at most. The oldest make place, as if their answers were lost.
const MOST: usize = 1 << 18;

/// Why a message is not taken. Nothing changes by it but a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Not of a known shape.
    Malformed,
    /// No question with its number waits: it is late, doubled or made up.
    Unasked,
    /// It comes from, or speaks of, another backend than was asked.
    Stranger,
    /// Its tag is wrong.
    Forged,
}

/// What a backend's receiver said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) about: DeliveryKey,
    /// The question's flows, each with one of [`fairlead_abi::message::answer`].
    pub(super) flows: Vec<(AskedFlow, u8)>,
    /// What it holds; `None`: its tables are new.
    pub(super) held: Option<Holding>,
}

/// A question that waits.
#[derive(Clone, Debug)]
struct Waiting {
    about: DeliveryKey,
    key: Key,
    until: Duration,
    flows: Vec<AskedFlow>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Letters {
    /// Number of the first in `waiting`.
    first: u64,
    /// In order of their numbers, and so of their times; answered ones are `None` until they come to the front.
    waiting: VecDeque<Option<Waiting>>,
}

impl Letters {
    /// Numbers go up from `first`, which no agent of this node began with before: an old answer fits no new question.
    pub(super) fn new(first: u64) -> Self {
        Self { first, waiting: VecDeque::new() }
    }

    /// A question to the backend `about`: of these flows, at most [`ASK_FLOWS`], and of its counts.
    pub(super) fn question(
        &mut self,
        about: DeliveryKey,
        key: Key,
        flows: Vec<AskedFlow>,
        now: Duration,
    ) -> Vec<u8> {
        self.forget(now);
        if self.waiting.len() == MOST {
            self.waiting.pop_front();
            self.first = self.first.wrapping_add(1);
        }
        let header = Header {
            magic: MAGIC,
            kind: message_kind::ASK,
            count: u8::try_from(flows.len()).expect("at most ASK_FLOWS"),
            key: key.id,
            nonce: self.first.wrapping_add(self.waiting.len() as u64),
            tag: 0,
        };
        let count = Count { header, about, ..Count::default() };
        let message = if flows.is_empty() {
            sealed(&mut count.words(), key)
        } else {
            let mut ask = Ask { count, flows: [AskedFlow::default(); ASK_FLOWS] };
            ask.flows[..flows.len()].copy_from_slice(&flows);
            sealed(&mut ask.words(), key)
        };
        self.waiting.push_back(Some(Waiting { about, key, until: now + WAITS, flows }));
        message
    }

    /// The answer in a message from an outer address. Its question waits no longer.
    pub(super) fn answer(&mut self, words: &[u64], from: Address, now: Duration) -> Result<Answer, Refusal> {
        self.forget(now);
        let count = *words.first_chunk::<COUNT_WORDS>().ok_or(Refusal::Malformed)?;
        let count = Count::of(count);
        let place = usize::try_from(count.header.nonce.wrapping_sub(self.first)).unwrap_or(usize::MAX);
        let slot = self.waiting.get_mut(place).ok_or(Refusal::Unasked)?;
        let asked = slot.as_ref().ok_or(Refusal::Unasked)?;
        if asked.about.outer != from || asked.about != count.about {
            return Err(Refusal::Stranger);
        }
        let size = if asked.flows.is_empty() { COUNT_WORDS } else { ASK_WORDS };
        if words.len() != size || usize::from(count.header.count) != asked.flows.len() {
            return Err(Refusal::Malformed);
        }
        if asked.key.id != count.header.key || message_tag(asked.key.key, words) != count.header.tag {
            return Err(Refusal::Forged);
        }
        let asked = slot.take().expect("it was looked at");
        // It answered after that.
        let sent = asked.until.saturating_sub(WAITS);
        let answers =
            words[COUNT_WORDS..].as_chunks::<FLOW_WORDS>().0.iter().map(|&flow| AskedFlow::of(flow).answer);
        Ok(Answer {
            about: asked.about,
            flows: asked.flows.into_iter().zip(answers).collect(),
            held: (count.state == Count::CAN_SAY).then_some(Holding {
                flows: count.flows,
                connections: count.connections,
                at: sent.saturating_sub(Duration::from_millis(10 * u64::from(count.age))),
            }),
        })
    }

    /// Questions that wait.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    fn forget(&mut self, now: Duration) {
        while self.waiting.front().is_some_and(|front| front.as_ref().is_none_or(|asked| asked.until <= now))
        {
            self.waiting.pop_front();
            self.first = self.first.wrapping_add(1);
        }
    }
}

/// The words of a message and its header; `None`: not of a known shape.
pub(super) fn opened(bytes: &[u8]) -> Option<(Vec<u64>, Header)> {
    let (words, []) = bytes.as_chunks::<8>() else { return None };
    if words.len() > ASK_WORDS.max(super::claims::WORDS).max(super::announcements::WORDS) {
        return None;
    }
    let words: Vec<u64> = words.iter().map(|&word| u64::from_le_bytes(word)).collect();
    let header = Header::of(*words.first_chunk::<HEADER_WORDS>()?);
    (header.magic == MAGIC).then_some((words, header))
}

/// A message's bytes, once its tag is set.
pub(super) fn sealed(words: &mut [u64], key: Key) -> Vec<u8> {
    words[TAG_WORD] = message_tag(key.key, words);
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
