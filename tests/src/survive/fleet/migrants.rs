//! QUIC connections: used as those of TCP are, while their client moves from port to port.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
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

/// From one move of a client to the next.
const STAY: Duration = Duration::from_secs(3);

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

    /// Uses it as its kind is until the fleet ends. Its client moves every now and then; an idle one when the fleet ends, before
    /// it speaks again.
    pub(super) async fn run(&mut self, kind: Kind, seed: u64, orders: Orders) -> Result<(), Break> {
        let Self { connection, migrant } = self;
        if kind == Kind::Idle {
            orders.end().await;
            migrant.migrate()?;
            return connection.ask("still there?").await;
        }
        // Not all at once.
        let phase = STAY.mul_f64(f64::from(connection.client.port() % 100) / 100.0);
        let moves = async {
            sleep(phase).await;
            let mut times = times(STAY);
            loop {
                times.tick().await;
                migrant.migrate()?;
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
