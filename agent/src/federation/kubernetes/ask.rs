//! Whether a server answers, and what the newest version of anything is that it has.
//!
//! Watches don't tell: one that is silent has nothing to say, or nobody to say it.

use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::api::ListParams;
use kube::{Api, Client};

use super::access::chain;
use super::kinds::SERVICES;

/// From an answer to the next question.
pub(super) const PERIOD: Duration = Duration::from_secs(2);
/// A server that takes longer doesn't answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks after a pause: the newest version, or why there is none.
pub(super) async fn ask(client: Client, pause: Duration) -> Result<u64, String> {
    tokio::time::sleep(pause).await;
    let one = ListParams::default().fields(SERVICES).limit(1);
    let services: Api<Service> = Api::all(client);
    match tokio::time::timeout(PATIENCE, services.list_metadata(&one)).await {
        Ok(Ok(list)) => {
            let version = list.metadata.resource_version.unwrap_or_default();
            version.parse().map_err(|_| format!("{version:?} is not a resource version"))
        }
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(format!("it has not answered for {} s", PATIENCE.as_secs())),
    }
}
