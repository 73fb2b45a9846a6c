//! A test kubelet: pods of real API servers run as real processes in network namespaces.
//!
//! In: a [`World`], a [`ControlPlane`] in it, and [`Images`], which say what stands for an image on this machine. Out: a Node
//! for each node of the cluster, kept ready; pods bound to them; and their containers, with addresses out of the node's
//! prefixes, volumes, environment, probes, restarts and grace. Statuses say what is so. What a manifest asks for and isn't done
//! is told on the pod: an event `NotHonoured` and the condition `fairlead.io/Honoured`. See README.md here for what
//! that is.
//!
//! Each kubelet runs in its node's network namespace: where the node's link is cut, its API server hears nothing of it.

mod board;
mod container;
mod environment;
mod events;
mod images;
mod node;
mod pod;
mod pods;
mod probe;
mod running;
mod sandbox;
mod scheduler;
mod status;
mod unhonoured;
mod volumes;

use std::fs;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::watch;

pub use images::Images;

use crate::control_plane::{ControlPlane, User};
use crate::world::{Namespace, World};
use node::Node;

/// How long the end of a kubelet waits for what blocks.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// The kubelets of a cluster's nodes, and its scheduler.
///
/// Drop it before its world: all containers are killed then, at once, and their places are removed. Objects stay in the
/// API server.
#[derive(Debug)]
pub struct Kubelets {
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

/// What kubelets shall be.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What stands for images.
    pub images: Images,
    /// How long a container that has ended twice waits at first; it doubles each time. A real kubelet's are 10 s.
    pub back_off: Duration,
}

impl Kubelets {
    /// Starts a kubelet on each node of the cluster that the control plane is named after, and a scheduler.
    ///
    /// # Errors
    /// A control plane that is not in this world; a cluster that the world doesn't have.
    pub fn start(world: &World, plane: &ControlPlane, settings: &Settings) -> Result<Self> {
        let cluster = world.layout.clusters.iter().find(|cluster| cluster.name == plane.name());
        let cluster = cluster.with_context(|| format!("the world has no cluster {}", plane.name()))?;
        let place = plane.namespace().with_context(|| {
            format!("the control plane of {} is on loopback: start it on a host of the world", plane.name())
        })?;
        let kubeconfig = plane.kubeconfig(&User::admin())?;
        let images = Arc::new(settings.images.clone());
        let (stop, stopped) = watch::channel(false);
        let mut kubelets = Self { stop, threads: Vec::new() };

        let own = kubeconfig.clone();
        kubelets.thread("scheduler", place, stopped.clone(), async move || {
            scheduler::run(client(&own).await?).await;
            Ok(())
        })?;
        for ground in world.grounds(&cluster.name) {
            let directory = world.data()?.join("kubelet").join(&ground.seat.host.name);
            fs::create_dir_all(&directory)?;
            let (kubeconfig, images, cluster) = (kubeconfig.clone(), Arc::clone(&images), cluster.clone());
            let (namespace, name) = (ground.namespace.clone(), ground.seat.host.name.clone());
            let (server, back_off) = (plane.servers()[0], settings.back_off);
            kubelets.thread(&name, &namespace, stopped.clone(), async move || {
                let client = client(&kubeconfig).await?;
                let node = Arc::new(Node::new(ground, cluster, client, images, directory, server, back_off));
                tokio::join!(node.keep_ready(), pods::run(Arc::clone(&node)));
                Ok(())
            })?;
        }
        Ok(kubelets)
    }

    /// A thread inside a namespace, with a runtime whose own threads are there too.
    fn thread<F: Future<Output = Result<()>>>(
        &mut self,
        name: &str,
        namespace: &Namespace,
        mut stopped: watch::Receiver<bool>,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> Result<()> {
        let namespace = namespace.clone();
        let thread = thread::Builder::new().name(format!("kubelet {name}")).spawn(move || {
            namespace.run(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let done = runtime.block_on(async {
                    tokio::select! {
                        done = work() => done,
                        // An error means that nobody is left who could stop it.
                        _ = stopped.wait_for(|stopped| *stopped) => Ok(()),
                    }
                });
                // Kills the containers first; a command in one of them may still hang.
                runtime.shutdown_timeout(LAST_WAIT);
                done
            })
        })?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Kubelets {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => eprintln!("a kubelet has ended: {error:#}"),
                // Its message stands on standard error already.
                Err(_panicked) => {}
            }
        }
    }
}

/// A client by a kubeconfig, to be used where it was made. No proxy of the user's stands between.
async fn client(kubeconfig: &str) -> Result<Client> {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.proxy_url = None;
    Ok(Client::try_from(config)?)
}
