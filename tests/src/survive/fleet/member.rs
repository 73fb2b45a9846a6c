//! One client's part of a fleet: all of its connections, as tasks of one thread in its namespace.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::connection::{Connection, NotOpen};
use super::datagrams::Flow;
use super::kinds::{self, BYTES, RATE};
use super::migrants::Migrating;
use super::order::{Order, Orders};
use super::{Mix, Shared};
use crate::load::Target;
use crate::survive::clock;
use crate::survive::outcome::{Break, Kind, Outcome, Protocol};
use crate::survive::server::Request;

/// In this time all connections are opened.
const OPENING: Duration = Duration::from_secs(2);

/// One client.
pub(super) struct Member {
    pub(super) shared: Arc<Shared>,
    pub(super) addresses: [IpAddr; 2],
    /// The first of the ports that it may bind, as many as a mix needs for each protocol.
    pub(super) first_port: u16,
    pub(super) target: Target,
    pub(super) quic_port: u16,
    pub(super) mix: Mix,
}

/// One connection to be.
#[derive(Clone, Copy)]
struct Seat {
    kind: Kind,
    from: SocketAddr,
    to: SocketAddr,
    /// Where it stands among those of its protocol, from 0 to 1.
    phase: f64,
}

/// What short connections are made of.
#[derive(Clone, Copy)]
enum Over {
    Tcp,
    Quic,
}

impl Member {
    /// Opens everything, holds it, ends it when it is told to.
    pub(super) async fn run(self: Arc<Self>) -> Result<()> {
        let mut tasks = JoinSet::new();
        for (from, to) in self.ways(self.target.http_port) {
            for seat in seats(from, to, self.first_port, &self.mix.kinds()) {
                tasks.spawn(self.clone().hold(seat));
            }
            tasks.spawn(self.clone().open_short_ones(Over::Tcp, from, to));
        }
        for (from, to) in self.ways(self.target.udp_port) {
            for seat in seats(from, to, self.first_port, &vec![Kind::Flow; self.mix.flows]) {
                tasks.spawn(self.clone().flow(seat));
            }
        }
        for (from, to) in self.ways(self.quic_port) {
            // Behind those of flows, which are UDP too.
            let first_port = self.first_port + u16::try_from(self.mix.flows)?;
            for seat in seats(from, to, first_port, &self.mix.quic_kinds()) {
                tasks.spawn(self.clone().migrate(seat));
            }
            tasks.spawn(self.clone().open_short_ones(Over::Quic, from, to));
        }
        while let Some(ended) = tasks.join_next().await {
            ended?;
        }
        Ok(())
    }

    /// From which of its addresses to which of the target's.
    fn ways(&self, port: u16) -> [(IpAddr, SocketAddr); 2] {
        let [v4, v6] = self.addresses;
        [
            (v4, SocketAddr::new(self.target.v4.into(), port)),
            (v6, SocketAddr::new(self.target.v6.into(), port)),
        ]
    }

    fn orders(&self, phase: f64) -> Orders {
        Orders::new(self.shared.order.subscribe(), phase)
    }

    /// One connection that is open before the event.
    async fn hold(self: Arc<Self>, seat: Seat) {
        sleep(OPENING.mul_f64(seat.phase)).await;
        let (began, request) = (clock::now(), request(seat));
        let mut connection = match Connection::open(seat.from, seat.to, request).await {
            Ok(connection) => connection,
            Err(why) => {
                return self.shared.fail(format!("{:?} {} to {}: {why}", seat.kind, seat.from, seat.to));
            }
        };
        self.shared.opened.fetch_add(1, Ordering::Relaxed);
        let (seed, orders) = (seed(seat), self.orders(seat.phase));
        let used = match seat.kind {
            Kind::Download => kinds::download(&mut connection, seed, orders).await,
            Kind::Upload => kinds::upload(&mut connection, seed, orders).await,
            Kind::Chatty => kinds::chatty(&mut connection, orders).await,
            Kind::Idle if orders.reopen().await => return self.reopen(seat, connection).await,
            _ => kinds::idle(&mut connection, orders).await,
        };
        self.end(seat.kind, began, &connection, used);
    }

    /// Ends a connection, one by RST and the next by the server's FIN, and opens another from the same port.
    async fn reopen(self: Arc<Self>, seat: Seat, mut connection: Connection) {
        let began = clock::now();
        let closed = if seat.from.port().is_multiple_of(2) {
            connection.stream.get_ref().set_zero_linger().map_err(Break::from)
        } else {
            connection.ask("close").await
        };
        if closed.is_err() {
            self.shared.reopened.fetch_add(1, Ordering::Relaxed);
            return self.end(seat.kind, began, &connection, closed);
        }
        drop(connection);
        let opened = Connection::open_again(seat.from, seat.to, Request::Echo).await;
        self.shared.reopened.fetch_add(1, Ordering::Relaxed);
        match opened {
            Ok(mut connection) => {
                let used = kinds::idle(&mut connection, self.orders(seat.phase)).await;
                self.end(seat.kind, began, &connection, used);
            }
            Err(NotOpen::Broken(client, why)) => self.never_greeted(seat.kind, began, client, seat.to, why),
            Err(NotOpen::Unestablished(_)) => {
                self.never_greeted(seat.kind, began, seat.from, seat.to, Break::NotOpened);
            }
        }
    }

    /// New connections all the time, each used for a moment.
    async fn open_short_ones(self: Arc<Self>, over: Over, from: IpAddr, to: SocketAddr) {
        let per_second = match over {
            Over::Tcp => self.mix.short_per_second,
            // Each of them makes keys.
            Over::Quic => self.mix.short_per_second / 5.0,
        };
        let Ok(period) = Duration::try_from_secs_f64(1.0 / per_second) else { return };
        let (mut times, mut running) = (kinds::times(period), JoinSet::new());
        while *self.shared.order.borrow() != Order::End {
            times.tick().await;
            let (member, from) = (self.clone(), SocketAddr::new(from, 0));
            match over {
                Over::Tcp => running.spawn(member.short(from, to)),
                Over::Quic => running.spawn(member.short_migrant(from, to)),
            };
            while running.try_join_next().is_some() {}
        }
        running.join_all().await;
    }

    async fn short(self: Arc<Self>, from: SocketAddr, to: SocketAddr) {
        let began = clock::now();
        match Connection::open(from, to, Request::Echo).await {
            Ok(mut connection) => {
                let used = kinds::short(&mut connection).await;
                self.end(Kind::Short, began, &connection, used);
            }
            Err(NotOpen::Broken(client, why)) => self.never_greeted(Kind::Short, began, client, to, why),
            // Nobody's connection.
            Err(NotOpen::Unestablished(_)) => drop(self.shared.unopened.fetch_add(1, Ordering::Relaxed)),
        }
    }

    async fn short_migrant(self: Arc<Self>, from: SocketAddr, to: SocketAddr) {
        let began = clock::now();
        match Migrating::open(from, to, Request::Echo).await {
            Ok(mut migrating) => {
                let used = migrating.run(Kind::Short, 0, self.orders(0.0)).await;
                self.end_migrant(Kind::Short, began, &migrating, used);
            }
            Err(NotOpen::Broken(client, why)) => self.shared.record(Outcome {
                protocol: Protocol::Quic,
                ..never_greeted(Kind::Short, began, client, to, why)
            }),
            Err(NotOpen::Unestablished(_)) => drop(self.shared.unopened.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// One of QUIC that is open before the event.
    async fn migrate(self: Arc<Self>, seat: Seat) {
        sleep(OPENING.mul_f64(seat.phase)).await;
        let began = clock::now();
        let mut migrating = match Migrating::open(seat.from, seat.to, request(seat)).await {
            Ok(migrating) => migrating,
            Err(why) => {
                return self.shared.fail(format!("QUIC {:?} {} to {}: {why}", seat.kind, seat.from, seat.to));
            }
        };
        self.shared.opened.fetch_add(1, Ordering::Relaxed);
        let used = migrating.run(seat.kind, seed(seat), self.orders(seat.phase)).await;
        self.end_migrant(seat.kind, began, &migrating, used);
    }

    fn end_migrant(&self, kind: Kind, opened: Duration, migrating: &Migrating, used: Result<(), Break>) {
        let protocol = Protocol::Quic;
        self.shared.record(Outcome { protocol, ..outcome(kind, opened, &migrating.connection, used) });
    }

    async fn flow(self: Arc<Self>, seat: Seat) {
        sleep(OPENING.mul_f64(seat.phase)).await;
        let began = clock::now();
        let opened = async {
            let mut flow = Flow::bind(seat.from, seat.to).await?;
            flow.open().await?;
            Ok::<_, Break>(flow)
        };
        let mut flow = match opened.await {
            Ok(flow) => flow,
            Err(why) => return self.shared.fail(format!("a flow from {} to {}: {why}", seat.from, seat.to)),
        };
        self.shared.opened.fetch_add(1, Ordering::Relaxed);
        let used = flow.run(self.orders(seat.phase)).await;
        self.shared.record(Outcome {
            protocol: Protocol::Udp,
            kind: Kind::Flow,
            client: seat.from,
            opened: began,
            server: flow.server(),
            broken: used.err().map(|why| (why, clock::now())),
            longest_stall: flow.longest_stall,
        });
    }

    fn end(&self, kind: Kind, opened: Duration, connection: &Connection, used: Result<(), Break>) {
        self.shared.record(outcome(kind, opened, connection, used));
    }

    fn never_greeted(&self, kind: Kind, opened: Duration, client: SocketAddr, to: SocketAddr, why: Break) {
        self.shared.record(never_greeted(kind, opened, client, to, why));
    }
}

/// What became of an open connection, of TCP unless somebody says otherwise.
fn outcome<S>(kind: Kind, opened: Duration, connection: &Connection<S>, used: Result<(), Break>) -> Outcome {
    Outcome {
        protocol: Protocol::tcp(connection.client),
        kind,
        client: connection.client,
        opened,
        server: Some(connection.identity.server.clone()),
        broken: used.err().map(|why| (why, clock::now())),
        longest_stall: connection.longest_stall,
    }
}

/// The same of one that broke before its server had said who it is.
fn never_greeted(kind: Kind, opened: Duration, client: SocketAddr, to: SocketAddr, why: Break) -> Outcome {
    Outcome {
        protocol: Protocol::tcp(to),
        kind,
        client,
        opened,
        server: None,
        broken: Some((why, clock::now())),
        longest_stall: Duration::ZERO,
    }
}

/// A port for each of `kinds`, from `first_port` on.
fn seats(from: IpAddr, to: SocketAddr, first_port: u16, kinds: &[Kind]) -> Vec<Seat> {
    let count = f64::from(u32::try_from(kinds.len()).unwrap_or(u32::MAX));
    let numbered = kinds.iter().zip(first_port..).zip(0_u32..);
    let seat = |((&kind, port), number)| Seat {
        kind,
        from: SocketAddr::new(from, port),
        to,
        phase: f64::from(number) / count,
    };
    numbered.map(seat).collect()
}

fn seed(seat: Seat) -> u64 {
    u64::from(seat.from.port()) << 8 | u64::from(seat.from.is_ipv6())
}

fn request(seat: Seat) -> Request {
    match seat.kind {
        Kind::Download => Request::Download { seed: seed(seat), bytes: BYTES, rate: RATE },
        Kind::Upload => Request::Upload { seed: seed(seat), bytes: BYTES },
        _ => Request::Echo,
    }
}
