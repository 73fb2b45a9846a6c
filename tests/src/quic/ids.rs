//! Connection IDs that name their server, as `docs/connections.md` says how to make them.

use std::time::Duration;

use fairlead_abi::{QUIC_CONFIG, SERVER_ID_LENGTH};
use fairlead_core::model::ServerId;
use quinn::{ConnectionId, ConnectionIdGenerator};
use rustls::crypto::ring;

/// First octet, server ID, and as many random ones.
const LENGTH: usize = 1 + 2 * SERVER_ID_LENGTH;

/// Makes the IDs of one server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named(ServerId);

impl Named {
    pub(super) const fn new(id: ServerId) -> Self {
        Self(id)
    }
}

impl ConnectionIdGenerator for Named {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; LENGTH];
        ring::default_provider().secure_random.fill(&mut id).expect("the kernel has random bytes");
        id[0] = QUIC_CONFIG << 5 | id[0] & 0x1f;
        id[1..=SERVER_ID_LENGTH].copy_from_slice(&self.0.0);
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        LENGTH
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
