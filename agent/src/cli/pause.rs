//! The time from one reading to the next, for commands that look again until Ctrl-C.

use std::time::Instant;

use anyhow::Result;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Waits. Ctrl-C doesn't end the process, it is told.
pub(super) struct Pause {
    runtime: tokio::runtime::Runtime,
    interrupt: Signal,
}

impl Pause {
    /// From now on, Ctrl-C is heard.
    pub(super) fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let interrupt = runtime.block_on(async { signal(SignalKind::interrupt()) })?;
        Ok(Self { runtime, interrupt })
    }

    /// Until `due`, or until somebody presses Ctrl-C.
    pub(super) fn is_interrupted_before(&mut self, due: Instant) -> bool {
        let interrupted = async { tokio::time::timeout_at(due.into(), self.interrupt.recv()).await.is_ok() };
        self.runtime.block_on(interrupted)
    }
}
