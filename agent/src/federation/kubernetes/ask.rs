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

/// Why there is no answer.
pub(super) struct Silence {
    pub(super) message: String,
    /// No server was there: the one that will be may have another past.
    pub(super) cut: bool,
}

/// Asks after a pause: the newest version, or why there is none.
pub(super) async fn ask(client: Client, pause: Duration) -> Result<u64, Silence> {
    let silence = |message| Silence { message, cut: false };
    tokio::time::sleep(pause).await;
    let one = ListParams::default().fields(SERVICES).limit(1);
    let services: Api<Service> = Api::all(client);
    match tokio::time::timeout(PATIENCE, services.list_metadata(&one)).await {
        Ok(Ok(list)) => {
            let version = list.metadata.resource_version.unwrap_or_default();
            version.parse().map_err(|_| silence(format!("{version:?} is not a resource version")))
        }
        Ok(Err(error)) => {
            let cut = matches!(error, kube::Error::Service(_) | kube::Error::HyperError(_));
            Err(Silence { message: chain(&error), cut })
        }
        Err(_) => Err(silence(format!("it has not answered for {} s", PATIENCE.as_secs()))),
    }
}
