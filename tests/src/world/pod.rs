//! A pod: a namespace behind a veth of its node, with servers in it that say who they are.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::namespace::Namespace;
use super::plan::{PodSeat, Servers};
use super::process::{Process, own_program};

/// Where every pod listens for TCP: nginx does, usually.
pub const HTTP_PORT: u16 = 8080;

/// Where a UDP echo listens in every pod.
pub const UDP_PORT: u16 = 7007;

/// Where the server listens for QUIC whose connections last.
pub const QUIC_PORT: u16 = 7443;

/// Where nginx itself hears that an upload is complete.
const RECEIVED_PORT: u16 = 8081;

/// Sizes of the files below `/bytes/`, which are named by them.
pub const DOWNLOADS: [usize; 3] = [1_000, 1_048_576, 16_777_216];

/// A pod and its servers.
#[derive(Debug)]
pub struct Pod {
    /// Name and addresses.
    pub seat: PodSeat,
    /// Its cluster, whose name is its zone's too.
    pub cluster: String,
    /// Where its servers run.
    pub namespace: Namespace,
    directory: PathBuf,
    servers: Vec<Process>,
}

impl Pod {
    /// Starts the servers; [`Pod::wait_until_serving`] says when they are there.
    pub(super) fn start(
        seat: PodSeat,
        cluster: &str,
        namespace: Namespace,
        world: &Path,
        servers: Servers,
    ) -> Result<Self> {
        let directory = world.join(&seat.name);
        fs::create_dir_all(&directory)?;
        let mut pod = Self { seat, cluster: cluster.to_owned(), namespace, directory, servers: Vec::new() };
        match servers {
            Servers::Web => {
                let identity = format!("zone={cluster} cluster={cluster} pod={}", pod.name());
                pod.servers.push(pod.start_nginx(&identity, world)?);
                pod.servers.push(pod.start_echo(&identity)?);
            }
            Servers::Lasting => pod.servers.push(pod.start_lasting()?),
        }
        Ok(pod)
    }

    fn start_nginx(&self, identity: &str, world: &Path) -> Result<Process> {
        let configuration = self.directory.join("nginx.conf");
        fs::write(&configuration, nginx_configuration(identity, world, &self.directory))?;
        let (file, home) = (configuration.display().to_string(), self.directory.display().to_string());
        let arguments = ["-p", &home, "-e", "stderr", "-c", &file];
        self.start_one("nginx", Path::new("nginx"), &arguments)
    }

    fn start_echo(&self, identity: &str) -> Result<Process> {
        let listen = self.addresses().map(|address| SocketAddr::new(address, UDP_PORT).to_string());
        let program = own_program("fairlead-udp-echo", "FAIRLEAD_UDP_ECHO")?;
        self.start_one("echo", &program, &[identity, &listen[0], &listen[1]])
    }

    fn start_lasting(&self) -> Result<Process> {
        let program = own_program("fairlead-survive-server", "FAIRLEAD_SURVIVE_SERVER")?;
        let directory = self.directory.display().to_string();
        let [tcp, udp, quic] = [HTTP_PORT, UDP_PORT, QUIC_PORT].map(|port| port.to_string());
        let [v4, v6] = self.addresses().map(|address| address.to_string());
        self.start_one("server", &program, &[self.name(), &directory, &tcp, &udp, &quic, &v4, &v6])
    }

    fn start_one(&self, what: &str, program: &Path, arguments: &[&str]) -> Result<Process> {
        let log = self.directory.join(format!("{what}.log"));
        Process::start(&format!("{what} of {}", self.name()), &self.namespace, program, arguments, &log)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.seat.name
    }

    /// Its addresses, IPv4 first.
    #[must_use]
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.seat.address.0.into(), self.seat.address.1.into()]
    }

    /// Where its servers' files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Kills its servers (-9). The namespace stays, and its kernel answers that nobody listens.
    pub fn kill(&self) -> Result<()> {
        self.servers.iter().try_for_each(Process::kill)
    }

    /// Starts its servers again and waits until they serve.
    pub fn start_again(&self) -> Result<()> {
        self.servers.iter().try_for_each(Process::start_again)?;
        self.wait_until_serving()
    }

    /// Whether its servers run.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.servers.iter().all(Process::is_running)
    }

    /// Whether `/healthz` answers 200 (from the start) or 503.
    pub fn set_healthy(&self, healthy: bool) -> Result<()> {
        let mark = self.directory.join("unhealthy");
        if healthy {
            fs::remove_file(&mark).with_context(|| format!("{} is healthy already", self.name()))
        } else {
            Ok(fs::write(&mark, "")?)
        }
    }

    /// Waits until it takes connections on both families.
    pub(super) fn wait_until_serving(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        for address in self.addresses() {
            let http = SocketAddr::new(address, HTTP_PORT);
            while !self.namespace.connects(http, Duration::from_secs(1)) {
                if !self.is_running() || Instant::now() > deadline {
                    let logs: String = self.servers.iter().map(Process::log).collect();
                    bail!("{} does not serve: {logs}", self.name());
                }
                thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(())
    }
}

/// Makes the files that every nginx of the world serves below `/bytes/`.
pub(super) fn make_downloads(world: &Path) -> Result<()> {
    let directory = world.join("www/bytes");
    fs::create_dir_all(&directory)?;
    for size in DOWNLOADS {
        let pattern: Vec<u8> = (0..=u8::MAX).cycle().take(size).collect();
        fs::write(directory.join(size.to_string()), pattern)?;
    }
    Ok(())
}

/// One process without a master, so that kill -9 of one number ends all of it. An upload is read whole before it is
/// answered: it goes through a proxy step that takes the body and passes on only its length.
fn nginx_configuration(identity: &str, world: &Path, directory: &Path) -> String {
    let (world, directory) = (world.display(), directory.display());
    format!(
        r#"daemon off;
master_process off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    default_type text/plain;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    client_max_body_size 0;
    keepalive_timeout 300s;
    keepalive_requests 10000000;
    server {{
        listen 0.0.0.0:{HTTP_PORT};
        listen [::]:{HTTP_PORT} ipv6only=on;
        location / {{ return 200 "{identity}\n"; }}
        location = /healthz {{
            if (-f {directory}/unhealthy) {{ return 503 "unhealthy\n"; }}
            return 200 "ok\n";
        }}
        location /bytes/ {{ root {world}/www; }}
        location = /upload {{
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_set_header X-Received $content_length;
            proxy_pass http://127.0.0.1:{RECEIVED_PORT};
        }}
    }}
    server {{
        listen 127.0.0.1:{RECEIVED_PORT};
        location / {{ return 200 "{identity} received=$http_x_received\n"; }}
    }}
}}
"#
    )
}
