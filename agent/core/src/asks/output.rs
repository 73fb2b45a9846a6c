//! What comes of asking: datagrams to send, and what was found out.

use std::sync::Arc;

use fairlead_abi::{Address, Flow, ServiceKey};

use super::polls::NodeId;

/// What the caller has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this datagram to [`CONTROL_PORT`](fairlead_abi::CONTROL_PORT) of an outer address.
    Send {
        /// Where to.
        to: Address,
        /// UDP payload.
        message: Vec<u8>,
    },
    /// A backend said that the flow is its own: cache it as a claim that answers an ask, and make the backend a former
    /// one of the flow's slot, so that the slot's next flows need no asking.
    Mine {
        /// The service.
        service: ServiceKey,
        /// The flow.
        flow: Flow,
        /// The backend.
        outer: Address,
    },
    /// A receiver claims the flow without having been asked: cache it if there is room.
    Claimed {
        /// The service.
        service: ServiceKey,
        /// The flow.
        flow: Flow,
        /// The backend.
        outer: Address,
        /// By which mark the packet came: one of [`kind`](fairlead_abi::kind).
        kind: u8,
    },
    /// Nobody has it: the flow's packets go to current, unmarked, until [`Forget`](Self::Forget).
    Nobodys {
        /// The service.
        service: ServiceKey,
        /// The flow.
        flow: Flow,
    },
    /// The flow isn't known to be nobody's any more.
    Forget {
        /// The service.
        service: ServiceKey,
        /// The flow.
        flow: Flow,
    },
    /// A cluster's nodes announce an endpoint that isn't its own, of which nothing is believed; not told more often than every
    /// ten minutes.
    Strange {
        /// The cluster whose key they have.
        cluster: Arc<str>,
        /// The endpoint, outside of its pod CIDRs.
        outer: Address,
    },
    /// A node doesn't answer, or answers again: [`Asker::silent`](super::Asker::silent) has changed.
    Silent {
        /// The node.
        node: NodeId,
        /// Whether it doesn't answer.
        silent: bool,
    },
}
