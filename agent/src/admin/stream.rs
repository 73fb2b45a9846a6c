//! An answer's body that is made while it is sent, chunk by chunk: never the whole of it is in memory.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::sync::mpsc;

/// Bytes of a chunk.
const CHUNK: usize = 64 * 1024;
/// Chunks that may wait for a slow client.
const WAITING: usize = 2;

/// The body.
pub(super) enum Stream {
    /// All of it.
    Whole(Option<Bytes>),
    /// As it is made.
    Chunks(mpsc::Receiver<Bytes>),
}

/// Where a blocking task writes the body to.
pub(super) struct Writer {
    chunk: Vec<u8>,
    to: mpsc::Sender<Bytes>,
}

impl Stream {
    pub(super) fn whole(text: impl Into<Bytes>) -> Self {
        Self::Whole(Some(text.into()))
    }

    /// A body and where it is written to.
    pub(super) fn made_by() -> (Writer, Self) {
        let (to, from) = mpsc::channel(WAITING);
        (Writer { chunk: Vec::with_capacity(CHUNK), to }, Self::Chunks(from))
    }
}

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match self.get_mut() {
            Self::Whole(bytes) => bytes.take(),
            Self::Chunks(chunks) => ready!(chunks.poll_recv(context)),
        };
        Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Chunks(_) => SizeHint::default(),
        }
    }
}

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    /// Waits until there is room; fails where the client is gone. Not for async tasks.
    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK));
        self.to.blocking_send(chunk.into()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
