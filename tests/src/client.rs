//! A client: asks single questions from its namespace, as a test's sentence needs them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::load::http::{self, Response};
use crate::load::{Failure, udp};
use crate::world::{Host, Namespace};

/// How long a question may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A client of the world.
#[derive(Clone, Debug)]
pub struct Client {
    /// Name, region and addresses.
    pub host: Host,
    /// Where it is.
    pub namespace: Namespace,
}

impl Client {
    pub(crate) fn new(host: Host, namespace: Namespace) -> Self {
        Self { host, namespace }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.host.name
    }

    /// Its addresses, IPv4 first.
    #[must_use]
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.host.uplink.host.0.into(), self.host.uplink.host.1.into()]
    }

    /// `GET url` on a new connection, e.g. `http://[2001:db8:f::1]/bytes/1000`.
    pub fn get(&self, url: &str) -> Result<Response> {
        let (address, path) = split(url)?;
        self.ask(address, &http::get(address, path))
    }

    /// `POST url` with a body on a new connection.
    pub fn post(&self, url: &str, body: &[u8]) -> Result<Response> {
        let (address, path) = split(url)?;
        self.ask(address, &http::post(address, path, body))
    }

    /// Sends one datagram from a new socket and returns the answer.
    pub fn datagram(&self, to: SocketAddr, payload: &[u8]) -> Result<Vec<u8>> {
        let answer = block_on(&self.namespace, async { Ok(udp::ask(to, payload).await?.1) });
        answer.with_context(|| format!("a datagram from {} to {to}", self.name()))
    }

    fn ask(&self, address: SocketAddr, request: &[u8]) -> Result<Response> {
        let answer = block_on(&self.namespace, exchange(address, request));
        answer.with_context(|| format!("a request from {} to {address}", self.name()))
    }
}

/// `GET path` from any namespace on a new connection.
pub(crate) fn get_from(namespace: &Namespace, address: SocketAddr, path: &str) -> Result<Response> {
    block_on(namespace, exchange(address, &http::get(address, path)))
}

async fn exchange(address: SocketAddr, request: &[u8]) -> Result<Response> {
    let mut connection = http::Connection::open(address).await?;
    Ok(connection.exchange(request).await?)
}

/// Does `work` inside a namespace; it may take as long as [`PATIENCE`].
fn block_on<T: Send>(namespace: &Namespace, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
    namespace.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        runtime.block_on(async {
            tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(Failure::Timeout.into()))
        })
    })
}

/// The server's address and the path of `http://ADDRESS[:PORT]/PATH`.
fn split(url: &str) -> Result<(SocketAddr, &str)> {
    let rest = url.strip_prefix("http://").with_context(|| format!("not an http URL: {url}"))?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    let address = authority
        .parse()
        .or_else(|_| authority.trim_matches(['[', ']']).parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 80)))
        .with_context(|| format!("no address and port in {url}"))?;
    Ok((address, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_split() {
        let cases = [
            ("http://203.0.113.1", "203.0.113.1:80", "/"),
            ("http://203.0.113.1:8080/a/b", "203.0.113.1:8080", "/a/b"),
            ("http://[2001:db8:f::1]/x", "[2001:db8:f::1]:80", "/x"),
            ("http://[2001:db8:f::1]:8080/", "[2001:db8:f::1]:8080", "/"),
        ];
        for (url, address, path) in cases {
            assert_eq!(split(url).unwrap(), (address.parse().unwrap(), path), "{url}");
        }
        assert!(split("https://203.0.113.1/").is_err());
        assert!(split("http://web/").is_err());
    }
}
