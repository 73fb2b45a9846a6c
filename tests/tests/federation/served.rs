//! Agents in a world that follow real API servers: what clients get of it.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use fairlead_tests::control_plane::{ControlPlane, Place, Wanted};
use fairlead_tests::world::{Agent, Agents, Federation, Plan, ServiceSpec, World, bpf_elf};

/// What anything may take to come about on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);

/// Where the world's services are.
const NAMESPACE: &str = "shop";

struct Served {
    agents: Agents,
    planes: Vec<ControlPlane>,
    world: World,
    service: ServiceSpec,
}

impl Served {
    /// Each cluster has a control plane, with what the world's manifests say; agents have the rights of `deploy/base`.
    fn build(plan: &Plan) -> Self {
        Self::with(plan, &[], |_| ())
    }

    /// With more services than `web`, and what `prepare` does with each control plane before it has any.
    fn with(plan: &Plan, more: &[ServiceSpec], prepare: impl Fn(&ControlPlane)) -> Self {
        let world = World::build(&plan.clone().control_planes()).unwrap();
        let service = ServiceSpec::new("web", 1);
        for service in more.iter().chain([&service]) {
            world.add_service(service).unwrap();
        }
        let start = |cluster: &str| {
            let place = Place::on_host(&world, &format!("api-{cluster}")).unwrap();
            ControlPlane::start(&place, &Wanted::new(cluster)).unwrap()
        };
        let planes: Vec<ControlPlane> = thread::scope(|scope| {
            let start = &start;
            let started: Vec<_> = world
                .layout
                .clusters
                .iter()
                .map(|cluster| scope.spawn(move || start(&cluster.name)))
                .collect();
            started.into_iter().map(|plane| plane.join().unwrap()).collect()
        });
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/base");
        let mut federation = Federation::default();
        for plane in &planes {
            plane.kubectl(&["apply", "--kustomize", base.to_str().unwrap()]).unwrap();
            plane.kubectl(&["create", "namespace", NAMESPACE]).unwrap();
            prepare(plane);
            apply(&world, plane);
            let text = plane.service_account_kubeconfig("fairlead", "fairlead-agent").unwrap();
            let file = plane.write_kubeconfig("agent.kubeconfig", &text).unwrap();
            federation.kubeconfigs.insert(plane.name().to_owned(), file);
        }
        world.attach_pass(&bpf_elf().unwrap(), &world.sites()).unwrap();
        let agents = Agents::start(&world, &federation).unwrap();
        Self { agents, planes, world, service }
    }

    fn gateway(&self) -> &Agent {
        self.agents.of(&self.world.layout.gateways[0].name)
    }

    /// Who answers new connections to the VIPs.
    fn answering(&self) -> anyhow::Result<BTreeSet<String>> {
        let client = &self.world.clients()[0];
        let url = |vip| format!("http://{}/", SocketAddr::new(vip, self.service.http_port));
        let ask = |vip| {
            let text = client.get(&url(vip))?.text();
            Ok(text.trim().rsplit('=').next().unwrap_or_default().to_owned())
        };
        self.service.vips.iter().flat_map(|&vip| (0..60).map(move |_| ask(vip))).collect()
    }

    fn until_answered_by(&self, pods: &[&str]) {
        let wanted: BTreeSet<String> = pods.iter().map(ToString::to_string).collect();
        until(&format!("{pods:?} answer"), || match self.answering() {
            Ok(answering) if answering == wanted => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }

    /// Waits until the kernel's tables are what the API servers make of them: a plan, read anew from both, changes nothing.
    fn until_as_planned(&self) {
        until("nothing is to be changed", || {
            let plan = self.gateway().ask(&["plan"]).map_err(|error| format!("{error:#}"))?;
            let nothing = plan["actions"].as_array().is_some_and(Vec::is_empty);
            if nothing { Ok(()) } else { Err(format!("{plan:#}")) }
        });
    }

    /// The states of all clusters, as the gateway's agent says.
    fn reachable(&self) -> Vec<bool> {
        let said = self.gateway().ask(&["clusters"]).unwrap();
        let clusters = said["clusters"].as_array().unwrap();
        clusters.iter().map(|cluster| cluster["reachable"].as_bool().unwrap()).collect()
    }
}

/// Gives the control plane what the manifests of its cluster say, but for what only a server can.
fn apply(world: &World, plane: &ControlPlane) {
    let files = fs::read_dir(world.manifests(plane.name()).directory()).unwrap();
    let of_server = |line: &&str| {
        ["resourceVersion:", "creationTimestamp:"].iter().any(|field| line.trim_start().starts_with(field))
    };
    for file in files {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| !of_server(line)).collect();
        plane.apply(&lines.join("\n")).unwrap();
    }
}

fn until(what: &str, mut holds: impl FnMut() -> Result<(), String>) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(why) = holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}: {why}");
        thread::sleep(Duration::from_millis(100));
    }
}

const PODS: [&str; 2] = ["pod-us-central1-a-1", "pod-us-central1-a-2"];

#[test]
fn a_vip_is_served_from_what_an_api_server_has() {
    let served = Served::build(&Plan::small());
    served.until_answered_by(&PODS);
    served.until_as_planned();
    let (manifests, plane) = (served.world.manifests("us-central1-a"), &served.planes[0]);
    manifests.remove(PODS[0]).unwrap();
    apply(&served.world, plane);
    served.until_answered_by(&PODS[1..]);
    served.until_as_planned();
}

#[test]
fn a_gateway_starts_without_api_servers_and_then_has_what_they_say() {
    let served = Served::build(&Plan::small());
    served.until_answered_by(&PODS);
    // What is known is written down a while after it has changed.
    thread::sleep(Duration::from_secs(4));
    let (gateway, plane) = (served.gateway(), &served.planes[0]);
    plane.stop().unwrap();
    until("it is away", || if served.reachable() == [false] { Ok(()) } else { Err(String::new()) });
    for agent in served.agents.iter() {
        agent.process().kill().unwrap();
        agent.process().start_again().unwrap();
    }
    for agent in served.agents.iter() {
        agent.wait_until_ready(PATIENCE).unwrap();
    }
    assert_eq!(served.reachable(), [false]);
    served.until_answered_by(&PODS);
    let status = gateway.ask(&["status"]).unwrap().to_string();
    assert!(status.contains("what is known of the cluster stays"), "{status}");
    // It comes back with something else.
    plane.start_again().unwrap();
    served.world.manifests("us-central1-a").remove(PODS[1]).unwrap();
    apply(&served.world, plane);
    served.until_answered_by(&PODS[..1]);
    assert_eq!(served.reachable(), [true]);
    served.until_as_planned();
}

#[test]
fn probes_decide_while_an_api_server_is_away() {
    let served = Served::build(&Plan::small());
    served.until_answered_by(&PODS);
    served.world.cut("api-us-central1-a").unwrap();
    until("it is away", || if served.reachable() == [false] { Ok(()) } else { Err(String::new()) });
    served.until_answered_by(&PODS);
    served.world.pod(PODS[0]).kill().unwrap();
    served.until_answered_by(&PODS[1..]);
    served.world.pod(PODS[0]).start_again().unwrap();
    served.until_answered_by(&PODS);
    served.world.restore("api-us-central1-a").unwrap();
    until("it is back", || if served.reachable() == [true] { Ok(()) } else { Err(String::new()) });
}

#[test]
fn a_cluster_that_suddenly_has_no_services_is_held_until_that_is_accepted() {
    let empty = OnceLock::new();
    let served = Served::with(&Plan::small(), &[ServiceSpec::new("api", 2)], |plane| {
        plane.stop().unwrap();
        empty.set(plane.back_up().unwrap()).unwrap();
        plane.start_again().unwrap();
    });
    served.until_answered_by(&PODS);
    let (gateway, plane) = (served.gateway(), &served.planes[0]);
    plane.stop().unwrap();
    plane.restore_backup(empty.get().unwrap()).unwrap();
    plane.start_again().unwrap();
    let status = || gateway.ask(&["status"]).unwrap().to_string();
    until(
        "it is told",
        || if status().contains("2 of 2 are suddenly gone") { Ok(()) } else { Err(status()) },
    );
    served.until_answered_by(&PODS);
    let configuration = gateway.configuration().display().to_string();
    let accept = |cluster| gateway.fairlead(&["accept-withdrawal", cluster, "--config", &configuration]);
    let error = format!("{:#}", accept("us-central1").unwrap_err());
    assert!(error.contains("did you mean us-central1-a?"), "{error}");
    let told = accept("us-central1-a").unwrap();
    assert!(told.starts_with("what is gone of cluster us-central1-a is let go on this node:\n"), "{told}");
    until("nobody answers", || match served.answering() {
        Err(_) => Ok(()),
        Ok(answering) => Err(format!("{answering:?}")),
    });
    until("nothing is held", || if status().contains("suddenly gone") { Err(status()) } else { Ok(()) });
    let error = format!("{:#}", accept("us-central1-a").unwrap_err());
    assert!(error.contains("nothing of cluster us-central1-a is held"), "{error}");
}
