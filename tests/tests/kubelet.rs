//! Pods of real API servers, run by the test kubelet: what it promises to the tests that use it.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests, and nobody's library")]

#[path = "kubelet/ends.rs"]
mod ends;
#[path = "kubelet/inside.rs"]
mod inside;
#[path = "kubelet/lives.rs"]
mod lives;
#[path = "kubelet/served.rs"]
mod served;

use std::time::{Duration, Instant};

use fairlead_tests::control_plane::{ControlPlane, Place, Wanted};
use fairlead_tests::kubelet::{Images, Kubelets, Settings};
use fairlead_tests::world::{Plan, World};

const CLUSTER: &str = "us-central1-a";

const CLIENT: &str = "client-us-central1-1";

/// What stands for the images of these tests.
const IMAGES: &str = "images:
- image: nginx:*
  command: [nginx, -g, daemon off;]
- image: shell
  command: [/bin/sh]
";

/// A cluster whose pods run. Dropped in this order.
struct Cluster {
    _kubelets: Kubelets,
    plane: ControlPlane,
    world: World,
}

impl Cluster {
    fn start(nodes: usize) -> Self {
        let plan = Plan::default().region("us-central1", &["a"], 0).nodes(nodes).control_planes();
        let world = World::build(&plan).unwrap();
        let place = Place::on_host(&world, &format!("api-{CLUSTER}")).unwrap();
        let plane = ControlPlane::start(&place, &Wanted::new(CLUSTER).kubelets()).unwrap();
        let settings = Settings { images: Images::read(IMAGES).unwrap(), back_off: Duration::from_secs(2) };
        let kubelets = Kubelets::start(&world, &plane, &settings).unwrap();
        Self { _kubelets: kubelets, plane, world }
    }

    /// What `kubectl get` says, by a JSON path.
    fn get(&self, what: &[&str], path: &str) -> String {
        let output = format!("--output=jsonpath={path}");
        // An API server that is away, or an object that isn't there yet, says nothing.
        self.plane.kubectl(&[&["get"], what, &[&output]].concat()).unwrap_or_default()
    }

    /// Address, readiness, serving, terminating of each endpoint of a service, in order.
    fn endpoints(&self, service: &str) -> Vec<String> {
        let of = format!("--selector=kubernetes.io/service-name={service}");
        let path = r#"{range .items[*].endpoints[*]}{.addresses[0]} {.conditions.ready} {.conditions.serving} {.conditions.terminating}{"\n"}{end}"#;
        let mut lines: Vec<_> = self.get(&["endpointslices", &of], path).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// What a client of the world gets from there.
    fn fetch(&self, address: &str) -> Result<String, String> {
        let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        let client = self.world.namespace(CLIENT).unwrap();
        let url = format!("http://{host}/");
        client
            .command("curl", &["--silent", "--fail", "--noproxy", "*", "--max-time", "3", &url])
            .map_err(|error| format!("{error:#}"))
    }
}

/// Asks again until it is so; a failure shows what it was last, and the cluster's pods and events.
fn until<T: std::fmt::Debug>(
    cluster: &Cluster,
    what: &str,
    mut ask: impl FnMut() -> T,
    is: impl Fn(&T) -> bool,
) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = ask();
        if is(&answer) {
            return answer;
        }
        if Instant::now() > deadline {
            let shown = ["pods", "events"]
                .map(|kind| cluster.plane.kubectl(&["get", kind, "--output=wide"]).unwrap_or_default());
            panic!("{what}: still {answer:?}\n{}\n{}", shown[0], shown[1]);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
