//! Real Kubernetes control planes: etcd, an API server and, where wanted, controllers for each cluster.
//!
//! A [`ControlPlane`] runs at a [`Place`]: on this machine's loopback, or in a namespace of a world, where everybody who has
//! a route reaches it. It can be stopped, killed, started again with the data it had, made to hang, and put back to what it
//! was. Without [kubelets](crate::kubelet) pods stay what the test writes into their status. When its world ends, one way or the
//! other, its processes and files go with it.

mod backup;
mod kubeconfig;
mod kubectl;
mod pki;
mod place;
mod programs;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

pub use backup::Backup;
pub use pki::{Certificate, User};
pub use place::Place;

use crate::world::{Namespace, Process};
use kubeconfig::{Credentials, Kubeconfig};
use pki::Authority;
use place::Ports;
use programs::{Programs, Roles};

/// How long it may take until an API server is ready; one takes 1.5 s on an idle machine.
const READY: Duration = Duration::from_secs(90);

/// How long a program may take to end of its own accord.
const END: Duration = Duration::from_secs(20);

/// Lines of a program's log that an error tells.
const LAST_LINES: usize = 5;

/// The control plane of one cluster.
#[derive(Debug)]
pub struct ControlPlane {
    name: String,
    place: Place,
    ports: Ports,
    /// Keys, kubeconfigs, logs and etcd's data.
    directory: PathBuf,
    authority: Authority,
    programs: Programs,
    /// Dropped in this order: who asks goes before who answers.
    controllers: Option<Process>,
    api_server: Process,
    etcd: Process,
}

/// What a control plane shall be.
#[derive(Clone, Debug)]
pub struct Wanted {
    name: String,
    controllers: bool,
    kubelets: bool,
    names: Vec<String>,
}

impl Wanted {
    /// An API server without controllers; `name` is the cluster's, unique in its world.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), controllers: false, kubelets: false, names: Vec::new() }
    }

    /// With kube-controller-manager, which makes EndpointSlices of Services and Pods, and ends namespaces.
    #[must_use]
    pub fn controllers(self) -> Self {
        Self { controllers: true, ..self }
    }

    /// With controllers, also those of nodes, DaemonSets and Jobs, for [kubelets](crate::kubelet): a pod gets its
    /// ServiceAccount's token, and a node that no kubelet reports is not ready.
    #[must_use]
    pub fn kubelets(self) -> Self {
        Self { controllers: true, kubelets: true, ..self }
    }

    /// Its certificate is valid for this name or address too.
    #[must_use]
    pub fn also_named(mut self, name: &str) -> Self {
        self.names.push(name.to_owned());
        self
    }
}

impl ControlPlane {
    /// Starts it and waits until its API server is ready; several may be started at once by several threads.
    pub fn start(place: &Place, wanted: &Wanted) -> Result<Self> {
        let Wanted { name, names, .. } = wanted;
        let directory = place.directory().join(name);
        fs::create_dir(&directory).with_context(|| {
            format!("make {}: is there a control plane {name} already?", directory.display())
        })?;
        let programs = Programs::find()?;
        let ports = place.ports()?;
        let authority = Authority::new(name, place.addresses(), names)?;
        authority.write(&directory)?;
        let roles = Roles { name, directory: &directory, place, ports, kubelets: wanted.kubelets };
        let admin = Kubeconfig {
            cluster: name,
            server: SocketAddr::new(place.addresses()[0], ports.api_server),
            authority: authority.certificate(),
            user: User::ADMIN,
            credentials: Credentials::of(&authority.client(&User::admin())?),
        };
        admin.write(&roles.kubeconfig())?;

        let start = |what: &str, arguments: &[String]| {
            let log = directory.join(format!("{what}.log"));
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            place.process(&format!("{what} of {name}"), &programs.path(what), &arguments, &log)
        };
        let etcd = start("etcd", &roles.etcd())?;
        let api_server = start("kube-apiserver", &roles.api_server())?;
        let mut plane = Self {
            name: name.clone(),
            place: place.clone(),
            ports,
            controllers: None,
            api_server,
            etcd,
            authority,
            programs: programs.clone(),
            directory: directory.clone(),
        };
        plane.wait_until_ready()?;
        if wanted.controllers {
            plane.controllers = Some(start("kube-controller-manager", &roles.controllers())?);
        }
        if wanted.kubelets {
            plane.wait_for_default_account()?;
        }
        Ok(plane)
    }

    /// The cluster's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its API server is reached: one for each address of its place.
    #[must_use]
    pub fn servers(&self) -> Vec<SocketAddr> {
        let addresses = self.place.addresses().iter();
        addresses.map(|&address| SocketAddr::new(address, self.ports.api_server)).collect()
    }

    /// The namespace it is in; none where it is on this machine's loopback.
    pub(crate) fn namespace(&self) -> Option<&Namespace> {
        self.place.namespace()
    }

    /// The certificate of who signed its API server's and its users', PEM.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.authority.certificate()
    }

    /// Ends controllers, API server and etcd in this order, each waited for. The data stays.
    pub fn stop(&self) -> Result<()> {
        self.all().into_iter().try_for_each(end)
    }

    /// Kills all of it (-9) at once, as when its machine dies. The data stays.
    pub fn kill(&self) -> Result<()> {
        self.all().into_iter().try_for_each(Process::kill)
    }

    /// Starts it again after it was stopped or killed, with the data it had, and waits until it is ready.
    pub fn start_again(&self) -> Result<()> {
        self.start_with(Certificate::Good)
    }

    /// As [`ControlPlane::start_again`], with an API server that shows such a certificate.
    pub fn start_with(&self, certificate: Certificate) -> Result<()> {
        self.must_be_stopped("started again")?;
        self.authority.write_serving(&self.directory, certificate)?;
        self.etcd.start_again()?;
        self.api_server.start_again()?;
        self.wait_until_ready()?;
        self.controllers.iter().try_for_each(Process::start_again)
    }

    /// From now on its API server hangs: connections to it open, and nothing is ever answered. Those that are open
    /// stay so.
    pub fn pause(&self) -> Result<()> {
        self.api_server.signal(Signal::SIGSTOP)
    }

    /// Ends [`ControlPlane::pause`]; what has waited is answered.
    pub fn resume(&self) -> Result<()> {
        self.api_server.signal(Signal::SIGCONT)
    }

    /// A copy of all its data, while it is stopped.
    pub fn back_up(&self) -> Result<Backup> {
        self.must_be_stopped("backed up")?;
        Backup::take(&self.data(), &self.directory)
    }

    /// Puts its data back to what it was then, while it is stopped: for those who have seen later versions, time goes back.
    pub fn restore_backup(&self, backup: &Backup) -> Result<()> {
        self.must_be_stopped("put back")?;
        backup.restore(&self.data())
    }

    /// A kubeconfig for a user, with a client certificate made for it.
    pub fn kubeconfig(&self, user: &User) -> Result<String> {
        self.kubeconfig_at(self.servers()[0], user)
    }

    /// The same, of which `server` is one of [`ControlPlane::servers`], or whatever leads there.
    pub fn kubeconfig_at(&self, server: SocketAddr, user: &User) -> Result<String> {
        let credentials = Credentials::of(&self.authority.client(user)?);
        Ok(self.kubeconfig_with(server, &user.name, credentials))
    }

    /// A kubeconfig for a ServiceAccount, with a token that is good for an hour. It may do what RBAC lets it.
    pub fn service_account_kubeconfig(&self, namespace: &str, account: &str) -> Result<String> {
        let token = self.token(namespace, account)?;
        Ok(self.kubeconfig_with(self.servers()[0], account, Credentials::Token(token)))
    }

    /// A token for a ServiceAccount, good for an hour.
    pub fn token(&self, namespace: &str, account: &str) -> Result<String> {
        let token = self.kubectl(&["create", "token", account, "--namespace", namespace, "--duration=1h"])?;
        Ok(token.trim().to_owned())
    }

    /// Writes a kubeconfig into a file `name` of its own directory, which goes with it.
    pub fn write_kubeconfig(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        kubeconfig::write(&path, text)?;
        Ok(path)
    }

    fn kubeconfig_with(&self, server: SocketAddr, user: &str, credentials: Credentials) -> String {
        let authority = self.authority.certificate();
        Kubeconfig { cluster: &self.name, server, authority, user, credentials }.text()
    }

    fn data(&self) -> PathBuf {
        self.directory.join(programs::DATA)
    }

    /// In the order in which they end.
    fn all(&self) -> Vec<&Process> {
        self.controllers.iter().chain([&self.api_server, &self.etcd]).collect()
    }

    fn must_be_stopped(&self, to_be: &str) -> Result<()> {
        match self.all().into_iter().find(|process| process.is_running()) {
            None => Ok(()),
            Some(process) => bail!("{} runs, and can't be {to_be}: stop it first", process.name()),
        }
    }

    /// Before it is there, the API server refuses pods.
    fn wait_for_default_account(&self) -> Result<()> {
        let deadline = Instant::now() + READY;
        let get = ["--namespace=default", "get", "serviceaccount", "default", "--output=name"];
        while let Err(error) = self.kubectl(&get) {
            if Instant::now() > deadline {
                return Err(error.context(format!("{}: its controllers make no ServiceAccount", self.name)));
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn wait_until_ready(&self) -> Result<()> {
        let url = format!("https://{}/readyz", self.servers()[0]);
        let deadline = Instant::now() + READY;
        let mut said = String::new();
        loop {
            // Its certificate may be meant to be a bad one, and whoever answers is ours.
            let ask =
                || Command::new("curl").args(["-sk", "--noproxy", "*", "--max-time", "2", &url]).output();
            if let Ok(answer) = self.place.run(|| Ok(ask()?)) {
                said = String::from_utf8_lossy(&answer.stdout).into_owned();
            }
            if said == "ok" {
                return Ok(());
            }
            let ended = [&self.etcd, &self.api_server].into_iter().find(|process| !process.is_running());
            if let Some(process) = ended {
                bail!("{} has ended: {}", process.name(), last_lines(&process.log()));
            }
            if Instant::now() > deadline {
                let log = last_lines(&self.api_server.log());
                bail!("{} is not ready after {READY:?}: {said}\n{log}", self.api_server.name());
            }
            thread::sleep(Duration::from_millis(30));
        }
    }
}

/// Asks a program to end, and kills it if it doesn't.
fn end(process: &Process) -> Result<()> {
    if !process.is_running() {
        return Ok(());
    }
    // One that is paused would not hear the other.
    process.signal(Signal::SIGCONT)?;
    process.signal(Signal::SIGTERM)?;
    if process.wait(END).is_err() {
        process.kill()?;
    }
    Ok(())
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}
