//! Writes what counts of one cluster to disk, a while after it has changed.
//!
//! In comes what the model was made of, with the endpoints that it holds although the source shows none any more:
//! on disk they stay with their service, for else a restart would end the hold. A failed write is tried again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fairlead_core::model::{Endpoint, Model, ObjectName, ShardSpec};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::last_good::{LastGood, Shards};
use super::source::SourceState;

/// After a change, this long is waited for further ones before the state is written to disk.
const WRITE_DELAY: Duration = Duration::from_secs(2);
/// After a failed write, the next try.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// Endpoints that are held, by service.
pub(super) type Held = BTreeMap<ObjectName, Arc<Vec<Endpoint>>>;

/// The endpoints that a model holds, by cluster.
pub(super) fn held(model: &Model) -> BTreeMap<Arc<str>, Held> {
    let mut held: BTreeMap<Arc<str>, Held> = BTreeMap::new();
    for service in model.services.values() {
        for shard in service.shards.iter().filter(|shard| shard.held) {
            let of_cluster = held.entry(Arc::clone(&shard.cluster)).or_default();
            of_cluster.insert(service.name.clone(), Arc::clone(&shard.endpoints));
        }
    }
    held
}

/// What is to be on disk.
#[derive(Clone, Default)]
struct Wanted {
    /// `None`: nothing was told yet.
    state: Option<Arc<SourceState>>,
    held: Held,
}

impl Wanted {
    fn shards(&self) -> Shards {
        let mut shards = self.state.as_ref().map(|state| state.state.shards.clone()).unwrap_or_default();
        for (name, endpoints) in &self.held {
            if let Some(spec) = shards.get_mut(name) {
                *spec = Arc::new(ShardSpec { endpoints: Arc::clone(endpoints), ..(**spec).clone() });
            }
        }
        shards
    }
}

/// The task of one cluster; ends with this.
pub(super) struct Keeper {
    wanted: watch::Sender<Wanted>,
    task: JoinHandle<()>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Keeper {
    pub(super) fn start(cluster: Arc<str>, last_good: LastGood) -> Self {
        let (wanted, receiver) = watch::channel(Wanted::default());
        Self { wanted, task: tokio::spawn(run(cluster, last_good, receiver)) }
    }

    /// This counts from now on.
    pub(super) fn keep(&self, state: &Arc<SourceState>, held: Held) {
        self.wanted.send_if_modified(|wanted| {
            let same = wanted.state.as_ref().is_some_and(|known| Arc::ptr_eq(known, state));
            if same && wanted.held == held {
                return false;
            }
            *wanted = Wanted { state: Some(Arc::clone(state)), held };
            true
        });
    }
}

async fn run(cluster: Arc<str>, last_good: LastGood, mut wanted: watch::Receiver<Wanted>) {
    let mut kept: Option<Shards> = None;
    while wanted.changed().await.is_ok() {
        tokio::time::sleep(WRITE_DELAY).await;
        loop {
            let shards = wanted.borrow_and_update().shards();
            if kept.as_ref() == Some(&shards) {
                break;
            }
            let (name, last_good) = (Arc::clone(&cluster), last_good.clone());
            let job = move || (last_good.write(&name, &shards), shards);
            match tokio::task::spawn_blocking(job).await {
                Ok((Ok(()), shards)) => {
                    kept = Some(shards);
                    break;
                }
                Ok((Err(error), _)) => {
                    tracing::warn!(%cluster, %error, "the last known good state is not kept; tried again soon");
                    tokio::time::sleep(TRY_AGAIN).await;
                }
                Err(_) => return,
            }
        }
    }
}
