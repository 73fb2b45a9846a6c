//! What programs that log (`fairlead-log.bpf.o`) have to say, as log lines of the agent. The ones that are built in
//! say nothing.

use aya_log::EbpfLogger;
use tokio::{
    io::{Interest, unix::AsyncFd},
    task::JoinHandle,
};

use super::Dataplane;

impl Dataplane {
    /// Repeats their log in a task of its own; `None` where they don't log.
    pub fn repeat_log(&mut self) -> std::io::Result<Option<JoinHandle<()>>> {
        let logger = match EbpfLogger::init(&mut self.ebpf) {
            // SAFETY: the logger owns its ring buffer's descriptor, and keeps it as long as it lives.
            Ok(logger) => unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }
                .map_err(std::io::Error::from)?,
            Err(aya_log::Error::MapNotFound) => return Ok(None),
            Err(error) => return Err(std::io::Error::other(error)),
        };
        Ok(Some(tokio::spawn(repeat(logger))))
    }
}

async fn repeat(mut logger: AsyncFd<EbpfLogger<&'static dyn log::Log>>) {
    while let Ok(mut ready) = logger.readable_mut().await {
        ready.get_inner_mut().flush();
        ready.clear_ready();
    }
}
