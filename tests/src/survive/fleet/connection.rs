//! One connection from the client's side: opened, asked, its answers checked.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use crate::survive::identity::Identity;
use crate::survive::outcome::Break;
use crate::survive::server::Request;

/// A connection on which nothing comes for so long is broken. TCP has sent again by then 0.2, 0.6, 1.4, 3.0, 6.2 and
/// 12.6 s after the first time.
pub(super) const PATIENCE: Duration = Duration::from_secs(14);

/// What is read ahead. Thousands have one.
const BUFFER: usize = 4096;

/// What bytes go both ways through.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// An open connection whose server has said who it is.
pub(super) struct Connection<S = TcpStream> {
    pub(super) stream: BufReader<S>,
    pub(super) client: SocketAddr,
    pub(super) identity: Identity,
    pub(super) longest_stall: Duration,
}

/// Why there is no connection.
pub(super) enum NotOpen {
    /// The client's kernel has never called it established.
    Unestablished(io::Error),
    /// It was, and broke before its server had said who it is.
    Broken(SocketAddr, Break),
}

impl Connection {
    /// Opens one; with port 0, from any port.
    pub(super) async fn open(from: SocketAddr, to: SocketAddr, request: Request) -> Result<Self, NotOpen> {
        let connecting = timeout(PATIENCE, connect(from, to)).await;
        let stream = connecting.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
        let stream = stream.map_err(NotOpen::Unestablished)?;
        let client = stream.local_addr().map_err(NotOpen::Unestablished)?;
        Self::greet(stream, client, request).await
    }

    /// As [`Connection::open`], right after another from the same port has ended: the kernel may not have noticed yet.
    pub(super) async fn open_again(
        from: SocketAddr,
        to: SocketAddr,
        request: Request,
    ) -> Result<Self, NotOpen> {
        let deadline = Instant::now() + Duration::from_secs(1);
        loop {
            let opened = Self::open(from, to, request).await;
            let in_use = matches!(&opened, Err(NotOpen::Unestablished(error))
                if matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable));
            if !in_use || Instant::now() > deadline {
                return opened;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }
}

impl<S: Duplex> Connection<S> {
    /// Says over an established connection of `client` what it is for, and hears who answers.
    pub(super) async fn greet(stream: S, client: SocketAddr, request: Request) -> Result<Self, NotOpen> {
        let mut stream = BufReader::with_capacity(BUFFER, stream);
        let began = Instant::now();
        let greeting = async {
            stream.write_all(format!("{request}\n").as_bytes()).await?;
            read_line(&mut stream).await
        };
        let greeting = patiently(greeting).await.map_err(|broken| NotOpen::Broken(client, broken))?;
        let identity = Identity::parse(&greeting).ok_or(NotOpen::Broken(client, Break::WrongBytes))?;
        Ok(Self { stream, client, identity, longest_stall: began.elapsed() })
    }

    /// Sends a line; it must come back from the server that has answered before.
    pub(super) async fn ask(&mut self, line: &str) -> Result<(), Break> {
        let asked = Instant::now();
        let exchange = async {
            self.stream.write_all(format!("{line}\n").as_bytes()).await?;
            read_line(&mut self.stream).await
        };
        let answer = patiently(exchange).await;
        self.stalled(asked.elapsed());
        self.expect(line, &answer?)
    }

    /// The answer must be `words` and who has answered before.
    pub(super) fn expect(&self, words: &str, answer: &str) -> Result<(), Break> {
        let said = answer.strip_prefix(words).and_then(|rest| rest.strip_prefix(' '));
        let identity = said.and_then(Identity::parse).ok_or(Break::WrongBytes)?;
        if identity == self.identity { Ok(()) } else { Err(Break::OtherServer) }
    }

    /// Its client has waited for so long.
    pub(super) fn stalled(&mut self, stall: Duration) {
        self.longest_stall = self.longest_stall.max(stall);
    }
}

async fn connect(from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    if from.port() != 0 {
        socket.set_reuseaddr(true)?;
        socket.bind(from)?;
    }
    socket.connect(to).await
}

/// A line without its end.
pub(super) async fn read_line(stream: &mut BufReader<impl Duplex>) -> io::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    line.pop().filter(|&end| end == '\n').ok_or(ErrorKind::UnexpectedEof)?;
    Ok(line)
}

/// Within the client's patience.
pub(super) async fn patiently<T>(work: impl Future<Output = io::Result<T>>) -> Result<T, Break> {
    Ok(timeout(PATIENCE, work).await.map_err(|_| Break::Unanswered)??)
}
