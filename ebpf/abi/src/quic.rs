//! QUIC connection IDs that name the server which made them: plaintext IDs of draft-ietf-quic-load-balancers.
//!
//! First octet, server ID, nonce. The first three bits of the first octet say by which configuration the ID was made; the
//! other five are the length of what follows or random, and mean nothing here. What a client chooses for its first packets
//! has another form, or a server ID that nobody has.

/// The configuration by which servers make connection IDs: the upper three bits of their first octet. Seven means "by flow".
pub const QUIC_CONFIG: u8 = 0;

/// Octets of a server ID.
pub const SERVER_ID_LENGTH: usize = 8;

/// Octets of a connection ID at least: the first one, the server ID, and the shortest nonce that the draft allows.
pub const CONNECTION_ID_MIN: usize = 1 + SERVER_ID_LENGTH + 4;

/// Octets of a connection ID at most (RFC 9000, 17.2).
pub const CONNECTION_ID_MAX: usize = 20;

/// Versions whose Handshake packets are known: the version as it stands in the header, and bits 4 and 5 of the first byte.
pub const QUIC_HANDSHAKES: [([u8; 4], u8); 2] = [
    // RFC 9000.
    ([0, 0, 0, 1], 2),
    // RFC 9369.
    ([0x6b, 0x33, 0x43, 0xcf], 3),
];

/// A server ID of one service.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerKey {
    /// [`ServiceEntry::backends`](crate::ServiceEntry::backends) of the service.
    pub first: u32,
    /// Zero.
    pub padding: u32,
    /// The server ID.
    pub id: [u8; SERVER_ID_LENGTH],
}

/// Whose server ID it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// Index in `BACKENDS`.
    pub backend: u32,
}

const _: () = assert!(size_of::<ServerKey>() == 16 && size_of::<Server>() == 4);
