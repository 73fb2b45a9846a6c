//! Fragments that came before their datagram's first one: the programs can't keep them, so this task does, and lets them come
//! in once more when the first has come.
//!
//! A flood of them costs the node no more than `AT_A_TIME` in each `PAUSE`: what the ring buffer has no room for, the programs
//! drop. A thread of its own gives them back to the kernel, which may take its time, and nobody waits for it.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use fairlead_core::fragments::{Counters, Waiting};
use tokio::{sync::watch, time::sleep};

use crate::dataplane::{Early, EarlyFragments, Ingress, can_transmit};

/// How often it is looked whether first fragments have come, and others are taken.
const PAUSE: Duration = Duration::from_millis(1);
/// Fragments that are taken at a time.
const AT_A_TIME: usize = 32;
/// Fragments that wait to be sent again, at most: some hundred milliseconds of the kernel's time.
const QUEUE: usize = 512;
/// For so long an interface is taken to be able to do what it could.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Holds fragments until the agent ends; on a gateway most of them have to leave again.
pub async fn hold(mut early: EarlyFragments, is_gateway: bool, counted: watch::Sender<Counters>) {
    let counted = Arc::new(counted);
    let ingress = match early.ingress() {
        Ok(ingress) => ingress,
        Err(error) => return tracing::error!(%error, "fragments that come too early are lost"),
    };
    let again = match begin_to_send(sender(ingress, is_gateway), Arc::clone(&counted)) {
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

/// What becomes of a fragment that the kernel has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// It comes in.
    Again,
    /// It comes in, but can't leave by the interface that it came by.
    NotTransmitted,
}

/// What lets a fragment come in again: kernels let what is not a driver's own leave by its device only where that has a way
/// for it, and say nothing where it hasn't.
fn sender(ingress: Ingress, is_gateway: bool) -> impl FnMut(&Early) -> io::Result<Sent> + Send + 'static {
    let mut known = BTreeMap::<u32, (Instant, bool)>::new();
    move |fragment| {
        ingress.receive(fragment)?;
        let now = Instant::now();
        let (_, lacks) = *known
            .entry(fragment.ifindex)
            .and_modify(|(at, lacks)| {
                if now.duration_since(*at) > LOOK_AGAIN {
                    (*at, *lacks) = (now, lacks_transmit(fragment.ifindex));
                }
            })
            .or_insert_with(|| (now, lacks_transmit(fragment.ifindex)));
        Ok(if is_gateway && lacks { Sent::NotTransmitted } else { Sent::Again })
    }
}

/// Whether the kernel says that an interface can't send frames of programs.
fn lacks_transmit(ifindex: u32) -> bool {
    can_transmit(ifindex).is_ok_and(|can| can == Some(false))
}

/// The thread that sends fragments again, in the order in which they come, until nobody gives it any more.
fn begin_to_send(
    receive: impl FnMut(&Early) -> io::Result<Sent> + Send + 'static,
    counted: Arc<watch::Sender<Counters>>,
) -> io::Result<SyncSender<Early>> {
    let (again, come) = sync_channel(QUEUE);
    let run = move || send_all(&come, receive, &counted);
    std::thread::Builder::new().name("fragments".to_owned()).spawn(run)?;
    Ok(again)
}

fn send_all(
    come: &Receiver<Early>,
    mut receive: impl FnMut(&Early) -> io::Result<Sent>,
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
        counted.send_modify(|all| {
            *match sent {
                Ok(Sent::Again) => &mut all.sent_again,
                Ok(Sent::NotTransmitted) => &mut all.not_transmitted,
                Err(_) => &mut all.refused,
            } += 1;
        });
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
        let begun = Instant::now();
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
            match fragment.frame[0] {
                1 => Err(io::Error::other("no")),
                2 => Ok(Sent::NotTransmitted),
                _ => Ok(Sent::Again),
            }
        };
        let again = begin_to_send(receive, Arc::new(count)).unwrap();
        // One may be with the kernel already, which takes it when the gate opens.
        let many: Vec<Early> =
            (0..QUEUE + 10).map(|number| early(u8::try_from(number % 7).unwrap())).collect();
        let queue_full = send(&again, many);
        assert!((9..=10).contains(&queue_full), "{queue_full}");
        drop(held);
        wait_until(&counted, |all| {
            all.sent_again + all.not_transmitted + all.refused + queue_full == (QUEUE + 10) as u64
        });
        let taken = gate.lock().unwrap().clone();
        assert!(taken.iter().zip((0..7).cycle()).all(|(taken, sent)| *taken == sent), "in order");
        let count = |wanted: u8| taken.iter().filter(|number| **number == wanted).count() as u64;
        let counted = *counted.borrow();
        assert_eq!((counted.refused, counted.not_transmitted), (count(1), count(2)));
    }
}
