//! The programs of a control plane, and with which arguments they run.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::place::{Place, Ports};

/// Names the folder that holds the programs.
const VARIABLE: &str = "FAIRLEAD_TESTPLANE";

/// In a control plane's directory: etcd's data.
pub(super) const DATA: &str = "etcd";
pub(super) const AUTHORITY: &str = "ca.crt";
pub(super) const FRONT_PROXY: &str = "front-proxy-ca.crt";
pub(super) const SERVING: &str = "apiserver.crt";
pub(super) const SERVING_KEY: &str = "apiserver.key";
pub(super) const TOKEN_KEY: &str = "service-accounts.key";
pub(super) const TOKEN_PUBLIC_KEY: &str = "service-accounts.pub";
/// The administrator's.
pub(super) const KUBECONFIG: &str = "admin.kubeconfig";

/// Cluster IPs, the same in every cluster: no packet ever goes to one.
const CLUSTER_IPS: &str = "198.19.0.0/16,2001:db8:ffff::/112";

/// The first of them, by which pods know the API server.
pub(super) const CLUSTER_IP: &str = "198.19.0.1";

/// Those that tests look at, and those that clean up behind them.
const CONTROLLERS: &[&str] = &[
    "deployment-controller",
    "replicaset-controller",
    "statefulset-controller",
    "endpointslice-controller",
    "endpointslice-mirroring-controller",
    "namespace-controller",
    "garbage-collector-controller",
    "serviceaccount-controller",
    "clusterrole-aggregation-controller",
    "root-ca-certificate-publisher-controller",
];

/// Those that only mean something where there are kubelets.
const CONTROLLERS_OF_KUBELETS: &[&str] = &[
    "daemonset-controller",
    "job-controller",
    "node-lifecycle-controller",
    "taint-eviction-controller",
    "pod-garbage-collector-controller",
];

/// Where the programs are.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    folder: PathBuf,
}

impl Programs {
    pub(super) fn find() -> Result<Self> {
        let folder = env::var_os(VARIABLE).map(PathBuf::from).with_context(|| {
            format!("{VARIABLE} is not set: run `cargo xtask test clusters`, which builds the control planes and sets it")
        })?;
        let programs = Self { folder };
        for name in ["etcd", "kube-apiserver", "kube-controller-manager", "kubectl"] {
            let path = programs.path(name);
            ensure!(path.is_file(), "{VARIABLE}: there is no {}: run `cargo xtask setup`", path.display());
        }
        Ok(programs)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// What the arguments are made of.
#[derive(Clone, Copy)]
pub(super) struct Roles<'a> {
    pub(super) name: &'a str,
    pub(super) directory: &'a Path,
    pub(super) place: &'a Place,
    pub(super) ports: Ports,
    /// Whether there are kubelets.
    pub(super) kubelets: bool,
}

impl Roles<'_> {
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.directory.join(KUBECONFIG)
    }

    fn file(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    pub(super) fn etcd(&self) -> Vec<String> {
        let [clients, peers] =
            [self.ports.etcd, self.ports.peer].map(|port| format!("http://127.0.0.1:{port}"));
        vec![
            "--name=only".to_owned(),
            format!("--data-dir={}", self.file(DATA)),
            format!("--listen-client-urls={clients}"),
            format!("--advertise-client-urls={clients}"),
            format!("--listen-peer-urls={peers}"),
            format!("--initial-advertise-peer-urls={peers}"),
            format!("--initial-cluster=only={peers}"),
            // The kernel keeps what was written when the process is killed, and no test takes the kernel away.
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
        ]
    }

    pub(super) fn api_server(&self) -> Vec<String> {
        let tokens_of = self.name;
        let mut arguments = vec![
            format!("--etcd-servers=http://127.0.0.1:{}", self.ports.etcd),
            format!("--bind-address={}", self.place.listens()),
            format!("--advertise-address={}", self.place.addresses()[0]),
            format!("--secure-port={}", self.ports.api_server),
            format!("--tls-cert-file={}", self.file(SERVING)),
            format!("--tls-private-key-file={}", self.file(SERVING_KEY)),
            format!("--client-ca-file={}", self.file(AUTHORITY)),
            format!("--service-account-issuer=https://{tokens_of}.example"),
            format!("--service-account-key-file={}", self.file(TOKEN_PUBLIC_KEY)),
            format!("--service-account-signing-key-file={}", self.file(TOKEN_KEY)),
            format!("--service-cluster-ip-range={}", self.cluster_ips()),
            "--authorization-mode=RBAC".to_owned(),
            "--allow-privileged=true".to_owned(),
            // It would write its own address into a Service's endpoints, which may not be a loopback one.
            "--endpoint-reconciler-type=none".to_owned(),
            // Nobody profiles it, and the few clients of a test need no fairness.
            "--profiling=false".to_owned(),
            "--enable-priority-and-fairness=false".to_owned(),
            format!("--requestheader-client-ca-file={}", self.file(FRONT_PROXY)),
            "--requestheader-allowed-names=front-proxy-client".to_owned(),
            "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
            "--requestheader-group-headers=X-Remote-Group".to_owned(),
            "--requestheader-username-headers=X-Remote-User".to_owned(),
        ];
        if !self.kubelets {
            // Else pods would have to wait for a ServiceAccount, whose token no kubelet mounts.
            arguments.push("--disable-admission-plugins=ServiceAccount".to_owned());
        }
        arguments
    }

    pub(super) fn controllers(&self) -> Vec<String> {
        let more = if self.kubelets { CONTROLLERS_OF_KUBELETS } else { &[] };
        let controllers = [CONTROLLERS, more].concat();
        vec![
            // The administrator's: as its own user, each controller would lack rights that only ServiceAccounts have.
            format!("--kubeconfig={}", self.kubeconfig().display()),
            "--use-service-account-credentials=false".to_owned(),
            // Nobody asks it anything.
            "--secure-port=0".to_owned(),
            format!("--service-account-private-key-file={}", self.file(TOKEN_KEY)),
            format!("--root-ca-file={}", self.file(AUTHORITY)),
            // There is one only.
            "--leader-elect=false".to_owned(),
            "--allocate-node-cidrs=false".to_owned(),
            "--profiling=false".to_owned(),
            format!("--controllers={}", controllers.join(",")),
        ]
    }

    /// The first family must be that of the advertised address.
    fn cluster_ips(&self) -> String {
        if self.place.addresses()[0].is_ipv4() {
            return CLUSTER_IPS.to_owned();
        }
        CLUSTER_IPS.split(',').rev().collect::<Vec<_>>().join(",")
    }
}
