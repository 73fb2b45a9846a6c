//! A UDP server for pods of the test world: each datagram is answered with who answered, a newline, and the
//! datagram itself.
//!
//! `fairlead-udp-echo IDENTITY ADDRESS:PORT [ADDRESS:PORT …]`; it runs until it is killed.
#![forbid(unsafe_code)]

use std::net::{SocketAddr, UdpSocket};
use std::thread;

use anyhow::{Context, Result, ensure};

/// Larger than any datagram over IPv4 or IPv6 without jumbograms.
const LARGEST: usize = 65_536;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let identity =
        arguments.next().context("usage: fairlead-udp-echo IDENTITY ADDRESS:PORT [ADDRESS:PORT …]")?;
    let sockets = arguments.map(|argument| bind(&argument)).collect::<Result<Vec<_>>>()?;
    ensure!(!sockets.is_empty(), "no address to listen on");
    let served: Vec<_> = sockets
        .into_iter()
        .map(|socket| {
            let identity = identity.clone();
            thread::spawn(move || echo(&socket, &identity))
        })
        .collect();
    for thread in served {
        thread.join().expect("the echo loop doesn't panic")?;
    }
    Ok(())
}

fn bind(argument: &str) -> Result<UdpSocket> {
    let address: SocketAddr = argument.parse().with_context(|| format!("not ADDRESS:PORT: {argument}"))?;
    UdpSocket::bind(address).with_context(|| format!("listen on {address}"))
}

fn echo(socket: &UdpSocket, identity: &str) -> Result<()> {
    let mut datagram = vec![0; LARGEST];
    let mut answer = Vec::with_capacity(LARGEST);
    loop {
        // An ICMP error about an earlier answer shows up here; it concerns that client only.
        let Ok((length, client)) = socket.recv_from(&mut datagram) else { continue };
        answer.clear();
        answer.extend_from_slice(identity.as_bytes());
        answer.push(b'\n');
        answer.extend_from_slice(&datagram[..length]);
        // A client that is gone or unreachable must not end the server.
        let _ = socket.send_to(&answer, client);
    }
}
