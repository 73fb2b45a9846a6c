//! How many flows endpoints hold, as their receivers counted: in a file of its own, since it changes all the time and the
//! status is large.

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fairlead_abi::{Family, ServiceKey};
use fairlead_core::model::{Held, Holding, Protocol};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::Instant};

use super::Moment;
use crate::asks::OwnCount;

/// The file in the state directory.
const COUNTS_FILE: &str = "counts.json";
/// It is written at most this often.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// Of so many parts of the time, writing takes one at most.
const PAUSE: u32 = 20;

/// All counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// When this was written.
    at: Option<Moment>,
    services: Vec<OfService>,
}

/// Those of one port of one VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct OfService {
    vip: IpAddr,
    port: u16,
    protocol: Protocol,
    endpoints: Vec<OfEndpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct OfEndpoint {
    outer: IpAddr,
    flows: u64,
    /// Before this was written.
    milliseconds: u64,
}

/// What one endpoint holds of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Flows.
    pub flows: u64,
    /// How long ago they were counted, at most.
    pub age: Duration,
}

impl Counts {
    /// Of what was counted, as time since the agent's start, at the time `now`.
    fn of<'h>(
        reports: impl IntoIterator<Item = (&'h (ServiceKey, IpAddr), &'h Holding)>,
        now: Duration,
    ) -> Self {
        let mut services: Vec<OfService> = Vec::new();
        for ((key, outer), holding) in reports {
            let Some(protocol) = Protocol::of(key.protocol) else { continue };
            let age = now.saturating_sub(holding.at).as_millis();
            let endpoint = OfEndpoint {
                outer: *outer,
                flows: holding.flows,
                milliseconds: u64::try_from(age).unwrap_or(u64::MAX),
            };
            let (vip, port) = (IpAddr::from(key.vip), key.port);
            match services.last_mut() {
                Some(last) if (last.vip, last.port, last.protocol) == (vip, port, protocol) => {
                    last.endpoints.push(endpoint);
                }
                _ => services.push(OfService { vip, port, protocol, endpoints: vec![endpoint] }),
            }
        }
        Self { at: Moment::now(), services }
    }

    /// By service and outer destination; nothing where this is of before the machine's last start.
    #[must_use]
    pub fn found(&self) -> BTreeMap<(ServiceKey, IpAddr), Found> {
        let Some(written) = self.at.as_ref().and_then(|at| at.age(&Moment::now()?)) else {
            return BTreeMap::new();
        };
        let of_service = |service: &OfService| {
            let family = Family::of(&service.vip);
            let key = ServiceKey::new(service.vip.into(), service.port, service.protocol.number(), family);
            let found = move |endpoint: &OfEndpoint| {
                let age = written + Duration::from_millis(endpoint.milliseconds);
                ((key, endpoint.outer), Found { flows: endpoint.flows, age })
            };
            service.endpoints.iter().map(found).collect::<Vec<_>>()
        };
        self.services.iter().flat_map(of_service).collect()
    }
}

/// Writes what receivers and this node's own endpoints were counted to hold whenever that changed, until nobody counts any
/// more.
pub(crate) async fn keep_counts(
    directory: PathBuf,
    (mut asked, mut own): (watch::Receiver<Arc<Held>>, watch::Receiver<Arc<OwnCount>>),
    started: Instant,
) {
    let mut told = false;
    loop {
        tokio::select! {
            // Ends where no agent is asked; this node's own endpoints may count all the same.
            Ok(()) = asked.changed() => {}
            Ok(()) = own.changed() => {}
            else => return,
        }
        let (asked, own) = (Arc::clone(&asked.borrow_and_update()), Arc::clone(&own.borrow_and_update()));
        let (directory, now) = (directory.clone(), started.elapsed());
        let written = tokio::task::spawn_blocking(move || {
            let mut all = asked.reports.clone();
            all.extend(own.reports());
            write_counts(&directory, &Counts::of(&all, now))
        });
        match written.await {
            Ok(Err(error)) if !told => {
                told = true;
                tracing::warn!(%error, "counts of flows are not kept; commands show old ones");
            }
            Ok(written) => told &= written.is_err(),
            Err(_) => return,
        }
        tokio::time::sleep(WRITE_EVERY.max(started.elapsed().saturating_sub(now) * PAUSE)).await;
    }
}

fn write_counts(directory: &Path, counts: &Counts) -> io::Result<()> {
    let temporary = directory.join(".counts.new");
    let mut writer = io::BufWriter::new(fs::File::create(&temporary)?);
    serde_json::to_writer(&mut writer, counts)?;
    // Not synced: what a crash of the machine loses is worth nothing after it.
    drop(writer.into_inner().map_err(io::IntoInnerError::into_error)?);
    fs::rename(&temporary, directory.join(COUNTS_FILE))
}

/// The last counts that an agent wrote to `directory`.
///
/// # Errors
/// None were written, or they can't be read.
pub fn read_counts(directory: &Path) -> io::Result<Counts> {
    let file = io::BufReader::new(fs::File::open(directory.join(COUNTS_FILE))?);
    serde_json::from_reader(file).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use fairlead_abi::{Address, DeliveryKey};

    use super::*;

    fn held(port: u16, outer: &str, flows: u64, seconds: u64) -> ((ServiceKey, IpAddr), Holding) {
        let vip: IpAddr = "203.0.113.1".parse().unwrap();
        let key = ServiceKey::new(vip.into(), port, Protocol::Tcp.number(), Family::V4);
        ((key, outer.parse().unwrap()), Holding { flows, at: Duration::from_secs(seconds) })
    }

    #[test]
    fn counts_come_back_by_service_and_endpoint_with_their_age() {
        let directory = tempfile::tempdir().unwrap();
        assert!(read_counts(directory.path()).is_err());
        let reports = BTreeMap::from([
            held(80, "10.0.0.1", 7, 90),
            held(80, "2001:db8::1", 0, 99),
            held(81, "10.0.0.1", 2, 100),
        ]);
        write_counts(directory.path(), &Counts::of(&reports, Duration::from_secs(100))).unwrap();
        let found = read_counts(directory.path()).unwrap().found();
        assert!(found.keys().eq(reports.keys()));
        for (((_, found), holding), seconds) in found.iter().zip(reports.values()).zip([10, 1, 0]) {
            assert_eq!(found.flows, holding.flows);
            let age = Duration::from_secs(seconds);
            assert!(found.age >= age && found.age < age + Duration::from_secs(60), "{:?}", found.age);
        }
        assert!(Counts::default().found().is_empty(), "nobody knows when that was");
    }

    #[tokio::test]
    async fn own_endpoints_counts_replace_what_was_asked_and_are_kept_where_nobody_is_asked() {
        let directory = tempfile::tempdir().unwrap();
        let (ask, asked) = watch::channel(Arc::new(Held::default()));
        let (tell, own) = watch::channel(Arc::new(OwnCount::default()));
        let kept = tokio::spawn(keep_counts(directory.path().to_owned(), (asked, own), Instant::now()));
        let of =
            |reports: Vec<_>| Arc::new(Held { reports: reports.into_iter().collect(), ..Held::default() });
        ask.send_replace(of(vec![held(80, "10.0.0.1", 7, 0), held(80, "10.0.0.2", 1, 0)]));
        drop(ask);
        let outer: IpAddr = "10.0.0.1".parse().unwrap();
        let (vip, protocol) = (Address::v4([203, 0, 113, 1]), Protocol::Tcp.number());
        let key = DeliveryKey { outer: outer.into(), vip, port: [0, 80], protocol, family: 4, padding: 0 };
        tell.send_replace(Arc::new(OwnCount { held: [(key, 5)].into(), ..OwnCount::default() }));
        let flows = async {
            loop {
                let found = read_counts(directory.path()).map(|counts| counts.found()).unwrap_or_default();
                let flows: Vec<u64> = found.values().map(|found| found.flows).collect();
                if flows == [5, 1] {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), flows).await.expect("both are kept");
        drop(tell);
        tokio::time::timeout(Duration::from_secs(20), kept).await.expect("it ends").unwrap();
    }
}
