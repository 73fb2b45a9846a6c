//! Netlink, as far as those share it who follow what it tells: connections, lists, and trying again.

use std::time::Duration;

use futures::{Stream, StreamExt as _, channel::mpsc::UnboundedReceiver};
use rtnetlink::{
    Handle, MulticastGroup, new_multicast_connection,
    packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
    sys::{AsyncSocket as _, SocketAddr},
};
use tokio::task::AbortHandle;

/// After netlink refused something, when to connect anew.
pub(super) const REOPEN: Duration = Duration::from_secs(1);

/// What netlink refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// No socket, or a list that could not be made to the end.
    #[error("netlink: {0}")]
    System(#[from] std::io::Error),
    /// A request failed.
    #[error("netlink: {0}")]
    Request(#[from] rtnetlink::Error),
    /// A list ended before its end.
    #[error("netlink: a list was cut off")]
    CutOff,
    /// The kernel closed it.
    #[error("netlink: the connection was closed")]
    Closed,
    /// What was found could not be noted.
    #[error(transparent)]
    Dataplane(#[from] super::Error),
}

/// A connection; it ends when this is dropped.
pub(super) struct Netlink {
    pub(super) handle: Handle,
    task: AbortHandle,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Messages of changes.
pub(super) type Changes = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

/// How the kernel takes requests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Checks {
    /// What it doesn't understand, it leaves out.
    Loose,
    /// That, it refuses: so what asks for another namespace is never answered of this one (kernel 4.20).
    Strict,
}

impl Netlink {
    /// Connects, and hears of every change in `groups` from now on.
    pub(super) fn open(groups: &[MulticastGroup], checks: Checks) -> Result<(Self, Changes), Error> {
        let (mut connection, handle, changes) = new_multicast_connection(groups)?;
        if checks == Checks::Strict {
            connection.socket_mut().socket_mut().set_netlink_get_strict_chk(true)?;
        }
        // A list that merely ends may have been cut off.
        connection.set_forward_done(true);
        let task = tokio::spawn(connection).abort_handle();
        Ok((Self { handle, task }, changes))
    }

    /// Lists what `request` is for; false where it changed meanwhile.
    pub(super) async fn list(
        &self,
        request: RouteNetlinkMessage,
        each: impl FnMut(&RouteNetlinkMessage),
    ) -> Result<bool, Error> {
        let mut request = NetlinkMessage::from(request);
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        collect(self.handle.clone().request(request)?, each).await
    }
}

/// Shows `each` the answers to a request for a list; false where it changed meanwhile.
async fn collect(
    mut answers: impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Unpin,
    mut each: impl FnMut(&RouteNetlinkMessage),
) -> Result<bool, Error> {
    let mut whole = true;
    while let Some(answer) = answers.next().await {
        let (header, payload) = answer.into_parts();
        whole &= header.flags & NLM_F_DUMP_INTR == 0;
        match payload {
            NetlinkPayload::InnerMessage(message) => each(&message),
            NetlinkPayload::Error(error) => return Err(rtnetlink::Error::NetlinkError(error).into()),
            NetlinkPayload::Done(done) if done.code < 0 => {
                return Err(std::io::Error::from_raw_os_error(-done.code).into());
            }
            NetlinkPayload::Done(_) => return Ok(whole),
            _ => {}
        }
    }
    Err(Error::CutOff)
}

/// Something that ends well or has to be tried again.
pub(super) trait Attempt {
    /// What is followed, for the log: "routes".
    const WHAT: &'static str;

    /// Tells `trouble` whenever it works.
    fn attempt(&mut self, trouble: &mut Trouble) -> impl Future<Output = Result<(), Error>> + Send;
}

/// Where netlink refuses something, that is said once, and tried again.
pub(super) async fn persist<A: Attempt>(mut attempt: A) {
    let mut trouble = Trouble { what: A::WHAT, said: false };
    while let Err(error) = attempt.attempt(&mut trouble).await {
        trouble.begin(&error);
        tokio::time::sleep(REOPEN).await;
    }
}

/// Whether it was said that something is not followed.
pub(super) struct Trouble {
    what: &'static str,
    said: bool,
}

impl Trouble {
    fn begin(&mut self, error: &Error) {
        if !self.said {
            tracing::error!(%error, "{} are not followed; trying again every second", self.what);
        }
        self.said = true;
    }

    /// It works.
    pub(super) fn end(&mut self) {
        if self.said {
            tracing::info!("{} are followed again", self.what);
        }
        self.said = false;
    }
}

/// Takes what has come until now.
pub(super) fn drain<T>(changes: &mut UnboundedReceiver<T>) {
    while changes.try_recv().is_ok() {}
}

#[cfg(test)]
mod tests {
    use rtnetlink::{
        packet_core::{DoneMessage, NetlinkHeader},
        packet_route::link::LinkMessage,
    };

    use super::*;

    /// Fails twice, works for a while, fails, ends.
    struct Rows<'a>(&'a mut Vec<tokio::time::Instant>);

    impl Attempt for Rows<'_> {
        const WHAT: &'static str = "rows";

        async fn attempt(&mut self, trouble: &mut Trouble) -> Result<(), Error> {
            self.0.push(tokio::time::Instant::now());
            assert_eq!(trouble.said, self.0.len() > 1);
            match self.0.len() {
                3 => {
                    trouble.end();
                    assert!(!trouble.said);
                    tokio::time::sleep(REOPEN * 10).await;
                    Err(Error::Closed)
                }
                4 => Ok(()),
                _ => Err(Error::Closed),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_followed_is_followed_again_after_netlink_refused() {
        let mut attempts = Vec::new();
        persist(Rows(&mut attempts)).await;
        let seconds: Vec<u64> = attempts.iter().map(|at| (*at - attempts[0]).as_secs()).collect();
        assert_eq!(seconds, [0, 1, 2, 13]);
    }

    type Answer = NetlinkMessage<RouteNetlinkMessage>;

    fn header(flags: u16) -> NetlinkHeader {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header
    }

    fn a_link(flags: u16) -> Answer {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        NetlinkMessage::new(header(flags), RouteNetlinkMessage::NewLink(message).into())
    }

    fn done(flags: u16, code: i32) -> Answer {
        let mut message = DoneMessage::default();
        message.code = code;
        NetlinkMessage::new(header(flags), NetlinkPayload::Done(message))
    }

    async fn collected(answers: Vec<Answer>) -> Result<bool, Error> {
        collect(futures::stream::iter(answers), |_| {}).await
    }

    #[tokio::test]
    async fn a_list_counts_where_its_end_was_seen() {
        assert!(collected(vec![a_link(0), done(0, 0)]).await.unwrap());
        for answers in [vec![a_link(NLM_F_DUMP_INTR), done(0, 0)], vec![a_link(0), done(NLM_F_DUMP_INTR, 0)]]
        {
            assert!(!collected(answers).await.unwrap(), "it changed meanwhile");
        }
        assert!(matches!(collected(vec![a_link(0)]).await, Err(Error::CutOff)));
        let error = collected(vec![a_link(0), done(0, -105)]).await.unwrap_err();
        assert!(error.to_string().starts_with("netlink: No buffer space available"), "{error}");
    }
}
