//! An API server's objects as they are at one moment, and the one object that a command writes there.
//!
//! For commands: no agent ever writes.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};

use super::access::{Connection, chain};
use super::kinds::{self, Heard, KINDS, Told};
use super::objects::Objects;
use crate::federation::Store;
use crate::federation::convert::{DRAINS_NAME, DRAINS_NAMESPACE, Defaults, Drains, drains};
use crate::federation::last_good::Shards;
use crate::federation::source::Access;

/// A server that takes longer doesn't answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Others may write the same object at the same time; more often than that they don't.
const ATTEMPTS: usize = 5;

/// What a cluster has.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Its shards.
    pub shards: Shards,
    /// What is drained of it.
    pub drains: Arc<Drains>,
    /// The names of its Nodes, and of those that endpoints are on.
    pub nodes: BTreeSet<Arc<str>>,
}

/// Lists everything that is read of a cluster.
///
/// # Errors
/// Why the server can't be read, in words.
pub async fn read(cluster: Arc<str>, access: &Access) -> Result<Snapshot, String> {
    in_time(async {
        let Connection { client, .. } = Connection::open(access).await?;
        let mut objects = Objects::new(cluster, Defaults::default(), Store::default());
        for kind in KINDS {
            let listed = kinds::list(&client, kind).await;
            let listed = listed.map_err(|error| format!("{}s: {}", kind.name(), chain(&error)))?;
            objects.hear(Heard { kind, event: Told::Listing });
            for raw in listed {
                objects.hear(Heard { kind, event: Told::Is(raw) });
            }
            objects.hear(Heard { kind, event: Told::Listed });
        }
        let nodes = objects.nodes();
        let store = objects.store();
        Ok(Snapshot { drains: Arc::clone(store.drains()), nodes, shards: store.shards().clone() })
    })
    .await
}

/// Changes what is drained of a cluster: what is drained then, and whether that is anything else than before.
///
/// # Errors
/// Why it can't be changed, in words; nothing was changed then.
pub async fn change_drains(
    access: &Access,
    edit: impl Fn(&mut Drains),
) -> Result<(Arc<Drains>, bool), String> {
    let attempts = async {
        let Connection { client, .. } = Connection::open(access).await?;
        let api: Api<ConfigMap> = Api::namespaced(client, DRAINS_NAMESPACE);
        for _ in 0..ATTEMPTS {
            let known = api.get_opt(DRAINS_NAME).await.map_err(|error| told(chain(&error)))?;
            let before = judge(known.as_ref())?;
            let mut after = before.clone();
            edit(&mut after);
            if after == before {
                return Ok((Arc::new(after), false));
            }
            match put(&api, known, &after).await {
                Ok(()) => return Ok((Arc::new(after), true)),
                // Somebody else has written it since it was read.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    let namespace = DRAINS_NAMESPACE;
                    return Err(told(format!("{}: `kubectl create namespace {namespace}`", status.message)));
                }
                Err(error) => return Err(told(chain(&error))),
            }
        }
        Err(told("others change it all the time: try again"))
    };
    in_time(attempts).await
}

async fn in_time<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let late = || format!("the API server has not answered for {} s", PATIENCE.as_secs());
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(late()))
}

fn told(message: impl Display) -> String {
    format!("ConfigMap {DRAINS_NAMESPACE}/{DRAINS_NAME}: {message}")
}

fn judge(object: Option<&ConfigMap>) -> Result<Drains, String> {
    let Some(object) = object else { return Ok(Drains::default()) };
    let (known, faults) = drains(object);
    known.ok_or_else(|| {
        let faults = faults.iter().filter(|fault| fault.rejects);
        let faults: Vec<String> = faults.map(|fault| format!("{}: {}", fault.path, fault.message)).collect();
        told(format!("is broken, repair it first: {}", faults.join("; ")))
    })
}

/// Writes the object, or removes it where it would have no data.
async fn put(api: &Api<ConfigMap>, known: Option<ConfigMap>, drains: &Drains) -> kube::Result<()> {
    let exists = known.is_some();
    let mut object = known.unwrap_or_else(|| ConfigMap {
        metadata: ObjectMeta { name: Some(DRAINS_NAME.to_owned()), ..ObjectMeta::default() },
        ..ConfigMap::default()
    });
    let mut data = object.data.take().unwrap_or_default();
    data.retain(|key, _| !Drains::has_key(key));
    data.extend(drains.data().into_iter().map(|(key, value)| (key.to_owned(), value)));
    let is_empty = data.is_empty();
    object.data = Some(data);
    if exists && is_empty {
        let Some(resource_version) = object.metadata.resource_version else { return Ok(()) };
        let preconditions = Preconditions { resource_version: Some(resource_version), uid: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        api.delete(DRAINS_NAME, &params).await.map(drop)
    } else if exists {
        api.replace(DRAINS_NAME, &PostParams::default(), &object).await.map(drop)
    } else {
        api.create(&PostParams::default(), &object).await.map(drop)
    }
}
