//! The kinds of objects that are watched, and which of them.
//!
//! Out go [`Heard`]s: each kind is listed, and then its changes follow; where the server loses the thread, it is listed anew. No
//! more is asked for than what steering needs, by selectors of labels and fields; of Nodes nothing but their metadata.

use std::fmt::Debug;
use std::time::Duration;

use backon::ExponentialBuilder;
use fairlead_core::model::ObjectName;
use futures::future::ready;
use futures::stream::{BoxStream, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::ResetTimerBackoff;
use kube::runtime::watcher::{Config, Error, Event, ExponentialBackoff, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use super::access::{chain, refusal};
use crate::federation::convert::{DRAINS_NAME, DRAINS_NAMESPACE, Kind, SERVICE_LABEL};

/// The kinds that are read.
pub(super) const KINDS: [Kind; 4] = [Kind::Node, Kind::Drains, Kind::Service, Kind::EndpointSlice];

/// A watch is begun anew after so many seconds: one that has died without a word is noticed by then.
const WATCH_SECONDS: u32 = 30;
/// After a failure, a watch is tried again; with jitter, and longer each time.
const TRY_AGAIN: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(10)];
/// A watch that worked for so long begins with the first of [`TRY_AGAIN`] when it fails.
const WELL: Duration = Duration::from_secs(30);
/// Objects of one page of a list.
const PAGE: u32 = 200;
/// A failure is over when none has followed for so long: the next try would have failed by then.
pub(super) const OVER: Duration = Duration::from_secs(13);

/// An object as the server has it.
pub(super) enum Raw {
    Service(Box<Service>),
    Slice(Box<EndpointSlice>),
    Node(Box<PartialObjectMeta<Node>>),
    Drains(Box<ConfigMap>),
}

/// What was heard of one kind.
pub(super) struct Heard {
    pub(super) kind: Kind,
    pub(super) event: Told,
}

pub(super) enum Told {
    /// All objects follow, from now on until [`Listed`](Self::Listed).
    Listing,
    /// There are no others than those that were told since [`Listing`](Self::Listing).
    Listed,
    Is(Raw),
    Gone(Raw),
    /// It can't be watched at the moment.
    Failed(String),
}

/// Of which objects of a kind there is anything to know.
fn selector(kind: Kind) -> Selector {
    match kind {
        Kind::Node => Selector::default(),
        Kind::Drains => Selector { fields: Some(format!("metadata.name={DRAINS_NAME}")), labels: None },
        Kind::Service => Selector { fields: Some(SERVICES.to_owned()), labels: None },
        Kind::EndpointSlice => {
            let labels = format!("{SERVICE_LABEL},!service.kubernetes.io/headless");
            Selector { fields: None, labels: Some(labels) }
        }
    }
}

/// Which Services may be ours; their class is no field that can be selected by.
pub(super) const SERVICES: &str = "spec.type=LoadBalancer";

#[derive(Default)]
struct Selector {
    fields: Option<String>,
    labels: Option<String>,
}

/// All objects of a kind that concern us, and then their changes.
pub(super) fn watch(client: &Client, kind: Kind) -> BoxStream<'static, Heard> {
    let client = client.clone();
    match kind {
        Kind::Service => heard(kind, Api::all(client), service),
        Kind::EndpointSlice => heard(kind, Api::all(client), slice),
        Kind::Node => heard(kind, Api::all(client), node),
        Kind::Drains => heard(kind, Api::namespaced(client, DRAINS_NAMESPACE), config_map),
    }
}

/// All objects of a kind that concern us, as they are now.
pub(super) async fn list(client: &Client, kind: Kind) -> kube::Result<Vec<Raw>> {
    let (client, selector) = (client.clone(), selector(kind));
    match kind {
        Kind::Service => all(Api::all(client), selector, service).await,
        Kind::EndpointSlice => all(Api::all(client), selector, slice).await,
        Kind::Node => all(Api::all(client), selector, node).await,
        Kind::Drains => all(Api::namespaced(client, DRAINS_NAMESPACE), selector, config_map).await,
    }
}

fn service(object: Service) -> Raw {
    Raw::Service(Box::new(object))
}

fn slice(object: EndpointSlice) -> Raw {
    Raw::Slice(Box::new(object))
}

fn node(object: PartialObjectMeta<Node>) -> Raw {
    Raw::Node(Box::new(object))
}

fn config_map(object: ConfigMap) -> Raw {
    Raw::Drains(Box::new(object))
}

/// Pauses between attempts: the first, ever longer ones, and the longest, all with jitter.
pub(super) fn pauses([least, most]: [Duration; 2]) -> ExponentialBackoff {
    let pauses = ExponentialBuilder::default().with_min_delay(least).with_max_delay(most);
    pauses.with_jitter().without_max_times().into()
}

fn heard<K>(kind: Kind, api: Api<K>, raw: fn(K) -> Raw) -> BoxStream<'static, Heard>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let Selector { fields, labels } = selector(kind);
    let config = Config { field_selector: fields, label_selector: labels, ..Config::default() };
    let events = watcher(api, config.streaming_lists().timeout(WATCH_SECONDS));
    let told = move |event: Result<Event<K>, Error>| {
        let event = match event {
            // The server has forgotten how it came to be as it is: it is listed anew.
            Err(Error::WatchError(status)) if status.code == 410 => return None,
            Ok(Event::Init) => Told::Listing,
            Ok(Event::InitDone) => Told::Listed,
            Ok(Event::InitApply(object) | Event::Apply(object)) => Told::Is(raw(object)),
            Ok(Event::Delete(object)) => Told::Gone(raw(object)),
            Err(error) => Told::Failed(why(&error)),
        };
        Some(Heard { kind, event })
    };
    let events = events.backoff(ResetTimerBackoff::new(pauses(TRY_AGAIN), WELL));
    events.filter_map(move |event| ready(told(event))).boxed()
}

fn why(error: &Error) -> String {
    match error {
        Error::InitialListFailed(error) | Error::WatchStartFailed(error) | Error::WatchFailed(error) => {
            chain(error)
        }
        Error::WatchError(status) => refusal(status),
        Error::NoResourceVersion => error.to_string(),
    }
}

/// The slices of one service.
pub(super) async fn slices(client: Client, service: &ObjectName) -> kube::Result<Vec<Raw>> {
    let labels = Some(format!("{SERVICE_LABEL}={}", service.name));
    all(Api::namespaced(client, &service.namespace), Selector { fields: None, labels }, slice).await
}

/// Lists page by page.
async fn all<K>(api: Api<K>, selector: Selector, raw: fn(K) -> Raw) -> kube::Result<Vec<Raw>>
where
    K: Clone + Debug + DeserializeOwned,
{
    let Selector { fields, labels } = selector;
    let mut params = ListParams { field_selector: fields, label_selector: labels, ..ListParams::default() };
    params.limit = Some(PAGE);
    let mut objects = Vec::new();
    loop {
        let page = api.list(&params).await?;
        objects.extend(page.items.into_iter().map(raw));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(objects),
        }
    }
}
