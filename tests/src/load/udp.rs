//! Questions over UDP.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::UdpSocket;

use super::request::Failure;

/// Sends one datagram from a new socket, so as a flow of its own, and waits for the answer from just there; returns the
/// client's port and the answer.
pub async fn ask(server: SocketAddr, payload: &[u8]) -> Result<(u16, Vec<u8>), Failure> {
    let any = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    let port = socket.local_addr()?.port();
    socket.connect(server).await?;
    socket.send(payload).await?;
    let mut answer = vec![0; 65_536];
    let length = socket.recv(&mut answer).await?;
    answer.truncate(length);
    Ok((port, answer))
}
