//! A UDP flow: a datagram every now and then from the same port, each with a number.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::kinds::times;
use super::order::Orders;
use crate::survive::identity::Server;
use crate::survive::outcome::Break;

/// From one datagram of a flow to the next.
const EVERY: Duration = Duration::from_millis(300);

/// A flow of which so many datagrams in a row are not answered, in 3 s or more, is broken. One that is lost is not: UDP
/// loses some. Not counted in time: a machine that stands still sends nothing either.
const PATIENCE: u64 = 10;

/// A flow and its server's answers.
pub(super) struct Flow {
    socket: UdpSocket,
    server: Option<Server>,
    sent: u64,
    /// The number of the last datagram that was sent before the last answer came.
    answered: u64,
    /// When the last answer came, or it all began.
    heard: Instant,
    pub(super) longest_stall: Duration,
}

impl Flow {
    pub(super) async fn bind(from: SocketAddr, to: SocketAddr) -> std::io::Result<Self> {
        let socket = UdpSocket::bind(from).await?;
        socket.connect(to).await?;
        let (sent, answered, heard, longest_stall) = (0, 0, Instant::now(), Duration::ZERO);
        Ok(Self { socket, server: None, sent, answered, heard, longest_stall })
    }

    /// Who answered first.
    pub(super) fn server(&self) -> Option<Server> {
        self.server.clone()
    }

    /// Until the first answer.
    pub(super) async fn open(&mut self) -> Result<(), Break> {
        self.exchange(std::future::ready(()), 0).await
    }

    /// Until the fleet ends, and then until a datagram that is sent afterwards is answered.
    pub(super) async fn run(&mut self, orders: Orders) -> Result<(), Break> {
        self.heard = Instant::now();
        self.exchange(orders.end(), 1).await
    }

    /// Sends and listens until a datagram is answered that was sent so many datagrams after `end`.
    async fn exchange(&mut self, end: impl Future<Output = ()>, after: u64) -> Result<(), Break> {
        let mut times = times(EVERY);
        let mut answer = [0; 256];
        let mut last = None;
        tokio::pin!(end);
        loop {
            tokio::select! {
                // What has come counts before what has not.
                biased;
                // An ICMP error about an earlier datagram shows up here; the next may pass.
                received = self.socket.recv(&mut answer) => if let Ok(length) = received {
                    let number = self.hear(&answer[..length])?;
                    if last.is_some_and(|last| number >= last) {
                        return Ok(());
                    }
                },
                () = &mut end, if last.is_none() => last = Some(self.sent + after),
                _ = times.tick() => {
                    if self.sent - self.answered >= PATIENCE {
                        return Err(Break::Unanswered);
                    }
                    self.sent += 1;
                    // The same.
                    let _ = self.socket.send(self.sent.to_string().as_bytes()).await;
                }
            }
        }
    }

    /// Takes an answer; its number.
    fn hear(&mut self, answer: &[u8]) -> Result<u64, Break> {
        let said = str::from_utf8(answer).ok().and_then(|text| text.split_once(' '));
        let said = said.and_then(|(number, server)| Some((number.parse().ok()?, Server::parse(server)?)));
        let (number, server) = said.ok_or(Break::WrongBytes)?;
        self.longest_stall = self.longest_stall.max(self.heard.elapsed().saturating_sub(EVERY));
        self.heard = Instant::now();
        self.answered = self.sent;
        if *self.server.get_or_insert_with(|| server.clone()) == server {
            Ok(number)
        } else {
            Err(Break::OtherServer)
        }
    }
}
