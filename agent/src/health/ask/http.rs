//! HTTP/1.1, as little of it as a probe needs: a GET, and the head of the answer.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::Failure;

/// The longest head that is read.
const HEAD: usize = 16 * 1024;
/// The most headers that a head may have.
const HEADERS: usize = 100;
/// How long to wait for the endpoint to close, and how much of a body to take until then.
const PARTING: (Duration, usize) = (Duration::from_millis(50), 64 * 1024);

/// Asks for `path`; good when the answer's status is 200 to 399.
pub(super) async fn get(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    vip: SocketAddr,
    path: &str,
) -> Result<(), Failure> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {vip}\r\nUser-Agent: fairlead-probe/{}\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        env!("CARGO_PKG_VERSION"),
    );
    stream.write_all(request.as_bytes()).await.map_err(|error| lost(&error))?;
    stream.flush().await.map_err(|error| lost(&error))?;
    let mut head = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut head).await.map_err(|error| lost(&error))? == 0 {
            return Err(Failure::Disconnected);
        }
        if let Some(status) = status(&mut head)? {
            return if (200..400).contains(&status) { Ok(()) } else { Err(Failure::Status(status)) };
        }
        if head.len() >= HEAD {
            return Err(Failure::NotHttp);
        }
    }
}

/// The status, once the head is complete; what is only informational (RFC 9110, 15.2) is taken out of it.
fn status(head: &mut Vec<u8>) -> Result<Option<u16>, Failure> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let end = match response.parse(head) {
            Ok(httparse::Status::Complete(end)) => end,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(Failure::NotHttp),
        };
        match response.code {
            Some(100 | 102..=199) => drop(head.drain(..end)),
            code => return Ok(code),
        }
    }
}

/// Lets the endpoint close first, as it was asked to: the receiver forgets a flow that its endpoint has ended, and a
/// reset from here would not end it.
pub(super) async fn part(stream: &mut (impl AsyncRead + Unpin)) {
    let (patience, appetite) = PARTING;
    let rest = async {
        let mut buffer = [0; 2048];
        let mut taken = 0;
        while taken < appetite {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(bytes) => taken += bytes,
            }
        }
    };
    // Whether it closed or not, the answer stands.
    let _ = tokio::time::timeout(patience, rest).await;
}

fn lost(error: &io::Error) -> Failure {
    // rustls reports what isn't TLS in these words of io.
    if error.kind() == io::ErrorKind::InvalidData { Failure::Tls } else { Failure::Disconnected }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `get` says to a server that sends `answer` in pieces of `piece` bytes and then closes.
    async fn says(answer: &str, piece: usize) -> Result<(), Failure> {
        let (mut ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let answer = answer.to_owned();
        let server = tokio::spawn(async move {
            for piece in answer.as_bytes().chunks(piece) {
                if theirs.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        });
        let said = get(&mut ours, "192.0.2.1:80".parse().unwrap(), "/").await;
        server.await.unwrap();
        said
    }

    #[tokio::test]
    async fn judges_by_status() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\n\r\n", Ok(())),
            ("HTTP/1.0 204 No Content\r\nServer: x\r\n\r\n", Ok(())),
            ("HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n", Ok(())),
            ("HTTP/1.1 399 \r\n\r\n", Ok(())),
            ("HTTP/1.1 400 Bad Request\r\n\r\n", Err(Failure::Status(400))),
            ("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n\r\n", Err(Failure::Status(503))),
            ("HTTP/1.1 101 Switching Protocols\r\n\r\n", Err(Failure::Status(101))),
            ("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Ok(())),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 Oh\r\n\r\n", Err(Failure::Status(500))),
            ("HTTP/1.1 200 OK\r\nServer: x\r\n", Err(Failure::Disconnected)),
            ("", Err(Failure::Disconnected)),
            ("SSH-2.0-OpenSSH_9.2\r\n", Err(Failure::NotHttp)),
            ("HTTP/1.1 2000 OK\r\n\r\n", Err(Failure::NotHttp)),
        ] {
            for piece in [1, 7, 4096] {
                assert_eq!(says(answer, piece).await, expected, "{answer:?} in pieces of {piece}");
            }
        }
    }

    #[tokio::test]
    async fn a_head_without_end_is_given_up() {
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(32 * 1024));
        assert_eq!(says(&endless, 1000).await, Err(Failure::NotHttp));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(HEADERS + 1));
        assert_eq!(says(&many, 1000).await, Err(Failure::NotHttp));
    }

    #[tokio::test]
    async fn asks_as_http_wants_it() {
        let (mut ours, mut theirs) = tokio::io::duplex(4096);
        let server = tokio::spawn(async move {
            let mut request = vec![0; 4096];
            let length = theirs.read(&mut request).await.unwrap();
            theirs.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            String::from_utf8(request[..length].to_vec()).unwrap()
        });
        get(&mut ours, "[2001:db8::1]:8080".parse().unwrap(), "/ok?x=1").await.unwrap();
        let version = env!("CARGO_PKG_VERSION");
        let expected = format!(
            "GET /ok?x=1 HTTP/1.1\r\nHost: [2001:db8::1]:8080\r\nUser-Agent: fairlead-probe/{version}\r\n\
             Accept: */*\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(server.await.unwrap(), expected);
    }
}
