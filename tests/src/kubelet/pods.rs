//! The pods that are bound to a node: followed, and each one run.
//!
//! In: a watch of the API server, whatever becomes of it. Out: one task per pod, which hears the newest of its object. While
//! the API server doesn't answer, pods stay as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::watcher::{Config, Event, watcher};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::node::{AGAIN, Node};
use super::pod::{Word, live};

/// Runs them, for ever; they are killed when this is dropped.
pub(super) async fn run(node: Arc<Node>) {
    let ours = Config::default().fields(&format!("spec.nodeName={}", node.name()));
    let mut events = watcher(Api::<Pod>::all(node.client.clone()), ours).boxed();
    let mut known = BTreeMap::<String, watch::Sender<Word>>::new();
    let mut listed = BTreeSet::new();
    let mut tasks = JoinSet::new();
    loop {
        let event = tokio::select! {
            Some(event) = events.next() => event,
            Some(_) = tasks.join_next() => {
                known.retain(|_, words| !words.is_closed());
                continue;
            }
            else => return,
        };
        match event {
            Ok(Event::Apply(pod)) => hear(&node, &mut known, &mut tasks, pod),
            Ok(Event::Delete(pod)) => {
                if let Some(words) = pod.metadata.uid.as_ref().and_then(|uid| known.get(uid)) {
                    words.send_replace(Word { pod, gone: true });
                }
            }
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(pod)) => {
                listed.extend(pod.metadata.uid.clone());
                hear(&node, &mut known, &mut tasks, pod);
            }
            Ok(Event::InitDone) => {
                for words in known.iter().filter(|(uid, _)| !listed.contains(*uid)).map(|(_, words)| words) {
                    words.send_modify(|word| word.gone = true);
                }
            }
            // It tries again by itself, and at once.
            Err(_) => sleep(AGAIN).await,
        }
    }
}

fn hear(
    node: &Arc<Node>,
    known: &mut BTreeMap<String, watch::Sender<Word>>,
    tasks: &mut JoinSet<()>,
    pod: Pod,
) {
    let Some(uid) = pod.metadata.uid.clone() else { return };
    let word = Word { pod, gone: false };
    if let Some(words) = known.get(&uid) {
        words.send_replace(word);
        return;
    }
    let (words, hears) = watch::channel(word);
    known.insert(uid, words);
    tasks.spawn(live(Arc::clone(node), hears));
}
