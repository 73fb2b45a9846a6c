//! Fragments that came before their datagram's first one: the programs can't keep them, so this task does, and lets them come
//! in once more when the first has come.
//!
//! A flood of them costs the node no more than `AT_A_TIME` in each `PAUSE`: what the ring buffer has no room for, the programs
//! drop. A thread of its own gives them back to the kernel, which may take its time, and nobody waits for it.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use fairlead_core::fragments::{Counters, Waiting};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::dataplane::{Early, EarlyFragments};

/// How often it is looked whether first fragments have come, and others are taken.
const PAUSE: Duration = Duration::from_millis(1);
/// Fragments that are taken at a time.
const AT_A_TIME: usize = 32;
/// Fragments that wait to be sent again, at most: some hundred milliseconds of the kernel's time.
const QUEUE: usize = 512;

/// Holds fragments until the agent ends.
pub async fn hold(mut early: EarlyFragments, counted: watch::Sender<Counters>) {
    let counted = Arc::new(counted);
    let ingress = match early.ingress() {
        Ok(ingress) => ingress,
        Err(error) => return tracing::error!(%error, "fragments that come too early are lost"),
    };
    let again = match begin_to_send(move |fragment| ingress.receive(fragment), Arc::clone(&counted)) {
        Ok(again) => again,
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
        let queue_full = send(&again, come);
        let held = waiting.counters();
        counted.send_modify(|all| {
            all.queue_full += queue_full;
            (all.expired, all.no_room) = (held.expired, held.no_room);
        });
    }
}

/// Gives fragments to the thread that sends them; how many it has no room for.
fn send(again: &SyncSender<Early>, come: Vec<Early>) -> u64 {
    let refused = come.into_iter().filter_map(|fragment| again.try_send(fragment).err());
    refused.count() as u64
}

/// The thread that sends fragments again, in the order in which they come, until nobody gives it any more.
fn begin_to_send(
    receive: impl Fn(&Early) -> io::Result<()> + Send + 'static,
    counted: Arc<watch::Sender<Counters>>,
) -> io::Result<SyncSender<Early>> {
    let (again, come) = sync_channel(QUEUE);
    let run = move || send_all(&come, receive, &counted);
    std::thread::Builder::new().name("fragments".to_owned()).spawn(run)?;
    Ok(again)
}

fn send_all(
    come: &Receiver<Early>,
    receive: impl Fn(&Early) -> io::Result<()>,
    counted: &watch::Sender<Counters>,
) {
    let mut told = false;
    for fragment in come {
        let sent = receive(&fragment);
        match &sent {
            // Once until it does again: a kernel that is too old takes none at all.
            Err(error) if !told => tracing::warn!(%error, "the kernel doesn't take fragments again"),
            _ => {}
        }
        told = sent.is_err();
        counted.send_modify(|all| *if told { &mut all.refused } else { &mut all.sent_again } += 1);
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Mutex, thread::yield_now};

    use fairlead_abi::FragmentKey;

    use super::*;

    fn early(number: u8) -> Early {
        Early { datagram: FragmentKey::default(), ifindex: 1, frame: vec![number] }
    }

    /// Waits for the thread.
    fn wait_until(counted: &watch::Receiver<Counters>, is: impl Fn(&Counters) -> bool) {
        let begun = std::time::Instant::now();
        while !is(&counted.borrow()) {
            assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", *counted.borrow());
            yield_now();
        }
    }

    #[test]
    fn a_kernel_that_takes_its_time_holds_nobody_up() {
        let (count, counted) = watch::channel(Counters::default());
        let gate = Arc::new(Mutex::new(Vec::new()));
        let (held, seen) = (gate.lock().unwrap(), Arc::clone(&gate));
        let receive = move |fragment: &Early| {
            seen.lock().unwrap().push(fragment.frame[0]);
            if fragment.frame[0] == 1 { Err(io::Error::other("no")) } else { Ok(()) }
        };
        let again = begin_to_send(receive, Arc::new(count)).unwrap();
        // One may be with the kernel already, which takes it when the gate opens.
        let many: Vec<Early> = (0..QUEUE + 10).map(|number| early(u8::try_from(number % 7).unwrap())).collect();
        let queue_full = send(&again, many);
        assert!((9..=10).contains(&queue_full), "{queue_full}");
        drop(held);
        wait_until(&counted, |all| all.sent_again + all.refused + queue_full == (QUEUE + 10) as u64);
        let taken = gate.lock().unwrap().clone();
        assert!(taken.iter().zip((0..7).cycle()).all(|(taken, sent)| *taken == sent), "in order");
        assert_eq!(counted.borrow().refused, taken.iter().filter(|number| **number == 1).count() as u64);
    }
}
