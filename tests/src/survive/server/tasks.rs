//! What a server does with its connections and datagrams.

use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, join};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::{MissedTickBehavior, interval};

use super::Place;
use super::request::{PACE, Request, piece};
use crate::survive::identity::Identity;
use crate::survive::pattern::Pattern;

/// What is read ahead of a connection. Thousands have one.
const BUFFER: usize = 2048;

/// What is sent at once where nothing is paced.
const LARGE_PIECE: usize = 16 * 1024;

/// What bytes go both ways through.
trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// Serves whoever connects.
pub(super) async fn accept(listener: TcpListener, place: Arc<Place>) {
    loop {
        match listener.accept().await {
            // A client that goes away ends its own connection only.
            Ok((stream, client)) => drop(tokio::spawn(serve(stream, client, Arc::clone(&place)))),
            // Too many open files: some will be closed.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn serve(stream: TcpStream, client: SocketAddr, place: Arc<Place>) -> Result<()> {
    stream.set_nodelay(true)?;
    answer(stream, client, place).await
}

/// Serves whoever connects by QUIC: the first stream of a connection is all that it is used for.
pub(super) async fn accept_quic(endpoint: quinn::Endpoint, place: Arc<Place>) {
    while let Some(incoming) = endpoint.accept().await {
        drop(tokio::spawn(serve_quic(incoming, Arc::clone(&place))));
    }
}

async fn serve_quic(incoming: quinn::Incoming, place: Arc<Place>) -> Result<()> {
    let connection = incoming.await?;
    let (write, read) = connection.accept_bi().await?;
    answer(join(read, write), connection.remote_address(), place).await
}

async fn answer(stream: impl Duplex, client: SocketAddr, place: Arc<Place>) -> Result<()> {
    let mut stream = BufReader::with_capacity(BUFFER, stream);
    // A probe says nothing.
    let Some(line) = read_line(&mut stream).await? else { return Ok(()) };
    let request = Request::parse(&line).ok_or(ErrorKind::InvalidData)?;
    let identity = place.hold(client);
    stream.write_all(format!("{identity}\n").as_bytes()).await?;
    match request {
        Request::Download { seed, bytes, rate } => send(&mut stream, Pattern::new(seed), bytes, rate).await,
        Request::Upload { seed, bytes } => take(&mut stream, Pattern::new(seed), bytes, &identity).await,
        Request::Echo => answer_lines(&mut stream, &identity).await,
    }
}

/// Sends piece by piece until the client sends a byte, and then the rest. The client closes first, so that nothing
/// that is on its way is lost to a reset.
async fn send(
    stream: &mut BufReader<impl Duplex>,
    mut pattern: Pattern,
    bytes: u64,
    rate: u64,
) -> Result<()> {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut piece, mut hurried, mut byte) = (vec![0; piece(rate)], false, [0]);
    while pattern.offset() < bytes {
        if !hurried {
            tokio::select! {
                _ = pace.tick() => {}
                read = stream.read(&mut byte) => {
                    if read? == 0 {
                        return Ok(());
                    }
                    hurried = true;
                    piece = vec![0; LARGE_PIECE];
                }
            }
        }
        let left = usize::try_from(bytes - pattern.offset()).unwrap_or(usize::MAX);
        let length = left.min(piece.len());
        let part = &mut piece[..length];
        pattern.fill(part);
        stream.write_all(part).await?;
    }
    while stream.read(&mut byte).await? > 0 {}
    Ok(())
}

/// Reads an upload to its end and says what it was.
async fn take(
    stream: &mut BufReader<impl Duplex>,
    mut pattern: Pattern,
    bytes: u64,
    identity: &Identity,
) -> Result<()> {
    while pattern.offset() < bytes {
        let part = stream.fill_buf().await?;
        if part.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let length = part.len();
        if !pattern.check(part) {
            let answer = format!("wrong at {} {identity}\n", pattern.offset());
            return stream.write_all(answer.as_bytes()).await;
        }
        stream.consume(length);
    }
    stream.write_all(format!("received {bytes} {identity}\n").as_bytes()).await?;
    while stream.read(&mut [0]).await? > 0 {}
    Ok(())
}

async fn answer_lines(stream: &mut BufReader<impl Duplex>, identity: &Identity) -> Result<()> {
    while let Some(line) = read_line(stream).await? {
        stream.write_all(format!("{line} {identity}\n").as_bytes()).await?;
        if line == "close" {
            break;
        }
    }
    Ok(())
}

/// A line without its end; `None` where the client has closed instead.
async fn read_line(stream: &mut BufReader<impl Duplex>) -> Result<Option<String>> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    match line.strip_suffix('\n') {
        Some(line) => Ok(Some(line.to_owned())),
        None if line.is_empty() => Ok(None),
        None => Err(Error::from(ErrorKind::UnexpectedEof)),
    }
}

/// Answers every datagram with itself, a space and who answers.
pub(super) async fn echo_datagrams(socket: UdpSocket, identity: String) {
    let mut datagram = vec![0; 65_536];
    loop {
        // An ICMP error about an earlier answer shows up here; it concerns that client only.
        let Ok((length, client)) = socket.recv_from(&mut datagram).await else { continue };
        let answer = [&datagram[..length], b" ", identity.as_bytes()].concat();
        // A client that is gone or unreachable must not end the server.
        let _ = socket.send_to(&answer, client).await;
    }
}
