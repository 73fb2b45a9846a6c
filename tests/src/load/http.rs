//! As much of HTTP/1.1 as a load needs (RFC 9112): one request at a time on a connection, bodies with a length.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::request::Failure;

/// Longer headers are not nginx's.
const LONGEST_HEADER: usize = 16 * 1024;

/// An answer, read whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// E.g. 200.
    pub status: u16,
    /// All of it.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection, kept until it is dropped.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    port: u16,
    /// What was read but belongs to no response yet.
    buffer: Vec<u8>,
}

impl Connection {
    /// Opens it.
    pub async fn open(server: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let port = stream.local_addr()?.port();
        Ok(Self { stream, port, buffer: Vec::new() })
    }

    /// The client's port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sends a request and reads its response whole. After an error the connection is of no use any more.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<Response, Failure> {
        self.stream.write_all(request).await?;
        let header_end = loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if self.buffer.len() > LONGEST_HEADER {
                return Err(Failure::Malformed);
            }
            self.read_more().await?;
        };
        let header = Header::parse(&self.buffer[..header_end]).ok_or(Failure::Malformed)?;
        let end = header_end + header.content_length;
        self.buffer.reserve(end.saturating_sub(self.buffer.len()));
        while self.buffer.len() < end {
            self.read_more().await?;
        }
        let rest = self.buffer.split_off(end);
        let body = std::mem::replace(&mut self.buffer, rest).split_off(header_end);
        Ok(Response { status: header.status, body })
    }

    async fn read_more(&mut self) -> Result<(), Failure> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(Failure::Closed),
            _ => Ok(()),
        }
    }
}

/// The bytes of `GET path`.
#[must_use]
pub fn get(server: SocketAddr, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {server}\r\n\r\n").into_bytes()
}

/// The bytes of `POST path` with a body.
#[must_use]
pub fn post(server: SocketAddr, path: &str, body: &[u8]) -> Vec<u8> {
    let mut request =
        format!("POST {path} HTTP/1.1\r\nHost: {server}\r\nContent-Length: {}\r\n\r\n", body.len())
            .into_bytes();
    request.extend_from_slice(body);
    request
}

#[derive(Debug, PartialEq, Eq)]
struct Header {
    status: u16,
    content_length: usize,
}

impl Header {
    /// `None` where it is not a response's header or names no length: nothing that nginx sends here is like that.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = str::from_utf8(bytes).ok()?;
        let mut lines = text.split("\r\n");
        let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
        let length = lines.find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        })?;
        Some(Self { status, content_length: length })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn headers() {
        let header = Header::parse(b"HTTP/1.1 200 OK\r\nServer: nginx\r\ncontent-length: 12\r\n\r\n");
        assert_eq!(header, Some(Header { status: 200, content_length: 12 }));
        assert_eq!(Header::parse(b"HTTP/1.1 200 OK\r\n\r\n"), None);
        assert_eq!(Header::parse(b"HTTP/1.1 2\r\nContent-Length: 1\r\n\r\n"), None);
        assert_eq!(Header::parse(b"SSH-2.0\r\n\r\n"), None);
    }

    /// Plays a server that sends these pieces one by one, and returns what two exchanges make of them.
    fn exchanges(pieces: &'static [&'static [u8]]) -> [Result<Response, Failure>; 2] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let server = listener.local_addr().unwrap();
            let play = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                for piece in pieces {
                    stream.write_all(piece).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let ask = async {
                let mut connection = Connection::open(server).await.unwrap();
                let first = connection.exchange(b"GET / HTTP/1.1\r\n\r\n").await;
                [first, connection.exchange(b"GET / HTTP/1.1\r\n\r\n").await]
            };
            tokio::join!(play, ask).1
        })
    }

    #[test]
    fn answers_in_pieces_and_two_on_one_connection() {
        let [first, second] = exchanges(&[
            b"HTTP/1.1 200 OK\r\nContent-Le",
            b"ngth: 5\r\n\r",
            b"\nhel",
            b"loHTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
        ]);
        assert_eq!(first, Ok(Response { status: 200, body: b"hello".to_vec() }));
        assert_eq!(second, Ok(Response { status: 503, body: Vec::new() }));
    }

    #[test]
    fn an_answer_cut_short_is_a_failure() {
        let [first, _] = exchanges(&[b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel"]);
        assert!(matches!(first, Err(Failure::Closed | Failure::Reset)), "{first:?}");
    }
}
