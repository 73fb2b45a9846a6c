//! Which backends a packet is tried at, one after the other, as the programs do it (`steer` of the BPF programs).

use std::net::IpAddr;
use std::sync::Arc;

use fairlead_abi::{Flow, NO_BACKEND, ServiceEntry, Slot};
use fairlead_core::model::Protocol;
use serde::Serialize;

use crate::cli::picture::{Picture, Service};

/// What one kind of packet meets.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Way {
    /// `SYN`, `other packets` or `datagrams`; of a port that is QUIC `QUIC packets with a server ID` and `other datagrams`.
    pub(super) packets: &'static str,
    pub(super) tries: Vec<Try>,
    /// What becomes of one that nobody of these takes.
    pub(super) then: &'static str,
}

/// One backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Try {
    /// By what it is chosen: `current`, `guess` (of the flow cache), `former 1` to `former 3`.
    pub(super) by: &'static str,
    pub(super) address: IpAddr,
    pub(super) pod: Option<Arc<str>>,
    pub(super) cluster: Option<Arc<str>>,
    /// Its node doesn't answer: it is passed over, unless it alone may take the packet.
    pub(super) silent: bool,
}

/// What the flow cache knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Cache {
    /// It may hold flows of this slot, and is looked up.
    pub(super) looked_up: bool,
    /// It holds this flow, and says that it is this one's; `None` with `nobodys`: that it is nobody's.
    pub(super) backend: Option<IpAddr>,
    pub(super) nobodys: bool,
}

/// A slot and what belongs to it.
pub(super) struct Tried {
    pub(super) formers: Vec<Try>,
    pub(super) cache: Cache,
    pub(super) ways: Vec<Way>,
}

const FORMERS: [&str; 3] = ["former 1", "former 2", "former 3"];
const TAKES: &str = "it takes the packet, whether it knows the flow or not";
const ASKED: &str = "dropped, and all backends are asked whose it is";
const ENDS: &str = "the current one takes it";
const DROPPED: &str = "dropped";
const NAMED: &str = "the endpoint that has it takes the packet, in whatever flow it comes";

/// What becomes of packets of `flow`, whose slot is the one at `index` in `SLOTS`.
pub(super) fn tried(
    picture: &Picture<'_>,
    (service, entry): (&Service<'_>, &ServiceEntry),
    (slot, index): (Slot, u32),
    (seed, flow): (u64, &Flow),
) -> Tried {
    let to = |by, local: u16| backend(service, entry, by, local);
    let current = to("current", slot.current);
    let formers: Vec<Try> =
        FORMERS.iter().zip(slot.formers).filter_map(|(by, local)| to(by, local)).collect();
    let looked_up = picture.cache.may_hold(index);
    let said = if looked_up { picture.cache.find(seed, entry.id, flow) } else { None };
    let guess = said.and_then(|local| to("guess", local));
    let nobodys = said == Some(NO_BACKEND);
    let cache = Cache { looked_up, backend: guess.as_ref().map(|guess| guess.address), nobodys };
    let alone = |packets| Way {
        packets,
        tries: current.iter().cloned().collect(),
        then: if current.is_some() { TAKES } else { DROPPED },
    };
    let all =
        |packets, then| Way { packets, tries: in_turn(guess.clone(), current.as_ref(), &formers), then };
    let ways = if service.protocol() == Some(Protocol::Udp) {
        let settled = entry.flags & ServiceEntry::RECENT == 0 && current.is_some() && guess.is_none();
        let then = if current.is_some() { ENDS } else { DROPPED };
        let is_quic = service.is_quic();
        let datagrams = if is_quic { "other datagrams" } else { "datagrams" };
        let by_flow = if settled || nobodys { alone(datagrams) } else { all(datagrams, then) };
        let named = Way { packets: "QUIC packets with a server ID", tries: Vec::new(), then: NAMED };
        is_quic.then_some(named).into_iter().chain([by_flow]).collect()
    } else {
        let others = if nobodys { alone("other packets") } else { all("other packets", ASKED) };
        vec![alone("SYN"), others]
    };
    Tried { formers, cache, ways }
}

/// A guess, the current one, the formers; one that was guessed in vain is not tried again right after.
fn in_turn(guess: Option<Try>, current: Option<&Try>, formers: &[Try]) -> Vec<Try> {
    let mut tries: Vec<Try> = guess.into_iter().collect();
    for next in current.into_iter().chain(formers) {
        let again = matches!(&*tries, [only] if only.by == "guess" && only.address == next.address);
        if !again {
            tries.push(next.clone());
        }
    }
    tries
}

/// The backend with a number in the service's own list.
fn backend(service: &Service<'_>, entry: &ServiceEntry, by: &'static str, local: u16) -> Option<Try> {
    if local == NO_BACKEND {
        return None;
    }
    let member = service.at(entry.backends + u32::from(local))?;
    Some(Try {
        by,
        address: member.outer,
        pod: member.wanted.map(|wanted| Arc::clone(&wanted.pod)),
        cluster: member.wanted.and_then(|wanted| service.cluster(wanted)).cloned(),
        silent: member.pinned.is_some_and(|(_, backend)| backend.is_silent()),
    })
}

impl Try {
    /// `former 1 10.2.0.1 (p1)`; what is passed over in a list says so.
    pub(super) fn text(&self, may_pass_over: bool) -> String {
        let pod = self.pod.as_ref().map_or_else(String::new, |pod| format!(" ({pod})"));
        let silent = match (self.silent, may_pass_over) {
            (true, true) => ", passed over, for its node doesn't answer",
            (true, false) => ", whose node doesn't answer",
            _ => "",
        };
        format!("{} {}{pod}{silent}", self.by, self.address)
    }
}

impl Way {
    /// Who is tried, and what then.
    pub(super) fn text(&self) -> String {
        let in_turn = self.then != TAKES;
        let tries: Vec<String> = self.tries.iter().map(|one| one.text(in_turn)).collect();
        let then = match self.then {
            TAKES => String::new(),
            then if tries.is_empty() => then.to_owned(),
            then => format!("; then {then}"),
        };
        tries.join("; then ") + &then
    }
}

impl Cache {
    pub(super) fn text(&self) -> String {
        match self {
            Self { nobodys: true, .. } => "the flow cache says that the flow is nobody's".to_owned(),
            Self { backend: Some(address), .. } => format!("the flow cache says {address}"),
            Self { looked_up: true, .. } => {
                "the flow cache doesn't have the flow, perhaps others of its slot".to_owned()
            }
            _ => "the flow cache has no flow of this slot".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use fairlead_abi::{Backend, CACHE_ENTRIES, CacheBucket, CacheTag, Cached, flow_hash, slot_of};

    use super::*;
    use crate::cli::explain::way::explanation;
    use crate::cli::sample::{Fixed, SEED, Sample};
    use crate::dataplane::CacheView;

    const CLIENT: &str = "192.0.2.7:43210";

    /// The sample, whose slot of [`CLIENT`] has another current backend and formers.
    struct Scene {
        sample: Sample,
        entry: ServiceEntry,
        index: usize,
        flow: Flow,
        buckets: Vec<CacheBucket>,
        marks: Vec<Cached>,
    }

    impl Scene {
        fn new() -> Self {
            let sample = Sample::new();
            let entry = {
                let picture = sample.picture();
                picture.services().iter().find(|service| service.key.port == 80).unwrap().entry.unwrap()
            };
            let client: IpAddr = "192.0.2.7".parse().unwrap();
            let flow = Flow { client: client.into(), ports: [0xa8, 0xca, 0, 80] };
            let slot = slot_of(flow_hash(SEED, &flow), entry.ring.size);
            let mut scene = Self {
                index: (entry.ring.first_slot + slot) as usize,
                sample,
                entry,
                flow,
                buckets: vec![CacheBucket::default(); 4],
                marks: vec![Cached::default(); 128],
            };
            scene.sample.slots[scene.index].current = scene.local(1);
            scene
        }

        /// The number of the pod with this number in the service's list.
        fn local(&self, pod: u8) -> u16 {
            let outer = IpAddr::from([10, 2, 0, pod]);
            let is_pod = |backend: &Backend| IpAddr::from(backend.outer) == outer;
            let index = self.sample.backends.iter().position(is_pod).unwrap();
            u16::try_from(index).unwrap() - u16::try_from(self.entry.backends).unwrap()
        }

        fn cache(&mut self, local: u16) {
            let index = u32::try_from(self.index).unwrap();
            self.marks[Cached::element(index) as usize].slots[self.index % Cached::SLOTS] = 1;
            let tag = CacheTag::new(SEED, self.entry.id, &self.flow);
            self.buckets[tag.bucket(3) as usize].entries[CACHE_ENTRIES as usize - 1] = tag.entry(local);
        }

        /// What is said of the cache, then of each kind of packet.
        fn told(&self) -> Vec<String> {
            let mut picture = self.sample.picture();
            picture.cache = CacheView { buckets: &self.buckets, marks: &self.marks };
            let (client, vip) = (CLIENT.parse().unwrap(), "203.0.113.10:80".parse().unwrap());
            let found = explanation(&picture, SEED, client, vip, &Fixed).unwrap();
            let ways = found.ways.iter().map(|way| format!("{}: {}", way.packets, way.text()));
            std::iter::once(found.cache.as_ref().unwrap().text()).chain(ways).collect()
        }
    }

    const ASKED: &str = "then dropped, and all backends are asked whose it is";

    #[test]
    fn packets_but_syns_are_tried_at_the_formers_in_turn() {
        let mut scene = Scene::new();
        assert_eq!(
            scene.told(),
            [
                "the flow cache has no flow of this slot",
                "SYN: current 10.2.0.1 (p1)",
                &format!("other packets: current 10.2.0.1 (p1); {ASKED}"),
            ]
        );
        scene.sample.slots[scene.index].formers = [scene.local(2), scene.local(3), NO_BACKEND];
        let silent = scene.entry.backends + u32::from(scene.local(2));
        scene.sample.backends[silent as usize].encap |= Backend::SILENT;
        assert_eq!(
            scene.told()[2],
            format!(
                "other packets: current 10.2.0.1 (p1); then former 1 10.2.0.2 (p2), passed over, for its node doesn't \
                 answer; then former 2 10.2.0.3 (p3); {ASKED}"
            )
        );
    }

    #[test]
    fn of_quic_it_is_said_when_the_flow_does_not_count() {
        let sample = Sample::quic();
        let (client, vip) = (CLIENT.parse().unwrap(), "203.0.113.10:80/udp".parse().unwrap());
        let found = explanation(&sample.picture(), SEED, client, vip, &Fixed).unwrap();
        let ways: Vec<String> =
            found.ways.iter().map(|way| format!("{}: {}", way.packets, way.text())).collect();
        let row = found.backend.as_ref().unwrap();
        let by_flow =
            format!("other datagrams: current {} ({})", row.address.unwrap(), row.pod.as_ref().unwrap());
        let named = "QUIC packets with a server ID: the endpoint that has it takes the packet, in whatever flow it comes";
        assert_eq!(ways, [named, &by_flow]);
    }

    #[test]
    fn what_the_flow_cache_says_comes_first() {
        let mut scene = Scene::new();
        scene.sample.slots[scene.index].formers = [scene.local(2), NO_BACKEND, NO_BACKEND];
        scene.cache(scene.local(2));
        assert_eq!(
            scene.told(),
            [
                "the flow cache says 10.2.0.2",
                "SYN: current 10.2.0.1 (p1)",
                &format!(
                    "other packets: guess 10.2.0.2 (p2); then current 10.2.0.1 (p1); then former 1 10.2.0.2 (p2); {ASKED}"
                ),
            ]
        );
        scene.cache(scene.local(1));
        assert_eq!(
            scene.told()[2],
            format!("other packets: guess 10.2.0.1 (p1); then former 1 10.2.0.2 (p2); {ASKED}")
        );
        scene.cache(NO_BACKEND);
        assert_eq!(
            scene.told(),
            [
                "the flow cache says that the flow is nobody's",
                "SYN: current 10.2.0.1 (p1)",
                "other packets: current 10.2.0.1 (p1)"
            ]
        );
    }
}
