//! A federation that follows control planes, as an agent's does.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fairlead::config::{self, Config};
use fairlead::federation::{Federation, LastGood, SourceState};
use fairlead_core::model::ObjectName;
use fairlead_tests::control_plane::{ControlPlane, User};
use tokio::runtime::Runtime;

/// What an agent needs after a change: far longer, for machines that are busy.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Followed {
    runtime: Runtime,
    federation: Federation,
}

/// A configuration that follows clusters by these kubeconfigs.
pub fn config(clusters: &[(&str, &Path)]) -> Config {
    config::parse(&config_text(clusters), Path::new("/config.yaml")).unwrap()
}

pub fn config_text(clusters: &[(&str, &Path)]) -> String {
    let mut text = "seed: 1\nnode: {name: gateway, region: r, roles: [gateway], interfaces: [lo]}\n\
                    gateways: [{name: gateway, region: r, tunnel: [192.0.2.1]}]\nvipPools: [203.0.113.0/24]\nclusters:\n"
        .to_owned();
    for (number, (name, kubeconfig)) in (1..).zip(clusters) {
        let place = format!("name: {name}, region: r, zone: z{number}, podCidrs: [10.{number}.0.0/16]");
        writeln!(text, "- {{{place}, kubeconfig: {}}}", kubeconfig.display()).unwrap();
    }
    text
}

/// The administrator's kubeconfig in a file.
pub fn kubeconfig(plane: &ControlPlane) -> PathBuf {
    let text = plane.kubeconfig(&User::admin()).unwrap();
    plane.write_kubeconfig("follower.kubeconfig", &text).unwrap()
}

impl Followed {
    /// Follows these control planes as their administrator.
    pub fn all(planes: &[ControlPlane]) -> Self {
        let files: Vec<PathBuf> = planes.iter().map(kubeconfig).collect();
        let clusters: Vec<_> =
            planes.iter().map(ControlPlane::name).zip(files.iter().map(|f| &**f)).collect();
        Self::start(&config(&clusters), None)
    }

    pub fn of(plane: &ControlPlane) -> Self {
        Self::by(plane, &kubeconfig(plane))
    }

    /// Follows it by this kubeconfig.
    pub fn by(plane: &ControlPlane, kubeconfig: &Path) -> Self {
        Self::start(&config(&[(plane.name(), kubeconfig)]), None)
    }

    pub fn start(config: &Config, last_good: Option<LastGood>) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let federation = runtime.block_on(async { Federation::start(config, last_good) });
        Self { runtime, federation }
    }

    /// What is said of the only cluster.
    pub fn said(&self) -> &SourceState {
        self.federation.sources().next().unwrap().1
    }

    /// What is said of a cluster.
    pub fn said_of(&self, cluster: &str) -> &SourceState {
        self.federation.sources().find(|(spec, _)| &*spec.cluster == cluster).unwrap().1
    }

    /// Waits until this holds of all that is said. How long that took.
    pub fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) -> Duration {
        let began = Instant::now();
        while !holds(self) {
            let left = PATIENCE.saturating_sub(began.elapsed());
            let federation = &mut self.federation;
            let changed =
                self.runtime.block_on(async { tokio::time::timeout(left, federation.changed()).await });
            let said: Vec<_> = self.federation.sources().map(|(_, said)| said).collect();
            assert!(changed.is_ok(), "not within {PATIENCE:?}: {what}; {said:#?}");
        }
        began.elapsed()
    }

    /// Waits until the only cluster is read.
    pub fn until_read(&mut self) {
        self.until("it is read", |followed| followed.said().state.reachable);
    }
}

/// The addresses of the endpoints of a service, sorted; `None`: there is no such service.
pub fn endpoints(said: &SourceState, service: &str) -> Option<Vec<String>> {
    let spec = said.state.shards.get(&ObjectName::new("default", service))?;
    let mut addresses: Vec<_> =
        spec.endpoints.iter().flat_map(|endpoint| endpoint.addresses()).map(|ip| ip.to_string()).collect();
    addresses.sort();
    Some(addresses)
}

/// A Service of this class.
pub fn service(name: &str, class: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  type: LoadBalancer\n  \
         loadBalancerClass: {class}\n  allocateLoadBalancerNodePorts: false\n  ports: [{{name: http, port: 80}}]\n---\n"
    )
}

/// A Service of ours.
pub fn ours(name: &str) -> String {
    service(name, "fairlead.io/vip")
}

/// An EndpointSlice `name` of a service, whose endpoints are on the node `n1`.
pub fn slice(name: &str, service: &str, addresses: &[&str]) -> String {
    let family = if addresses.iter().any(|address| address.contains(':')) { "IPv6" } else { "IPv4" };
    let mut text = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}\n  namespace: default\n  labels: \
         {{kubernetes.io/service-name: {service}}}\naddressType: {family}\nports: [{{name: http, port: 8080}}]\nendpoints:\n"
    );
    for address in addresses {
        let pod = format!("{service}-{}", address.replace([':', '.'], "-"));
        writeln!(
            text,
            "- {{addresses: [\"{address}\"], conditions: {{ready: true}}, nodeName: n1, targetRef: {{kind: Pod, name: {pod}}}}}"
        )
        .unwrap();
    }
    text + "---\n"
}

/// Messages of everything that is wrong.
pub fn problems(said: &SourceState) -> Vec<String> {
    said.problems.iter().map(ToString::to_string).collect()
}

/// Whether the endpoints of `web` are these.
pub fn has_web(said: &SourceState, addresses: &[&str]) -> bool {
    endpoints(said, "web").is_some_and(|known| known == addresses)
}
