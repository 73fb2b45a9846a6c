//! The admin address: `/metrics`, `/livez` and `/readyz` over HTTP.
//!
//! In come the agent's status, the prober's counters and the pinned maps; out go answers. What a client does or
//! doesn't do here never delays steering: maps are read by a thread of their own, one scrape at a time; connections
//! are few, short and without a body.

mod exposition;
mod metrics;
mod reading;
mod stream;

use std::convert::Infallible;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use fairlead_core::{asks, fragments};

use crate::dataplane::Instance;
use crate::health;
use crate::status::Status;
use reading::{Maps, Reading};
use stream::{Stream, Writer};

/// Connections at the same time; more wait.
const CONNECTIONS: usize = 32;
/// A request's head must be there within this time.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// Largest head of a request.
const HEAD_BYTES: usize = 16 * 1024;
/// A connection lives no longer; a scrape of 10,000 services takes about a second.
const CONNECTION_LIFE: Duration = Duration::from_secs(30);
/// The agent takes stock every ten seconds; one that didn't for so long hangs.
const HANGS_AFTER: Duration = Duration::from_secs(60);
/// After a failed accept (too many open files, say), when to try again.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// The address, bound.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
}

/// What answers are made from.
struct Answers {
    status: watch::Receiver<Arc<Status>>,
    probes: Arc<health::Counters>,
    asks: watch::Receiver<asks::Counters>,
    fragments: watch::Receiver<fragments::Counters>,
    /// When the status changed last.
    stirred: Mutex<Instant>,
    /// One scrape at a time.
    scrape: Arc<Semaphore>,
}

impl Admin {
    /// Binds the address.
    ///
    /// # Errors
    /// It is taken, or not this node's.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await? })
    }

    /// The address; of use where port 0 was asked for.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers, for ever.
    pub async fn serve(
        self,
        mut status: watch::Receiver<Arc<Status>>,
        probes: Arc<health::Counters>,
        (asks, fragments): (watch::Receiver<asks::Counters>, watch::Receiver<fragments::Counters>),
    ) {
        let answers = Arc::new(Answers {
            status: status.clone(),
            probes,
            asks,
            fragments,
            stirred: Mutex::new(Instant::now()),
            scrape: Arc::new(Semaphore::new(1)),
        });
        let watching = async {
            while status.changed().await.is_ok() {
                *answers.stirred.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            }
            std::future::pending::<()>().await;
        };
        tokio::join!(watching, self.accept(&answers));
    }

    async fn accept(&self, answers: &Arc<Answers>) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let permit = Arc::clone(&room).acquire_owned().await.expect("the semaphore is never closed");
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    tokio::spawn(serve_one(stream, Arc::clone(answers), permit));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection to the admin address can't be taken");
                    tokio::time::sleep(TRY_AGAIN).await;
                }
            }
        }
    }
}

async fn serve_one(stream: TcpStream, answers: Arc<Answers>, _permit: OwnedSemaphorePermit) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answers = Arc::clone(&answers);
        async move { Ok::<_, Infallible>(answers.answer(request.method(), request.uri().path()).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // What goes wrong on a connection is its client's business.
    if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_LIFE, connection).await {
        tracing::debug!(%error, "a connection to the admin address ended early");
    }
}

impl Answers {
    async fn answer(&self, method: &Method, path: &str) -> Response<Stream> {
        if method != Method::GET && method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n");
        }
        match path {
            "/livez" => self.livez(),
            "/readyz" => readyz(&self.status.borrow()),
            "/metrics" => self.metrics().await,
            "/" => text(StatusCode::OK, "/metrics\n/livez\n/readyz\n"),
            _ => text(StatusCode::NOT_FOUND, "there are /metrics, /livez and /readyz\n"),
        }
    }

    /// Whether the agent's loop still turns. By the monotonic clock: a clock that is set must not get it killed.
    fn livez(&self) -> Response<Stream> {
        let silent = self.stirred.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        if silent < HANGS_AFTER {
            return text(StatusCode::OK, "alive\n");
        }
        let why = format!("the agent has not taken stock for {} s\n", silent.as_secs());
        text(StatusCode::SERVICE_UNAVAILABLE, why)
    }

    async fn metrics(&self) -> Response<Stream> {
        let status = Arc::clone(&self.status.borrow());
        let (probes, asks, fragments) =
            (self.probes.snapshot(), *self.asks.borrow(), *self.fragments.borrow());
        let turn = Arc::clone(&self.scrape).acquire_owned().await.expect("the semaphore is never closed");
        let (writer, body) = Stream::made_by();
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            write_metrics(&status, probes, (&asks, &fragments), writer);
        });
        let mut response = Response::new(body);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(exposition::CONTENT_TYPE));
        response
    }
}

fn write_metrics(
    status: &Status,
    probes: health::Snapshot,
    (asks, fragments): (&asks::Counters, &fragments::Counters),
    mut writer: Writer,
) {
    let maps = Maps::read(&Instance::new(&status.instance), status)
        .inspect_err(|error| tracing::warn!(%error, "the maps can't be read for metrics"))
        .ok();
    let written = metrics::write(&Reading { status, probes, asks, fragments, maps }, &mut writer);
    if let Err(error) = written.and_then(|()| writer.flush()) {
        tracing::debug!(%error, "a scrape was given up");
    }
}

/// Whether this node should get packets; if not, why.
fn readyz(status: &Status) -> Response<Stream> {
    if status.is_ready() {
        return text(StatusCode::OK, "ready\n");
    }
    text(StatusCode::SERVICE_UNAVAILABLE, status.unready.join("\n") + "\n")
}

fn text(status: StatusCode, text: impl Into<hyper::body::Bytes>) -> Response<Stream> {
    let text = text.into();
    let length = HeaderValue::from(text.len());
    let mut response = Response::new(Stream::whole(text));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    // Known, so not chunked: the simplest of clients can read it.
    response.headers_mut().insert(CONTENT_LENGTH, length);
    response
}

#[cfg(test)]
mod tests;
