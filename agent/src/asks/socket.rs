//! The sockets that messages leave and come by.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use fairlead_abi::CONTROL_PORT;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

/// One socket of each IP version, as far as there is one.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
    /// Which of them [`try_receive`](Self::try_receive) has looked at last.
    last_v6: bool,
}

impl Sockets {
    /// A gateway's: at the addresses that its tunnel packets come from, so that answers and claims find it.
    pub(super) fn of_gateway(addresses: impl IntoIterator<Item = IpAddr>) -> io::Result<Self> {
        let mut sockets = Self::default();
        for address in addresses {
            let socket = bind(SocketAddr::new(address, CONTROL_PORT))?;
            if address.is_ipv4() { sockets.v4 = Some(socket) } else { sockets.v6 = Some(socket) }
        }
        Ok(sockets)
    }

    /// A receiver's, which only sends.
    pub(super) fn of_receiver() -> io::Result<Self> {
        let v4 = bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0))?;
        // A node may have no IPv6 at all.
        let v6 = bind(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0)).ok();
        Ok(Self { v4: Some(v4), v6, last_v6: false })
    }

    /// Sends a message to a node; one that can't be sent is one that is lost.
    pub(super) fn send(&self, to: IpAddr, message: &[u8]) {
        let socket = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        let Some(socket) = socket else { return };
        if let Err(error) = socket.try_send_to(message, SocketAddr::new(to, CONTROL_PORT)) {
            tracing::debug!(%to, %error, "a message is lost");
        }
    }

    /// The next message, and where it comes from.
    pub(super) async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, IpAddr)> {
        let other = &mut vec![0; buffer.len()][..];
        let (length, from, is_other) = tokio::select! {
            got = receive_by(self.v4.as_ref(), buffer) => { let (length, from) = got?; (length, from, false) }
            got = receive_by(self.v6.as_ref(), other) => { let (length, from) = got?; (length, from, true) }
        };
        if is_other {
            buffer[..length].copy_from_slice(&other[..length]);
        }
        Ok((length, from.ip()))
    }

    /// A message that has come already. The IP versions take turns: a flood of one must not hide the other.
    pub(super) fn try_receive(&mut self, buffer: &mut [u8]) -> Option<(usize, IpAddr)> {
        for _ in 0..2 {
            self.last_v6 = !self.last_v6;
            let socket = if self.last_v6 { &self.v6 } else { &self.v4 };
            if let Some(Ok((length, from))) = socket.as_ref().map(|socket| socket.try_recv_from(buffer)) {
                return Some((length, from.ip()));
            }
        }
        None
    }
}

async fn receive_by(socket: Option<&UdpSocket>, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    match socket {
        Some(socket) => socket.recv_from(buffer).await,
        None => std::future::pending().await,
    }
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
        crate::dataplane::take_without_checksum(&socket)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    // Bursts of answers; the kernel grants less where it must.
    let _ = socket.set_recv_buffer_size(4 << 20);
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}
