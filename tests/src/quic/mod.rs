//! Real QUIC: servers whose connection IDs name them, and clients that migrate.
//!
//! A server makes its connection IDs as any would behind fairlead; a client that migrates goes on from another port. TLS is
//! only what QUIC can't do without: each server signs for itself, and clients believe all.

mod believe;
mod ids;

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use fairlead_core::model::ServerId;
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, ServerConfig, TokioRuntime, TransportConfig,
};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::PrivateKeyDer;

use believe::BelieveAll;
use ids::Named;

/// A connection on which nothing is said for so long is over: longer than any is left alone here.
const IDLE: Duration = Duration::from_secs(600);

/// What is spoken, as TLS wants to know.
const SPOKEN: &[u8] = b"lasting";

/// A server at this address; its connection IDs have this server ID.
pub fn serve(address: SocketAddr, id: ServerId) -> Result<Endpoint> {
    let certified = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
    let mut crypto = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)?;
    crypto.alpn_protocols = vec![SPOKEN.to_vec()];
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(crypto)?));
    config.transport_config(transport());
    let mut endpoint = EndpointConfig::default();
    endpoint.cid_generator(move || Box::new(Named::new(id)));
    let socket = UdpSocket::bind(address).with_context(|| format!("listen on {address}"))?;
    // All connections share it. Without the right to have more than the system gives, less will do.
    let _ = setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER);
    Ok(Endpoint::new(endpoint, Some(config), socket, Arc::new(TokioRuntime))?)
}

/// What a server's socket holds before it loses datagrams, bytes.
const RECEIVE_BUFFER: usize = 8 << 20;

const NAME: &str = "lasting.example";

/// A connection, from a socket of its own.
#[derive(Debug)]
pub struct Migrant {
    endpoint: Endpoint,
    /// The connection.
    pub connection: Connection,
}

impl Migrant {
    /// Connects from this address; with port 0, from any port.
    pub async fn connect(from: SocketAddr, to: SocketAddr) -> io::Result<Self> {
        let config = EndpointConfig::default();
        let endpoint = Endpoint::new(config, None, UdpSocket::bind(from)?, Arc::new(TokioRuntime))?;
        let config = client().map_err(io::Error::other)?;
        let connecting = endpoint.connect_with(config, to, NAME).map_err(io::Error::other)?;
        Ok(Self { connection: connecting.await?, endpoint })
    }

    /// Where it is now.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Goes on from another port, of this address.
    pub fn migrate(&self, to: IpAddr) -> io::Result<()> {
        self.endpoint.rebind(UdpSocket::bind(SocketAddr::new(to, 0))?)
    }
}

fn client() -> Result<ClientConfig> {
    let mut crypto = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(BelieveAll(provider())))
        .with_no_client_auth();
    crypto.alpn_protocols = vec![SPOKEN.to_vec()];
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(crypto)?));
    config.transport_config(transport());
    Ok(config)
}

fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(IDLE.try_into().expect("QUIC counts milliseconds up to 2^62")));
    Arc::new(transport)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
