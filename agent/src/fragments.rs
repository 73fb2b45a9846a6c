//! Fragments that came before their datagram's first one: the programs can't keep them, so this task does, and lets them come
//! in once more when the first has come.
//!
//! A flood of them costs the node no more than `AT_A_TIME` in each `PAUSE`: what the ring buffer has no room for, the programs
//! drop.

use std::{sync::Arc, time::Duration};

use fairlead_core::fragments::{Counters, Waiting};
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, sleep},
};

use crate::dataplane::{Early, EarlyFragments};

/// How often it is looked whether first fragments have come, and others are taken.
const PAUSE: Duration = Duration::from_millis(1);
/// Fragments that are taken at a time.
const AT_A_TIME: usize = 32;

/// Holds fragments until the agent ends.
pub async fn hold(mut early: EarlyFragments, counted: watch::Sender<Counters>) {
    let ingress = match early.ingress() {
        Ok(ingress) => Arc::new(ingress),
        Err(error) => return tracing::error!(%error, "fragments that come too early are lost"),
    };
    let (mut waiting, started) = (Waiting::default(), Instant::now());
    loop {
        tokio::select! {
            taken = early.next(AT_A_TIME) => match taken {
                Ok(taken) => {
                    let now = started.elapsed();
                    for fragment in taken {
                        waiting.add(fragment.datagram, fragment, now);
                    }
                }
                Err(error) => {
                    return tracing::error!(%error, "fragments that come too early can't be read any more");
                }
            },
            () = sleep(PAUSE), if !waiting.is_empty() => {}
        }
        // Also after a batch: the next one waits for it in the ring buffer.
        sleep(PAUSE).await;
        let come = waiting.take(|datagram| early.has_first(datagram).unwrap_or(false));
        waiting.expire(started.elapsed());
        if !come.is_empty() {
            let ingress = Arc::clone(&ingress);
            let send = move || come.iter().map(|fragment: &Early| ingress.receive(fragment)).collect();
            let sent: Vec<_> = spawn_blocking(send).await.unwrap_or_default();
            let refused: Vec<_> = sent.iter().filter_map(|sent| sent.as_ref().err()).collect();
            if let Some(error) = refused.first() {
                tracing::warn!(%error, "the kernel doesn't take fragments again");
            }
            waiting.sent_again(sent.len() - refused.len(), refused.len());
        }
        counted.send_replace(waiting.counters());
    }
}
