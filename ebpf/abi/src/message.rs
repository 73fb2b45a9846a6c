//! Messages between agents: UDP payloads, tagged by SipHash-2-4.
//!
//! An *ask* goes from a gateway's agent to the outer address of one backend: "are these flows of this service yours,
//! and how many do you hold?" The receiver's program answers in place: it sets the answers, counts and kind, tags it
//! again with the question's key and sends it back, so that question and answer have the same size. There are only two:
//! [`Count`] without flows, and [`Ask`] with room for [`ASK_FLOWS`]; one bounds check each. A *claim* goes from a
//! receiver's agent to a gateway's: "these flows of yours I took"; an *announcement* to all gateways', unasked: "these of my
//! endpoints hold flows", be they in slices or not.
//!
//! Integers are little-endian, as on every machine that runs fairlead; ports, sequence numbers and addresses are bytes
//! as they stand in packets. Every message is a whole number of 64-bit words; the tag is over all of them but itself.

use core::mem::offset_of;

use crate::{Address, DeliveryKey, SipHash, SipKey};

/// UDP port of messages, after those of GUE (6080) and Geneve (6081). IANA has it for an air interface of radios.
pub const CONTROL_PORT: u16 = 6082;

/// Begins every message; its lower byte is the version of all layouts here.
pub const MAGIC: u16 = 0xfa01;

/// Flows of an [`Ask`]. With IPv6 and UDP headers it has to fit into 1,280 bytes, the least MTU of IPv6.
pub const ASK_FLOWS: usize = 16;

/// Claims of a message at most, by the same measure.
pub const CLAIMS: usize = 16;

/// Endpoints of an [`Announcement`] at most, by the same measure.
pub const ANNOUNCED: usize = 24;

/// What a message is.
pub mod message_kind {
    /// A question: [`Count`](super::Count) or [`Ask`](super::Ask).
    pub const ASK: u8 = 1;
    /// Its answer, of the same size.
    pub const ANSWER: u8 = 2;
    /// [`Header`](super::Header) and as many [`Claim`](super::Claim)s as it counts.
    pub const CLAIM: u8 = 3;
    /// [`Announcement`](super::Announcement) and as many [`Announced`](super::Announced) as it counts.
    pub const ANNOUNCE: u8 = 4;
}

/// What a receiver says of one flow.
pub mod answer {
    /// Nothing yet.
    pub const NONE: u8 = 0;
    /// It holds the flow, and its sequence number fits.
    pub const MINE: u8 = 1;
    /// It doesn't, and its tables are whole.
    pub const NOT_MINE: u8 = 2;
    /// It can't judge this one.
    pub const CANT_SAY: u8 = 3;
}

/// Begins every message.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u16,
    /// One of [`message_kind`].
    pub kind: u8,
    /// Flows, claims or endpoints that follow and count; flows beyond are all zero.
    pub count: u8,
    /// Which key it is tagged with: a number derived from the key's secret, the same on all nodes.
    pub key: u32,
    /// The sender's number of the message; an answer has its question's.
    pub nonce: u64,
    /// SipHash-2-4 over all other words of the message.
    pub tag: u64,
}

/// "How many flows of this service do you hold?", and how every ask begins.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Of the whole message.
    pub header: Header,
    /// The backend that is asked, as its receiver knows it. Under the tag, so that an answer is no other backend's.
    pub about: DeliveryKey,
    /// Answer: connections that it has opened since its receiver began to count.
    pub connections: u64,
    /// Answer: flows that it holds.
    pub flows: u32,
    /// Answer: one of [`Count::CAN_SAY`] and [`Count::CANT_SAY`].
    pub state: u8,
    /// Zero.
    pub padding: u8,
    /// Answer: how long ago that was counted, hundredths of a second.
    pub age: u16,
}

/// A flow that is asked for, and the headers of the packet that it is asked because of.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AskedFlow {
    /// The client's address.
    pub client: Address,
    /// The client's port, network byte order.
    pub client_port: [u8; 2],
    /// The flags of the TCP header: its byte 13.
    pub flags: u8,
    /// One of [`answer`].
    pub answer: u8,
    /// TCP sequence number, network byte order.
    pub sequence: [u8; 4],
    /// TCP acknowledgement number, network byte order.
    pub acknowledgement: [u8; 4],
    /// Zero.
    pub padding: u32,
}

/// "Are these flows yours?"
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// How it begins; the tag there is over the whole.
    pub count: Count,
    /// The flows, of which [`Header::count`] count.
    pub flows: [AskedFlow; ASK_FLOWS],
}

/// "I took a packet of this flow."
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// The backend that claims.
    pub about: DeliveryKey,
    /// The client's address.
    pub client: Address,
    /// The client's port, network byte order.
    pub client_port: [u8; 2],
    /// By which mark the packet came: one of [`kind`](crate::kind).
    pub kind: u8,
    /// Zero.
    pub padding: [u8; 5],
}

/// "So many flows does each of my endpoints hold": begins each part of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Announcement {
    /// Of the part.
    pub header: Header,
    /// The node, as a number made of its name.
    pub node: u64,
    /// When it was counted, by the node's clock: milliseconds since 1970. Grows with each count.
    pub turn: u64,
    /// How long ago that was when the part was sent, milliseconds.
    pub age: u32,
    /// From 0.
    pub part: u8,
    /// At least one.
    pub parts: u8,
    /// 1: no flows can be missing in the count, or endpoints in the list; 0: some were lost.
    pub whole: u8,
    /// 1: a list of all endpoints that may hold flows by then, which nobody has counted ([`Announced::flows`] is 1); 0: a
    /// count.
    pub list: u8,
}

/// An endpoint of an [`Announcement`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// The endpoint as a service's backend.
    pub about: DeliveryKey,
    /// Flows that it holds.
    pub flows: u32,
    /// 1: the endpoint has an address of the VIP's IP version too, and is announced by both; else 0.
    pub second: u32,
}

/// Index of [`Header::tag`] among a message's words.
pub const TAG_WORD: usize = 2;

/// Words of a [`Header`].
pub const HEADER_WORDS: usize = size_of::<Header>() / 8;
/// Words of a [`Count`].
pub const COUNT_WORDS: usize = size_of::<Count>() / 8;
/// Words of an [`AskedFlow`].
pub const FLOW_WORDS: usize = size_of::<AskedFlow>() / 8;
/// Words of an [`Ask`].
pub const ASK_WORDS: usize = COUNT_WORDS + ASK_FLOWS * FLOW_WORDS;
/// Words of a [`Claim`].
pub const CLAIM_WORDS: usize = size_of::<Claim>() / 8;
/// Words of an [`Announcement`].
pub const ANNOUNCEMENT_WORDS: usize = size_of::<Announcement>() / 8;
/// Words of an [`Announced`].
pub const ANNOUNCED_WORDS: usize = size_of::<Announced>() / 8;

/// The tag of a message: over all of its words but [`TAG_WORD`].
///
/// A program that can't take a slice does the same by [`SipHash`], word by word.
#[inline(always)]
#[must_use]
pub const fn message_tag(key: SipKey, words: &[u64]) -> u64 {
    let mut hash = SipHash::new(key);
    let mut added = 0;
    let mut n = 0;
    while n < words.len() {
        if n != TAG_WORD {
            hash = hash.word(words[n]);
            added += 1;
        }
        n += 1;
    }
    hash.finish(added)
}

impl Count {
    /// [`Count::flows`]: nobody knows.
    pub const UNKNOWN: u32 = u32::MAX;
    /// [`Count::state`]: its tables are whole.
    pub const CAN_SAY: u8 = 0;
    /// [`Count::state`]: its tables are new, so that "not mine" and the counts say nothing.
    pub const CANT_SAY: u8 = 1;
}

const _: () = {
    assert!(cfg!(target_endian = "little"), "messages are read as they stand in memory");
    assert!(size_of::<Header>() == 24 && offset_of!(Header, tag) == 8 * TAG_WORD);
    assert!(offset_of!(Header, kind) == 2 && offset_of!(Header, count) == 3);
    assert!(offset_of!(Header, key) == 4 && offset_of!(Header, nonce) == 8);
    assert!(size_of::<Count>() == 80 && offset_of!(Count, about) == 24);
    assert!(offset_of!(Count, connections) == 64 && offset_of!(Count, flows) == 72);
    assert!(offset_of!(Count, state) == 76 && offset_of!(Count, age) == 78);
    assert!(size_of::<AskedFlow>() == 32 && offset_of!(AskedFlow, client_port) == 16);
    assert!(offset_of!(AskedFlow, flags) == 18 && offset_of!(AskedFlow, answer) == 19);
    assert!(offset_of!(AskedFlow, sequence) == 20 && offset_of!(AskedFlow, acknowledgement) == 24);
    assert!(size_of::<Ask>() == 8 * ASK_WORDS && offset_of!(Ask, flows) == size_of::<Count>());
    assert!(size_of::<Claim>() == 64 && offset_of!(Claim, client) == 40);
    assert!(offset_of!(Claim, client_port) == 56 && offset_of!(Claim, kind) == 58);
    assert!(size_of::<Announcement>() == 48 && offset_of!(Announcement, node) == 24);
    assert!(offset_of!(Announcement, turn) == 32 && offset_of!(Announcement, age) == 40);
    assert!(offset_of!(Announcement, part) == 44 && offset_of!(Announcement, whole) == 46);
    assert!(size_of::<Announced>() == 48 && offset_of!(Announced, flows) == 40);
    let headers = 40 + 8;
    assert!(size_of::<Ask>() + headers <= 1280);
    assert!(size_of::<Header>() + CLAIMS * size_of::<Claim>() + headers <= 1280);
    assert!(size_of::<Announcement>() + ANNOUNCED * size_of::<Announced>() + headers <= 1280);
};
