//! Probes of a container: asked from its node, as a kubelet asks.
//!
//! In: a probe of a pod's manifest, and where its container is. Out: whether it passed, once; the thresholds are
//! [`super::container`]'s affair.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::running::Reach;

/// Asks once, within the probe's timeout.
///
/// # Errors
/// Why it has failed, as an event tells it.
pub(super) async fn ask(probe: &Probe, container: &Container, address: IpAddr, reach: &Reach) -> Result<()> {
    let seconds = probe.timeout_seconds.unwrap_or(1).max(1).unsigned_abs();
    let within = Duration::from_secs(seconds.into());
    let asked = async {
        if let Some(get) = &probe.http_get {
            http(get, container, address).await
        } else if let Some(tcp) = &probe.tcp_socket {
            let host = tcp.host.as_deref().map_or(Ok(address), str::parse).context("tcpSocket: host")?;
            let server = SocketAddr::new(host, port(&tcp.port, container)?);
            TcpStream::connect(server).await.with_context(|| format!("connect to {server}"))?;
            Ok(())
        } else if let Some(exec) = &probe.exec {
            let (reach, line) = (reach.clone(), exec.command.clone().unwrap_or_default());
            let status = tokio::task::spawn_blocking(move || reach.execute(&line)).await??;
            ensure!(status.success(), "the command has ended with {status}");
            Ok(())
        } else {
            bail!("only httpGet, tcpSocket and exec are honoured");
        }
    };
    tokio::time::timeout(within, asked).await.with_context(|| format!("no answer within {within:?}"))?
}

async fn http(get: &HTTPGetAction, container: &Container, address: IpAddr) -> Result<()> {
    ensure!(
        get.scheme.as_deref().is_none_or(|scheme| scheme == "HTTP"),
        "httpGet: scheme HTTPS is not honoured"
    );
    let host = get.host.as_deref().map_or(Ok(address), str::parse).context("httpGet: host")?;
    let server = SocketAddr::new(host, port(&get.port, container)?);
    let path = get.path.as_deref().unwrap_or("/");
    let mut headers = format!("GET {path} HTTP/1.1\r\nUser-Agent: kube-probe/1.36\r\nConnection: close\r\n");
    let given: Vec<_> = get.http_headers.iter().flatten().collect();
    if !given.iter().any(|header| header.name.eq_ignore_ascii_case("host")) {
        headers += &format!("Host: {server}\r\n");
    }
    for header in given {
        headers += &format!("{}: {}\r\n", header.name, header.value);
    }
    let mut stream = TcpStream::connect(server).await.with_context(|| format!("connect to {server}"))?;
    stream.write_all(format!("{headers}\r\n").as_bytes()).await?;
    // Only the first line counts: `HTTP/1.1 200`.
    let mut line = [0; 12];
    stream.read_exact(&mut line).await.context("no HTTP answer")?;
    let line = String::from_utf8_lossy(&line);
    let status: u16 = line.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no HTTP answer")?;
    ensure!((200..400).contains(&status), "http://{server}{path}: HTTP status {status}");
    Ok(())
}

fn port(port: &IntOrString, container: &Container) -> Result<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_ref() == Some(name));
            named.with_context(|| format!("the container has no port {name}"))?.container_port
        }
    };
    u16::try_from(number).with_context(|| format!("{number} is no port"))
}
