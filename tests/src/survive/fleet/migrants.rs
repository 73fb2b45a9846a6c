//! QUIC connections: used as those of TCP are, while their client moves from port to port.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use quinn::{RecvStream, SendStream};
use tokio::io::{Join, join};
use tokio::time::{sleep, timeout};

use super::connection::{Connection, NotOpen, PATIENCE};
use super::kinds::{self, times};
use super::order::Orders;
use crate::quic::Migrant;
use crate::survive::outcome::{Break, Kind};
use crate::survive::server::Request;

/// From one move of a client to the next. To another port of the same IPv4 address none moves: for a server of quinn 0.11
/// that is the NAT's doing, and on a machine that is too busy, its answers then go where the client was before until the
/// connection is over.
const STAY: Duration = Duration::from_secs(3);

/// Where a client goes from an address: its other one of IPv4, to which [`Stage`](crate::survive::stage::Stage) sees; of
/// IPv6 it has one, and takes another port of it.
pub(in crate::survive) fn elsewhere(from: IpAddr) -> IpAddr {
    match from {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() ^ 0x80).into(),
        IpAddr::V6(_) => from,
    }
}

/// An open connection.
pub(super) struct Migrating {
    pub(super) connection: Connection<Join<RecvStream, SendStream>>,
    migrant: Migrant,
}

impl Migrating {
    /// Opens one; with port 0, from any port.
    pub(super) async fn open(from: SocketAddr, to: SocketAddr, request: Request) -> Result<Self, NotOpen> {
        let connecting = timeout(PATIENCE, Migrant::connect(from, to)).await;
        let migrant =
            connecting.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())).map_err(NotOpen::Unestablished)?;
        let client = migrant.address().map_err(NotOpen::Unestablished)?;
        let opened = migrant.connection.open_bi().await;
        let (write, read) = opened.map_err(|error| NotOpen::Broken(client, io::Error::from(error).into()))?;
        let connection = Connection::greet(join(read, write), client, request).await?;
        Ok(Self { connection, migrant })
    }

    /// Uses it as its kind is until the fleet ends. Its client moves every now and then; an idle one when the fleet ends,
    /// before it speaks again.
    pub(super) async fn run(&mut self, kind: Kind, seed: u64, orders: Orders) -> Result<(), Break> {
        let Self { connection, migrant } = self;
        if kind == Kind::Idle {
            orders.end().await;
            migrant.migrate(elsewhere(connection.client.ip()))?;
            return connection.ask("still there?").await;
        }
        let client = connection.client.ip();
        // Not all at once.
        let phase = STAY.mul_f64(f64::from(connection.client.port() % 100) / 100.0);
        let moves = async {
            sleep(phase).await;
            let (mut times, mut here) = (times(STAY), client);
            loop {
                times.tick().await;
                here = elsewhere(here);
                migrant.migrate(here)?;
            }
        };
        let used = async {
            match kind {
                Kind::Download => kinds::download(connection, seed, orders).await,
                Kind::Upload => kinds::upload(connection, seed, orders).await,
                Kind::Short => kinds::short(connection).await,
                _ => kinds::chatty(connection, orders).await,
            }
        };
        tokio::select! {
            used = used => used,
            failed = moves => failed,
        }
    }
}
