//! On loopback, with real servers, good and bad.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairlead_core::model::{ProbeKind, ProbeState};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::super::ask::{Ask as _, Failure, Outcome, Question, Sockets};
use super::super::{Prober, Settings};
use super::{MS, becomes, direct, of_web, spec};

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address where nobody listens.
async fn closed() -> SocketAddr {
    listener().await.1
}

/// Answers every request with `answer`, and closes.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &'static str) {
    let mut request = [0; 1024];
    if stream.read(&mut request).await.is_ok() {
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    }
}

async fn http(said: &'static str) -> SocketAddr {
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, said));
        }
    });
    address
}

async fn https(said: &'static str) -> SocketAddr {
    let certified = rcgen::generate_simple_self_signed(vec!["whoever.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    answer(stream, said).await;
                }
            });
        }
    });
    address
}

/// Accepts, reads, and never answers.
async fn mute() -> SocketAddr {
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            open.push(stream);
        }
    });
    address
}

async fn ask(kind: ProbeKind, to: SocketAddr) -> Outcome {
    let vip = "192.0.2.1:80".parse().unwrap();
    let question = Question { to, vip, mark: None, kind, path: Arc::from("/"), timeout: 300 * MS };
    Sockets::new(None).unwrap().ask(question).await
}

/// `None`: it passed.
async fn failure(kind: ProbeKind, to: SocketAddr) -> Option<Failure> {
    match ask(kind, to).await {
        Outcome::Passed => None,
        Outcome::Failed(failure) => Some(failure),
        Outcome::Unsent(error) => panic!("not sent: {error}"),
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const ERROR: &str = "HTTP/1.1 500 Internal Server Error\r\n\r\n";

#[tokio::test]
async fn each_kind_of_server_is_told_apart() {
    use ProbeKind::{Http, Https, Tcp};
    let (closed, mute) = (closed().await, mute().await);
    let (good, bad) = (http(OK).await, http(ERROR).await);
    let (tls, bad_tls) = (https(OK).await, https(ERROR).await);
    let ssh = http("SSH-2.0-OpenSSH_9.2\r\n").await;
    for (what, kind, to, expected) in [
        ("a closed port", Tcp, closed, Some(Failure::Refused)),
        ("an open port", Tcp, good, None),
        ("a server that says nothing, to TCP", Tcp, mute, None),
        ("a closed port", Http, closed, Some(Failure::Refused)),
        ("200", Http, good, None),
        ("500", Http, bad, Some(Failure::Status(500))),
        ("500, to TCP", Tcp, bad, None),
        ("a server that says nothing", Http, mute, Some(Failure::Timeout)),
        ("a server of something else", Http, ssh, Some(Failure::NotHttp)),
        ("200 under a stranger's certificate", Https, tls, None),
        ("500 under a stranger's certificate", Https, bad_tls, Some(Failure::Status(500))),
        ("a server without TLS", Https, good, Some(Failure::Tls)),
        ("a server that says nothing to TLS", Https, mute, Some(Failure::Timeout)),
        ("a closed port", Https, closed, Some(Failure::Refused)),
    ] {
        assert_eq!(failure(kind, to).await, expected, "{what}, {kind:?}");
    }
}

#[tokio::test]
async fn a_full_backlog_is_no_answer() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let to = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    // Until the kernel drops SYNs.
    while let Ok(stream) = tokio::time::timeout(100 * MS, TcpStream::connect(to)).await {
        waiting.push(stream.unwrap());
    }
    assert_eq!(failure(ProbeKind::Tcp, to).await, Some(Failure::Timeout));
}

#[tokio::test]
async fn no_application_sees_a_tcp_probe() {
    let (listener, to) = listener().await;
    for _ in 0..20 {
        assert_eq!(failure(ProbeKind::Tcp, to).await, None);
    }
    // Whoever comes after them is the first that is accepted.
    let client = TcpStream::connect(to).await.unwrap();
    let (_stream, from) = listener.accept().await.unwrap();
    assert_eq!(from, client.local_addr().unwrap());
}

#[tokio::test]
async fn nothing_waits_in_time_wait() {
    let (tcp, good, tls) = (listener().await, http(OK).await, https(OK).await);
    for _ in 0..5 {
        assert_eq!(failure(ProbeKind::Tcp, tcp.1).await, None);
        assert_eq!(failure(ProbeKind::Http, good).await, None);
        assert_eq!(failure(ProbeKind::Https, tls).await, None);
    }
    // From proc(5): local address, remote address, state; 06 is TIME_WAIT.
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    for to in [tcp.1, good, tls] {
        let remote = format!("0100007F:{:04X}", to.port());
        let waiting = table.lines().filter(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields.get(2) == Some(&&*remote) && fields.get(3) == Some(&"06")
        });
        assert_eq!(waiting.count(), 0, "towards {to}");
    }
}

#[tokio::test]
async fn a_server_that_comes_and_goes() {
    let settings = Settings { concurrency: 10, per_second: 1000, interface: None, seed: 1 };
    let prober = Prober::new(settings, None, Instant::now()).unwrap();
    let counters = prober.counters();
    let to: SocketAddr = closed().await;
    let mut fast = spec(ProbeKind::Http);
    (fast.interval, fast.timeout) = (20 * MS, 20 * MS);
    let (_targets, wanted) = watch::channel(of_web(vec![direct(to, &fast)]));
    let (results, mut health) = watch::channel(Arc::default());
    let running = tokio::spawn(prober.run(wanted, watch::channel(Arc::default()).1, results));
    let address = IpAddr::from(Ipv4Addr::LOCALHOST);
    let patience = Duration::from_secs(20);
    let mut wait =
        async |state| tokio::time::timeout(patience, becomes(&mut health, address, state)).await.unwrap();
    let fell = wait(ProbeState::Bad).await;
    let listener = TcpListener::bind(to).await.unwrap();
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, OK));
        }
    });
    let rose = wait(ProbeState::Good).await;
    server.abort();
    let fell_again = wait(ProbeState::Bad).await;
    assert!(fell < rose && rose < fell_again, "{fell:?}, {rose:?}, {fell_again:?}");
    let counted = counters.snapshot();
    assert!(counted.refused >= 6 && counted.passed >= 2, "{counted:?}");
    assert_eq!((counted.flips_to_good, counted.flips_to_bad), (1, 2));
    running.abort();
}
