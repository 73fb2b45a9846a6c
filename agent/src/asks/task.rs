//! The task that moves messages: reports in, datagrams in and out, findings out.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use fairlead_abi::{Address, AskedFlow, Encap, FlowReport, ReportKind, ServiceKey};
use fairlead_core::{
    asks::{Asker, Backend, Keys, Output, STRANGE_EVERY},
    model::Held,
    planner::{ServiceTable, Verdict},
};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::{
    Finding, Heard,
    announcer::Announcer,
    bounces,
    claimer::{Claimer, control_address},
    counts::{add_announced, all_counts, counted},
    own::OwnReceiver,
    parts::Parts,
    read_secrets,
    socket::Sockets,
};

/// Reports that are taken at a time.
const REPORTS: usize = 256;
/// Datagrams that are taken before anything else is looked at.
const DATAGRAMS: usize = 512;
/// The longest message.
const LONGEST: usize = 2048;
/// How long claims wait for others.
const CLAIM_DELAY: Duration = Duration::from_millis(5);
/// How often what receivers hold is told, and the file of secrets looked at.
const TELL: Duration = Duration::from_secs(1);
/// How long it is a problem that a node has announced what isn't its own: until it would have been told again.
const STRANGE_FOR: Duration = STRANGE_EVERY.saturating_add(Duration::from_secs(60));

/// For so long no other node must have answered before that is a problem: all may start at the same time.
const UNANSWERED: Duration = Duration::from_secs(10);

/// See the module.
pub struct Task {
    parts: Parts,
    asker: Asker,
    claimer: Claimer,
    /// A receiver's.
    announcer: Option<Announcer>,
    /// A receiver's that is a gateway too.
    own: Option<OwnReceiver>,
    /// The outer addresses of its endpoints.
    local: BTreeSet<Address>,
    sockets: Sockets,
    known: BTreeMap<ServiceKey, Arc<ServiceTable>>,
    read: Option<SystemTime>,
    refused_secrets: Option<String>,
    /// When another node answered last, or none was asked.
    heard: Duration,
    /// Endpoints that nodes of other clusters announce, one for each, and when that was told last.
    strangers: BTreeMap<Arc<str>, (IpAddr, Duration)>,
}

impl Task {
    /// Binds its sockets and gives the programs their keys.
    pub fn new(mut parts: Parts) -> std::io::Result<Self> {
        let sockets = if parts.own.is_empty() {
            Sockets::of_receiver()?
        } else {
            Sockets::of_gateway(parts.own.iter().map(control_address))?
        };
        let random = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos());
        #[expect(clippy::cast_possible_truncation, reason = "what differs are the lower bits")]
        let random = random as u64 ^ u64::from(std::process::id()) << 48;
        let announcer = |cluster: &Arc<str>| {
            let node = (Arc::clone(cluster), Arc::clone(&parts.node));
            Announcer::new(node, &parts.gateways, &parts.own, random)
        };
        let mut task = Self {
            announcer: parts.cluster.as_ref().map(announcer),
            own: parts.ingress.take().map(|ingress| OwnReceiver::new(ingress, &parts.own)),
            local: BTreeSet::new(),
            asker: Asker::new(parts.secrets, parts.limits, random),
            claimer: Claimer::new(parts.gateways.clone(), random),
            sockets,
            known: BTreeMap::new(),
            read: None,
            refused_secrets: None,
            heard: parts.started.elapsed(),
            strangers: BTreeMap::new(),
            parts,
        };
        task.give_keys();
        Ok(task)
    }

    /// Runs until the agent ends.
    pub async fn run(mut self) {
        let mut buffer = vec![0; LONGEST];
        let mut tell = interval(TELL);
        tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut claims_due: Option<Instant> = None;
        loop {
            let due = self.asker.due().map(|due| self.parts.started + due);
            let due = due.into_iter().chain(claims_due).min();
            tokio::select! {
                reports = self.parts.reports.next(REPORTS) => match reports {
                    Ok(reports) => {
                        if self.reported(&reports) {
                            claims_due.get_or_insert(Instant::now() + CLAIM_DELAY);
                        }
                    }
                    Err(error) => return tracing::error!(%error, "reports of the programs can't be read any more"),
                },
                got = self.sockets.receive(&mut buffer) => match got {
                    Ok((length, from)) => self.asker.received(&buffer[..length], from.into(), self.now()),
                    Err(error) => tracing::debug!(%error, "receiving messages"),
                },
                changed = self.parts.served.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.serve();
                }
                // Closed where nothing is counted: on a node that is no receiver.
                Ok(()) = self.parts.counted.changed() => {
                    let count = Arc::clone(&self.parts.counted.borrow_and_update());
                    self.announce(|announcer, keys, now| announcer.count(&count, keys, now));
                }
                Ok(()) = self.parts.listed.changed() => {
                    let list = Arc::clone(&self.parts.listed.borrow_and_update());
                    self.announce(|announcer, keys, now| announcer.list(&list, keys, now));
                }
                () = sleep_until(due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600))) => {}
                _ = tell.tick() => self.look(),
            }
            if claims_due.is_some_and(|at| at <= Instant::now()) {
                claims_due = None;
                self.send_claims();
            }
            let behind = !self.take_what_has_come(&mut buffer);
            self.poll(behind).await;
        }
    }

    fn now(&self) -> Duration {
        self.parts.started.elapsed()
    }

    /// To all gateways, and to this one if it is one.
    fn announce(&mut self, tell: impl FnOnce(&mut Announcer, &Keys, Duration) -> Vec<Vec<u8>>) {
        let now = self.now();
        let (Some(announcer), Some(keys)) = (&mut self.announcer, own_keys(&self.parts)) else { return };
        for message in tell(announcer, &keys, now) {
            announcer.gateways().for_each(|gateway| self.sockets.send(gateway, &message));
            if !self.parts.own.is_empty() {
                self.asker.received(&message, Address::default(), now);
            }
        }
    }

    /// Whether there are claims to be sent.
    fn reported(&mut self, reports: &[FlowReport]) -> bool {
        let now = self.now();
        let mut claims = false;
        for report in reports {
            if report.what == ReportKind::Unclaimed as u8 {
                self.asker.event(report.service(), asked(report), now);
            } else if crate::dataplane::is_own(&report.gateway) {
                let (service, flow, outer) = (report.service(), report.flow(), report.outer.into());
                let _ = self.parts.ends.findings.try_send(Finding::Claimed {
                    service,
                    flow,
                    outer,
                    asked: false,
                    bounces: bounces(report.kind),
                });
            } else {
                self.claimer.add(report);
                claims = true;
            }
        }
        claims
    }

    /// Takes the messages that have come; whether those are all.
    fn take_what_has_come(&mut self, buffer: &mut [u8]) -> bool {
        let now = self.now();
        for _ in 0..DATAGRAMS {
            let Some((length, from)) = self.sockets.try_receive(buffer) else { return true };
            self.asker.received(&buffer[..length], from.into(), now);
        }
        false
    }

    /// Tells the asker which backends there are, of services whose tables are others now.
    fn serve(&mut self) {
        let served = Arc::clone(&self.parts.served.borrow_and_update());
        let now = self.now();
        self.asker.listen_to(served.pod_cidrs.clone());
        if served.gateways != self.parts.gateways {
            self.parts.gateways.clone_from(&served.gateways);
            self.claimer.serve(&served.gateways);
            if let Some(announcer) = &mut self.announcer {
                announcer.serve(&served.gateways, &self.parts.own);
            }
        }
        for key in self.known.keys().filter(|key| !served.services.contains_key(key)) {
            self.asker.serve(*key, Vec::new(), true, now);
        }
        self.known.retain(|key, _| served.services.contains_key(key));
        for (key, table) in served.services.iter().filter(|(_, table)| table.protocol.is_some()) {
            if self.known.get(key).is_some_and(|known| Arc::ptr_eq(known, table)) {
                continue;
            }
            let asked = backends(table, self.own.as_ref());
            let all_asked = asked.len() == table.backends.len();
            self.asker.serve(*key, asked, all_asked, now);
            self.known.insert(*key, Arc::clone(table));
        }
        let backends = self.known.values().flat_map(|table| &table.backends);
        let local = backends.filter(|backend| backend.encap == Encap::Local);
        self.local = local.map(|backend| backend.outer.into()).collect();
    }

    /// Sends a question, or asks this node's own receiver.
    fn send(&mut self, to: Address, message: &[u8], now: Duration) {
        match &self.own {
            Some(own) if self.local.contains(&to) => {
                if let Some(answer) = own.ask(to.into(), message) {
                    self.asker.received(&answer, to, now);
                }
            }
            _ => self.sockets.send(to.into(), message),
        }
    }

    /// `behind`: messages may have come that are not taken yet.
    async fn poll(&mut self, behind: bool) {
        let now = self.now();
        let mut tell = false;
        let outputs = if behind { self.asker.poll_behind(now) } else { self.asker.poll(now) };
        for output in outputs {
            let finding = match output {
                Output::Send { to, message } => {
                    self.send(to, &message, now);
                    continue;
                }
                Output::Silent { node: (cluster, node), silent } => {
                    tell = true;
                    let says = if silent { "doesn't answer" } else { "answers again" };
                    tracing::info!(%cluster, %node, "the node {says}");
                    continue;
                }
                Output::Strange { cluster, outer } => {
                    tell = true;
                    self.strangers.insert(cluster, (outer.into(), now));
                    continue;
                }
                Output::Mine { service, flow, outer } => {
                    Finding::Claimed { service, flow, outer: outer.into(), asked: true, bounces: 0 }
                }
                Output::Claimed { service, flow, outer, kind } => {
                    let (outer, bounces) = (outer.into(), bounces(kind));
                    Finding::Claimed { service, flow, outer, asked: false, bounces }
                }
                Output::Nobodys { service, flow } => Finding::Nobodys { service, flow },
                Output::Forget { service, flow } => Finding::Forget { service, flow },
            };
            if self.parts.ends.findings.send(finding).await.is_err() {
                return;
            }
        }
        if tell {
            self.tell();
        }
    }

    fn look(&mut self) {
        let changed = std::fs::metadata(&self.parts.secrets_file).and_then(|file| file.modified()).ok();
        if changed != self.read {
            self.read_again();
            self.read = changed;
        }
        let now = self.now();
        if !self.asker.hears_nobody() {
            self.heard = now;
        }
        self.tell();
        self.parts.ends.flows.send_replace(Arc::new(all_counts(&self.asker, &self.parts.own)));
        let opened = self.known.keys().filter_map(|key| Some((*key, self.asker.opened(*key, now)?)));
        self.parts.ends.opened.send_replace(Arc::new(opened.collect()));
    }

    fn read_again(&mut self) {
        match read_secrets(&self.parts.secrets_file) {
            Ok(secrets) if secrets == self.parts.secrets => self.refused_secrets = None,
            Ok(secrets) => {
                self.refused_secrets = None;
                tracing::info!("the federation's secrets are others now");
                self.parts.secrets = secrets;
                self.asker.replace_secrets(secrets);
                self.give_keys();
            }
            Err(error) => {
                tracing::error!(%error, "the federation's secrets stay as they were");
                self.refused_secrets = Some(error);
            }
        }
    }

    /// The programs answer only what is tagged with keys of this node's cluster.
    fn give_keys(&mut self) {
        let Some(keys) = own_keys(&self.parts) else { return };
        let all: Vec<_> =
            [Some(keys.first), keys.second].into_iter().flatten().map(|key| (key.id, key.key)).collect();
        if let Err(error) = self.parts.keys.replace(&all) {
            tracing::error!(%error, "gateways' questions can't be answered");
        }
    }

    fn send_claims(&mut self) {
        let Some(keys) = own_keys(&self.parts) else { return };
        for (gateway, message) in self.claimer.take(&keys) {
            self.sockets.send(gateway, &message);
        }
    }

    /// What the planner has to know, where it is another than before.
    fn tell(&mut self) {
        self.parts.ends.counted.send_replace(self.asker.counters());
        let silent: BTreeSet<IpAddr> = self.asker.silent().into_iter().map(IpAddr::from).collect();
        let mut held = Held::default();
        for (key, table) in &self.known {
            // Only of those that may have to go anybody needs to know.
            for backend in table.backends.iter().filter(|backend| backend.verdict == Verdict::Lingering) {
                let said = self.asker.holding(*key, Address::from(backend.outer));
                if let Some(holding) = said.and_then(counted) {
                    held.reports.insert((*key, backend.outer), holding);
                }
            }
        }
        add_announced(&mut held, &self.asker, &self.known, &self.parts.own);
        let now = self.now();
        self.strangers.retain(|_, (_, at)| now < *at + STRANGE_FOR);
        let strangers = self.strangers.iter().map(|(cluster, (outer, _))| (Arc::clone(cluster), *outer));
        let heard = Heard {
            held,
            silent: Arc::new(silent),
            refused_secrets: self.refused_secrets.clone(),
            nobody_answers: now >= self.heard + UNANSWERED,
            strangers: strangers.collect(),
        };
        self.parts.ends.heard.send_if_modified(|known| {
            let changed = **known != heard;
            if changed {
                *known = Arc::new(heard);
            }
            changed
        });
    }
}

fn own_keys(parts: &Parts) -> Option<Keys> {
    Some(parts.secrets.keys(parts.cluster.as_deref()?))
}

/// The backends of a table that can be asked.
fn backends(table: &ServiceTable, own: Option<&OwnReceiver>) -> Vec<Backend> {
    let can_be_asked = |outer| own.is_some_and(|own| own.can_be_asked(outer));
    let all = table.backends.iter();
    let all = all.filter(|backend| backend.encap != Encap::Local || can_be_asked(backend.outer));
    let asked = |backend: &fairlead_core::planner::WantedBackend| {
        let shard = table.shards.get(usize::from(backend.shard))?;
        Some(Backend {
            outer: backend.outer.into(),
            cluster: Arc::clone(&shard.cluster),
            node: Arc::clone(&backend.node),
            leaving: !backend.verdict.is_taken(),
            own: backend.encap == Encap::Local,
        })
    };
    all.filter_map(asked).collect()
}

fn asked(report: &FlowReport) -> AskedFlow {
    let [c0, c1, ..] = report.ports;
    AskedFlow {
        client: report.client,
        client_port: [c0, c1],
        flags: report.tcp_flags,
        answer: 0,
        sequence: report.sequence.to_be_bytes(),
        acknowledgement: report.acknowledged.to_be_bytes(),
        padding: 0,
    }
}
