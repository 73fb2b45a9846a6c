//! Fifty swaps under load, of programs, of processes and of tables: not one packet is lost.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fairlead_tests::world::{Agent, Federation, PINS, Plan, other_elf};
use nix::sys::signal::Signal;

use crate::served::{PATIENCE, Served};
use crate::upgrade::restart;

const SWAPS: usize = 50;
/// From one datagram to the next, of each IP version.
const PACE: Duration = Duration::from_millis(2);

#[test]
fn fifty_swaps_lose_no_packet() {
    let served = Served::build(&Plan::default().region("us-central1", &["a"], 1), &Federation::default());
    served.wait_until_served();
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let talk = |&vip: &IpAddr| {
            let to = SocketAddr::new(vip, served.service.udp_port);
            let (served, ended) = (&served, &ended);
            scope.spawn(move || served.client().namespace.run(|| Ok(talk(to, ended))).unwrap())
        };
        let talks: Vec<_> = served.service.vips.iter().map(talk).collect();
        let end = End(&ended);
        for swap in 0..SWAPS {
            let agent = if swap % 2 == 0 { served.gateway() } else { served.node(0) };
            SWAP[swap / 2 % SWAP.len()](agent);
        }
        drop(end);
        for talk in talks {
            let (sent, lost) = talk.join().unwrap();
            assert!(sent > 1000, "{sent} datagrams prove nothing");
            assert_eq!(lost, Vec::<u64>::new(), "of {sent} datagrams");
        }
    });
}

/// Ends the talks, also where a swap fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What can be swapped, one after the other.
const SWAP: [fn(&Agent); 4] = [
    |agent| {
        agent.replace_programs(Some(&other_elf().unwrap()));
        restart(agent, || {});
    },
    |agent| {
        agent.process().signal(Signal::SIGKILL).unwrap();
        agent.process().wait(PATIENCE).unwrap();
        agent.process().start_again().unwrap();
        agent.wait_until_ready(PATIENCE).unwrap();
    },
    |agent| {
        agent.replace_programs(None);
        restart(agent, || {});
    },
    |agent| {
        // The tables become another version's, as after an upgrade or a rollback.
        let pins = Path::new(PINS).join(agent.instance());
        restart(agent, || fs::rename(pins.join("v4"), pins.join("v0")).unwrap());
    },
];

/// Sends numbers until the end: how many, and those that were not answered.
fn talk(to: SocketAddr, ended: &AtomicBool) -> (u64, Vec<u64>) {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(PACE)).unwrap();
    let (mut sent, mut missing) = (0_u64, BTreeSet::new());
    let hear = |missing: &mut BTreeSet<u64>| {
        let mut answer = [0; 256];
        while let Ok(length) = socket.recv(&mut answer) {
            let number = answer[..length].rsplit(|&byte| byte == b'\n').next().unwrap();
            missing.remove(&std::str::from_utf8(number).unwrap().parse::<u64>().unwrap());
        }
    };
    while !ended.load(Ordering::Relaxed) {
        missing.insert(sent);
        socket.send(sent.to_string().as_bytes()).unwrap();
        sent += 1;
        hear(&mut missing);
    }
    let deadline = Instant::now() + PATIENCE;
    while !missing.is_empty() && Instant::now() < deadline {
        hear(&mut missing);
    }
    (sent, missing.into_iter().collect())
}
