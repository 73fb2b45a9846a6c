//! What most of these tests begin with: a world, a service in it, and agents that serve it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use fairlead_tests::client::Client;
use fairlead_tests::load::{Failure, Kind, Load, Mix, Record, Request, Target};
use fairlead_tests::world::{Agent, Agents, Federation, Plan, ServiceSpec, World, bpf_elf};
use serde_json::Value;

/// How long anything may take to come about. A busy machine shall not fail a test.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// New connections and datagrams only: a kept connection may be broken by a slot that moves.
pub const NEW_ONLY: Mix =
    Mix { new_connections: 40.0, kept_connections: 0, kept_requests: 0.0, datagrams: 20.0 };

/// A world with a service and its agents. The agents go before the world that they live in.
pub struct Served {
    pub agents: Agents,
    pub world: World,
    pub service: ServiceSpec,
}

impl Served {
    /// With the service `web` in every cluster.
    pub fn build(plan: &Plan, federation: &Federation) -> Self {
        let service = ServiceSpec::new("web", 1);
        Self::with(plan, federation, service.clone(), |world| world.add_service(&service).unwrap())
    }

    /// With what `prepare` puts into the world before its agents start; `service` is the one that is asked.
    pub fn with(
        plan: &Plan,
        federation: &Federation,
        service: ServiceSpec,
        prepare: impl FnOnce(&World),
    ) -> Self {
        let world = World::build(plan).unwrap();
        prepare(&world);
        world.attach_pass(&bpf_elf().unwrap(), &world.sites()).unwrap();
        let agents = Agents::start(&world, federation).unwrap();
        Self { agents, world, service }
    }

    /// With an endpoint on each of two nodes, which are their own gateways; what clients send goes to the first.
    pub fn by_its_own_nodes() -> Self {
        let world =
            World::build(&Plan::default().region("us-central1", &["a"], 1).nodes(2).gateways(0)).unwrap();
        let service = ServiceSpec::new("web", 1);
        world.add_service(&service).unwrap();
        let nodes: Vec<&str> = world.layout.nodes.iter().map(|node| &*node.host.name).collect();
        world.attach_pass(&bpf_elf().unwrap(), &nodes).unwrap();
        let federation = Federation { nodes_are_gateways: true, ..Federation::default() };
        let agents = Agents::start(&world, &federation).unwrap();
        world.route_vip("us-central1", &nodes[..1]).unwrap();
        Self { agents, world, service }
    }

    /// The first client.
    pub fn client(&self) -> &Client {
        &self.world.clients()[0]
    }

    /// The first gateway's agent.
    pub fn gateway(&self) -> &Agent {
        self.agents.of(&self.world.layout.gateways[0].name)
    }

    /// The agent of the node with this number.
    pub fn node(&self, number: usize) -> &Agent {
        self.agents.of(&self.world.layout.nodes[number].host.name)
    }

    pub fn url(&self, vip: IpAddr, path: &str) -> String {
        format!("http://{}{path}", SocketAddr::new(vip, self.service.http_port))
    }

    /// Who answers a new connection to the VIP.
    pub fn ask(&self, vip: IpAddr) -> anyhow::Result<String> {
        Ok(self.client().get(&self.url(vip, "/"))?.text())
    }

    pub fn wait_until_served(&self) {
        for &vip in &self.service.vips {
            wait("an answer", || self.ask(vip).is_ok());
        }
    }

    /// The pods that answer 60 new connections to each VIP.
    pub fn answering(&self) -> BTreeSet<String> {
        self.answering_for(&self.service)
    }

    /// As [`Served::answering`], of any service.
    pub fn answering_for(&self, service: &ServiceSpec) -> BTreeSet<String> {
        let url = |vip: IpAddr| format!("http://{}/", SocketAddr::new(vip, service.http_port));
        let ask = |vip: IpAddr| self.client().get(&url(vip)).unwrap().text();
        let answers = service.vips.iter().flat_map(|&vip| (0..60).map(move |_| ask(vip)));
        answers.map(|answer| pod_of(&answer)).collect()
    }

    /// Whether new connections to a service are all answered, and by exactly these pods. For waiting: one that a moving
    /// slot breaks in the midst of its handshake is no answer yet.
    pub fn is_served_by(&self, service: &ServiceSpec, pods: &BTreeSet<String>) -> bool {
        self.serving(service).is_ok_and(|answered| answered == *pods)
    }

    /// The pods that answer new connections to a service, or why one is not answered.
    fn serving(&self, service: &ServiceSpec) -> anyhow::Result<BTreeSet<String>> {
        let url = |vip: IpAddr| format!("http://{}/", SocketAddr::new(vip, service.http_port));
        let ask = |vip: IpAddr| Ok(pod_of(&self.client().get(&url(vip))?.text()));
        service.vips.iter().flat_map(|&vip| (0..60).map(move |_| ask(vip))).collect()
    }

    /// Waits until each of the services is served by exactly these pods; shows what the gateway knows otherwise.
    pub fn wait_until_served_by(&self, services: &[&ServiceSpec], pods: &BTreeSet<String>) {
        let deadline = Instant::now() + PATIENCE;
        for service in services {
            while !self.is_served_by(service, pods) {
                if Instant::now() > deadline {
                    let know = |about| self.gateway().ask(&[about]).unwrap();
                    panic!(
                        "{} is served by {:?}, not by {pods:?}: {:#} {:#}",
                        service.name,
                        self.serving(service),
                        know("status"),
                        know("backends"),
                    );
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// The names of all pods.
    pub fn pods(&self) -> BTreeSet<String> {
        self.world.pods().iter().map(|pod| pod.name().to_owned()).collect()
    }

    /// Starts a continuous load from all clients on the service.
    pub fn load(&self, mix: Mix) -> Load {
        load(self.world.clients(), &self.service, mix)
    }

    /// Waits until the first gateway's status holds something; shows the last one otherwise.
    pub fn wait_for_status(&self, what: &str, holds: impl Fn(&Value) -> bool) {
        wait_for_status(self.gateway(), what, holds);
    }
}

/// Starts a continuous load on a service.
pub fn load(clients: &[Client], service: &ServiceSpec, mix: Mix) -> Load {
    let [IpAddr::V4(v4), IpAddr::V6(v6)] = service.vips[..] else { panic!("{:?}", service.vips) };
    let target = Target { v4, v6, http_port: service.http_port, udp_port: service.udp_port };
    Load::start(clients, target, mix).unwrap()
}

/// Waits until so many more requests have ended.
pub fn wait_for_requests(load: &Load, count: usize) {
    let before = load.requests_from(0).len();
    wait("so many requests", || load.requests_from(before).len() >= count);
}

/// Ends a load of which no request may have failed.
pub fn assert_nothing_failed(load: Load) {
    let record = load.stop().unwrap();
    assert!(record.requests.len() > 20, "{} requests prove nothing", record.requests.len());
    assert_eq!(failures(&record), Vec::<String>::new(), "of {} requests", record.requests.len());
}

/// As [`assert_nothing_failed`], while slots move: a connection whose slot moves during its handshake is reset.
pub fn assert_only_moves_broke(load: Load) {
    let mut record = load.stop().unwrap();
    assert!(record.requests.len() > 20, "{} requests prove nothing", record.requests.len());
    record.requests.retain(|request| !is_broken_by_move(request));
    assert_eq!(failures(&record), Vec::<String>::new());
}

/// Whether a slot that moved during its handshake reset it.
pub fn is_broken_by_move(request: &Request) -> bool {
    request.kind == Kind::NewConnection && request.outcome == Err(Failure::Reset)
}

/// The requests that failed, told shortly.
pub fn failures(record: &Record) -> Vec<String> {
    let failed = record.requests.iter().filter(|request| request.outcome.is_err());
    failed.map(|r| format!("{:?} {:?} to {}: {:?}", r.started, r.kind, r.server, r.outcome)).collect()
}

/// Waits until `holds`, and fails after some seconds.
pub fn wait(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until an agent's status holds something; shows the last one otherwise.
pub fn wait_for_status(agent: &Agent, what: &str, holds: impl Fn(&Value) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = agent.ask(&["status"]).unwrap();
        if holds(&status) {
            return;
        }
        assert!(Instant::now() < deadline, "{what} did not come about: {status:#}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The pod that gave an answer.
pub fn pod_of(answer: &str) -> String {
    answer.trim().rsplit('=').next().unwrap().to_owned()
}
