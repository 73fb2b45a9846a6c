//! The parts of asking, put together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fairlead_abi::message::{answer, message_kind};
use fairlead_abi::{Address, AskedFlow, DeliveryKey, Flow, Header, ServiceKey};
use ipnet::IpNet;

use super::announcements::{self, Announcements, Announcing};
use super::batches::{BATCH_DELAY, Batches, To};
use super::counters::Counters;
use super::keys::{Keys, Secrets};
use super::letters::{Answer, Letters, Refusal, opened};
use super::limits::{Admission, Gate, Limits};
use super::output::Output;
use super::pending::{Id, Pending, Served, Standing, Verdict};
use super::polls::{Holding, Polls};
use super::{Backend, claims};
use crate::stable::Stable;

/// Asks receivers whose flows are; see the [module](super).
#[derive(Debug)]
pub struct Asker {
    secrets: Secrets,
    /// Derived as they are needed, by cluster.
    keys: BTreeMap<Arc<str>, Keys>,
    seed: u64,
    /// None without backends.
    services: BTreeMap<ServiceKey, Served>,
    gate: Gate,
    pending: Pending,
    batches: Batches,
    letters: Letters,
    polls: Polls,
    announcements: Announcements,
    counters: Counters,
    outputs: Vec<Output>,
}

impl Asker {
    /// `random` has to differ at each start: messages are numbered from it, and hashes seeded, so that neither can be
    /// foreseen.
    #[must_use]
    pub fn new(secrets: Secrets, limits: Limits, random: u64) -> Self {
        let seed = Stable::new(random).bytes(b"hashes").finish();
        Self {
            secrets,
            keys: BTreeMap::new(),
            seed,
            services: BTreeMap::new(),
            gate: Gate::new(limits, seed),
            pending: Pending::default(),
            batches: Batches::default(),
            letters: Letters::new(random),
            polls: Polls::new(limits.counts),
            announcements: Announcements::default(),
            counters: Counters::default(),
            outputs: Vec::new(),
        }
    }

    /// The federation's secrets are others now. Questions that wait can still be answered.
    pub fn replace_secrets(&mut self, secrets: Secrets) {
        self.secrets = secrets;
        self.keys.clear();
    }

    /// These backends may hold flows of a service, silent ones too; none: the service is gone.
    ///
    /// `all_asked`: no others are known that can't be asked by messages. Only then a flow can be nobody's.
    pub fn serve(&mut self, service: ServiceKey, mut backends: Vec<Backend>, all_asked: bool, now: Duration) {
        backends.sort_by_key(|backend| backend.outer);
        backends.dedup_by_key(|backend| backend.outer);
        self.polls.set(service, &backends, now);
        if backends.is_empty() {
            self.services.remove(&service);
            return;
        }
        let before = self.services.get(&service).map(|served| &served.backends);
        let same = before.filter(|before| ***before == *backends).map(Arc::clone);
        let backends = same.unwrap_or_else(|| backends.into());
        self.services.insert(service, Served { backends, all_asked });
    }

    /// Announcements are taken from nodes of these clusters, of endpoints with addresses of theirs.
    pub fn listen_to(&mut self, pod_cidrs: BTreeMap<Arc<str>, Vec<IpNet>>) {
        self.announcements.listen_to(pod_cidrs);
    }

    /// All backends refused a packet of a flow of the service; `flow.answer` is 0.
    pub fn event(&mut self, service: ServiceKey, flow: AskedFlow, now: Duration) {
        let id = id(service, &flow);
        let Some(served) = self.services.get(&service).cloned() else {
            self.counters.no_backends += 1;
            return;
        };
        match self.pending.standing(&id, &flow, &served, now) {
            Standing::Asked | Standing::Settled => self.counters.already_asked += 1,
            Standing::NoRoom => self.counters.no_room += 1,
            Standing::Ask { missing, again } => self.ask((id, flow), &served.backends, &missing, again, now),
        }
    }

    /// A datagram came to [`CONTROL_PORT`](fairlead_abi::CONTROL_PORT).
    pub fn received(&mut self, message: &[u8], from: Address, now: Duration) {
        let refused = match opened(message) {
            Some((words, header)) if header.kind == message_kind::ANSWER => {
                self.letters.answer(&words, from, now).map(|answer| self.answered(answer, now)).err()
            }
            Some((words, header)) if header.kind == message_kind::CLAIM => {
                self.claimed(&words, &header).err()
            }
            Some((words, header)) if header.kind == message_kind::ANNOUNCE => {
                self.announced(&words, &header, now).err()
            }
            _ => Some(Refusal::Malformed),
        };
        if let Some(refusal) = refused {
            self.counters.refused(refusal);
        }
    }

    /// When [`poll`](Self::poll) has something to do; zero: now. `None`: not before something comes in.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        if !self.outputs.is_empty() {
            return Some(Duration::ZERO);
        }
        [self.batches.due(), self.pending.due(), self.polls.due()].into_iter().flatten().min()
    }

    /// What is to be done at `now`, in this order, where all that has come was [received](Self::received).
    pub fn poll(&mut self, now: Duration) -> Vec<Output> {
        self.polls.caught_up(now);
        self.judge(now);
        self.go_on(now)
    }

    /// The same where messages may have come that are not taken yet: no node falls silent whose answer may be among them, for
    /// some seconds.
    pub fn poll_behind(&mut self, now: Duration) -> Vec<Output> {
        if self.polls.fell_behind(now) {
            self.judge(now);
        }
        self.go_on(now)
    }

    fn judge(&mut self, now: Duration) {
        while let Some((node, silent)) = self.polls.judged(now) {
            self.outputs.push(Output::Silent { node, silent });
        }
    }

    fn go_on(&mut self, now: Duration) -> Vec<Output> {
        while let Some((to, flows)) = self.batches.next(now) {
            self.send(to, flows, now);
        }
        while let Some(to) = self.polls.next(now) {
            self.send(to, Vec::new(), now);
        }
        while let Some((id, flow, since)) = self.pending.refused(now) {
            self.ask_last((id, flow), since, now);
        }
        let (unanswered, freed) = self.pending.forget(now);
        self.counters.unanswered += unanswered;
        self.outputs.extend(freed.into_iter().map(|(service, flow)| Output::Forget { service, flow }));
        std::mem::take(&mut self.outputs)
    }

    /// What a backend last said that it holds of a service; `None`: nothing yet.
    #[must_use]
    pub fn holding(&self, service: ServiceKey, outer: Address) -> Option<Holding> {
        self.polls.holding((service, outer))
    }

    /// What receivers have announced unasked: which backends of which services hold flows, or may.
    pub fn announcements(&self) -> impl Iterator<Item = Announcing> {
        self.announcements.all()
    }

    /// New connections per second of a service, as its backends' receivers count them; `None`: not all have counted lately.
    #[must_use]
    pub fn opened(&self, service: ServiceKey, now: Duration) -> Option<f64> {
        self.polls.opened(service, now)
    }

    /// The same of all backends that have said something.
    pub fn holdings(&self) -> impl Iterator<Item = (ServiceKey, Address, Holding)> + '_ {
        self.polls.holdings().map(|((service, outer), holding)| (service, outer, holding))
    }

    /// The outer addresses of all backends whose node is silent. None where all are: then it is this gateway that is cut off,
    /// and nobody must be passed over when it is back.
    #[must_use]
    pub fn silent(&self) -> BTreeSet<Address> {
        self.polls.silent()
    }

    /// Whether other nodes are asked, and not one of them answers.
    #[must_use]
    pub fn hears_nobody(&self) -> bool {
        self.polls.hears_nobody()
    }

    /// What happened since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Flows that are being asked for now.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len().0
    }

    /// Flows that are asked for, and settled ones.
    #[cfg(test)]
    pub(super) fn held(&self) -> (usize, usize) {
        self.pending.len()
    }

    /// Questions whose answers are waited for.
    #[cfg(test)]
    pub(super) fn questions_waiting(&self) -> usize {
        self.letters.len()
    }

    fn ask(
        &mut self,
        (id, flow): (Id, AskedFlow),
        backends: &Arc<[Backend]>,
        missing: &[Address],
        again: bool,
        now: Duration,
    ) {
        let hash = self.hash(&id);
        let admission = self.gate.admit((flow.client, hash), missing.len(), again, now);
        self.counters.admission(admission);
        if admission != Admission::Granted {
            return;
        }
        self.counters.asked_again += u64::from(again);
        self.pending.ask(id, flow, backends, now + BATCH_DELAY);
        self.send_to_all((id, flow), missing.iter().copied(), now);
    }

    /// All have refused the flow that is asked for `since` then: they are asked once more, if they are all there are.
    fn ask_last(&mut self, (id, flow): (Id, AskedFlow), since: Duration, now: Duration) {
        let Some(served) = self.services.get(&id.0).cloned() else { return };
        let nodes = announcements::nodes(&served.backends);
        if !served.all_asked || !self.announcements.whole_since(since, nodes, now) {
            return;
        }
        let admission = self.gate.admit((flow.client, self.hash(&id)), served.backends.len(), true, now);
        self.counters.admission(admission);
        if admission == Admission::Granted {
            self.counters.asked_again += 1;
            self.pending.ask_last(&id, &served.backends, now + BATCH_DELAY);
            self.send_to_all((id, flow), served.backends.iter().map(|backend| backend.outer), now);
        }
    }

    fn send_to_all(
        &mut self,
        (id, flow): (Id, AskedFlow),
        backends: impl Iterator<Item = Address>,
        now: Duration,
    ) {
        for outer in backends {
            let to = (id.0, outer);
            if let Some(full) = self.batches.add(to, flow, now) {
                self.send(to, full, now);
            }
        }
    }

    /// Sends a question, unless the backend is gone: then nobody waits for its answer.
    fn send(&mut self, (service, outer): To, flows: Vec<AskedFlow>, now: Duration) {
        let Some(keys) =
            self.backend(service, outer).map(|backend| backend.cluster).map(|c| self.keys_of(&c))
        else {
            return;
        };
        *if flows.is_empty() { &mut self.counters.polls } else { &mut self.counters.questions } += 1;
        let message = self.letters.question(about(service, outer), keys.first, flows, now);
        self.outputs.push(Output::Send { to: outer, message });
    }

    fn answered(&mut self, answer: Answer, now: Duration) {
        self.counters.answers += 1;
        let Some(service) = answer.about.service() else { return };
        let outer = answer.about.outer;
        if let Some(node) = self.polls.answered((service, outer), answer.held, now) {
            self.outputs.push(Output::Silent { node, silent: false });
        }
        for (flow, said) in answer.flows {
            // Tables that are new know whose a flow is, not whose it isn't.
            let said =
                if answer.held.is_none() && said == answer::NOT_MINE { answer::CANT_SAY } else { said };
            self.said(id(service, &flow), outer, said, now);
        }
    }

    fn said(&mut self, id: Id, outer: Address, said: u8, now: Duration) {
        let Some(served) = self.services.get(&id.0) else { return };
        let Some(verdict) = self.pending.said(&id, outer, said, served, now) else { return };
        if verdict == Verdict::Mine {
            let (service, flow) = id;
            self.outputs.push(Output::Mine { service, flow, outer });
        }
        self.settle(id, verdict, now);
    }

    fn settle(&mut self, id: Id, verdict: Verdict, now: Duration) {
        let (service, flow) = id;
        match verdict {
            Verdict::Mine => self.counters.mine += 1,
            Verdict::Nobodys => {
                self.counters.nobodys += 1;
                self.outputs.push(Output::Nobodys { service, flow });
            }
        }
        if let Some((service, flow)) = self.pending.settle(id, verdict, now) {
            self.outputs.push(Output::Forget { service, flow });
        }
    }

    /// Takes a message's claims: those of backends of the cluster whose key it has, in their service.
    fn claimed(&mut self, words: &[u64], header: &Header) -> Result<(), Refusal> {
        let claims = claims::read(words, header)?;
        let cluster_of = |asker: &Self, about: &DeliveryKey| {
            asker.backend(about.service()?, about.outer).map(|backend| backend.cluster)
        };
        let known = claims.iter().find_map(|claim| cluster_of(self, &claim.about));
        let Some(cluster) = known else { return Err(Refusal::Stranger) };
        if !claims::is_tagged(words, header, &self.keys_of(&cluster)) {
            return Err(Refusal::Forged);
        }
        for claim in claims {
            let (Some(service), true) =
                (claim.about.service(), cluster_of(self, &claim.about).as_ref() == Some(&cluster))
            else {
                self.counters.claims_of_strangers += 1;
                continue;
            };
            self.counters.claims += 1;
            let flow = flow_of(service, claim.client, claim.client_port);
            self.outputs.push(Output::Claimed { service, flow, outer: claim.about.outer, kind: claim.kind });
        }
        Ok(())
    }

    fn announced(&mut self, words: &[u64], header: &Header, now: Duration) -> Result<(), Refusal> {
        let clusters: Vec<_> = self.announcements.clusters().cloned().collect();
        let keys: Vec<_> = clusters.iter().map(|cluster| (cluster, self.keys_of(cluster))).collect();
        let strangers = self.announcements.received(words, header, keys.into_iter(), now)?;
        self.counters.announcements += 1;
        self.counters.announced_strangers += strangers.count;
        let tell = strangers.tell.map(|(cluster, outer)| Output::Strange { cluster, outer });
        self.outputs.extend(tell);
        Ok(())
    }

    fn backend(&self, service: ServiceKey, outer: Address) -> Option<Backend> {
        let backends = &self.services.get(&service)?.backends;
        let place = backends.binary_search_by_key(&outer, |backend| backend.outer).ok()?;
        Some(backends[place].clone())
    }

    fn keys_of(&mut self, cluster: &Arc<str>) -> Keys {
        let secrets = &self.secrets;
        *self.keys.entry(Arc::clone(cluster)).or_insert_with(|| secrets.keys(cluster))
    }

    fn hash(&self, (service, flow): &Id) -> u64 {
        let service_part = Stable::new(self.seed).bytes(&service.vip.bytes).bytes(&[service.protocol]);
        service_part.bytes(&flow.client.bytes).bytes(&flow.ports).finish()
    }
}

pub(super) fn about(service: ServiceKey, outer: Address) -> DeliveryKey {
    let ServiceKey { vip, port, protocol, family } = service;
    DeliveryKey { outer, vip, port: port.to_be_bytes(), protocol, family, padding: 0 }
}

fn id(service: ServiceKey, flow: &AskedFlow) -> Id {
    (service, flow_of(service, flow.client, flow.client_port))
}

pub(super) fn flow_of(service: ServiceKey, client: Address, [c0, c1]: [u8; 2]) -> Flow {
    let [s0, s1] = service.port.to_be_bytes();
    Flow { client, ports: [c0, c1, s0, s1] }
}
