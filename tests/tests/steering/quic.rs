//! QUIC: a real client migrates, and its connection stays with its server, which says in its connection IDs who it is.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use fairlead_core::model::ServerId;
use fairlead_tests::client::Client;
use fairlead_tests::quic::Migrant;
use fairlead_tests::survive::identity::Identity;
use fairlead_tests::world::{Condition, Federation, Plan, Servers, ServiceSpec};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Join, join};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::served::{PATIENCE, Served, wait};

const CLUSTER: &str = "us-central1-a";

/// A connection on which one line follows the other.
struct Kept {
    runtime: Runtime,
    client: Client,
    migrant: Migrant,
    stream: BufReader<Join<quinn::RecvStream, quinn::SendStream>>,
    vip: IpAddr,
    identity: Identity,
}

/// A runtime in the client's namespace.
fn run_in<T: Send>(client: &Client, runtime: &Runtime, work: impl Future<Output = T> + Send) -> T {
    client.namespace.run(|| Ok(runtime.block_on(work))).unwrap()
}

impl Kept {
    fn open(client: &Client, vip: IpAddr) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let from = client.addresses().into_iter().find(|ip| ip.is_ipv4() == vip.is_ipv4()).unwrap();
        let opened = run_in(client, &runtime, async {
            let connecting = Migrant::connect(SocketAddr::new(from, 0), SocketAddr::new(vip, 443));
            let migrant = timeout(Duration::from_secs(2), connecting).await??;
            let (write, read) = migrant.connection.open_bi().await?;
            let mut stream = BufReader::new(join(read, write));
            stream.write_all(b"echo\n").await?;
            let mut line = String::new();
            timeout(Duration::from_secs(2), stream.read_line(&mut line)).await??;
            anyhow::Ok((migrant, stream, line))
        });
        let (migrant, stream, line) = opened?;
        let identity = Identity::parse(line.trim_end()).unwrap();
        Ok(Self { runtime, client: client.clone(), migrant, stream, vip, identity })
    }

    fn pod(&self) -> &str {
        &self.identity.server.pod
    }

    /// Asks who answers, after a move if there is to be one.
    fn ask(&mut self, migrates: bool) {
        let before = self.migrant.address().unwrap();
        let Self { runtime, client, migrant, stream, .. } = self;
        let line = run_in(client, runtime, async {
            if migrates {
                migrant.migrate(before.ip()).unwrap();
            }
            stream.write_all(b"who?\n").await.unwrap();
            let mut line = String::new();
            timeout(PATIENCE, stream.read_line(&mut line)).await.expect("an answer").unwrap();
            line
        });
        assert_eq!(line.trim_end(), format!("who? {}", self.identity));
        assert_eq!(self.migrant.address().unwrap() != before, migrates);
    }

    /// What the first gateway says of the connection, by the address that its client has now.
    fn explained(&self, served: &Served) -> Value {
        let from = SocketAddr::new(self.from(), self.migrant.address().unwrap().port());
        let to = format!("{}/udp", SocketAddr::new(self.vip, 443));
        served.gateway().ask(&["explain", &from.to_string(), &to]).unwrap()
    }

    fn from(&self) -> IpAddr {
        self.client.addresses().into_iter().find(|ip| ip.is_ipv4() == self.vip.is_ipv4()).unwrap()
    }
}

fn named(served: &Served) -> u64 {
    let told = served.gateway().ask(&["flows", "shop/web"]).unwrap();
    let events = told["events"].as_array().unwrap();
    let named = events.iter().find(|event| event["event"] == "named_server");
    named.map_or(0, |event| event["packets"].as_u64().unwrap())
}

#[test]
fn a_client_that_migrates_stays_with_its_server_whatever_becomes_of_slots_and_gateways() {
    let plan = Plan { servers: Servers::Lasting, ..Plan::small() };
    let service = ServiceSpec::new("web", 1).quic();
    let served = Served::with(&plan, &Federation::default(), service.clone(), |world| {
        world.add_service(&service).unwrap();
    });
    let vips = service.vips;
    for &vip in &vips {
        wait("QUIC", || Kept::open(served.client(), vip).is_ok());
    }
    // Each endpoint's server IDs are said, for either IP version.
    let told = served.gateway().ask(&["backends", "shop/web"]).unwrap();
    for row in told["services"].as_array().unwrap() {
        for endpoint in row["endpoints"].as_array().unwrap() {
            let pod = served.world.pod(endpoint["pod"].as_str().unwrap());
            let ids = endpoint["server_ids"].as_array().unwrap();
            let expected: Vec<_> = if row["port"] == 443 {
                pod.addresses().map(|address| ServerId::of(address).to_string()).into()
            } else {
                vec![]
            };
            assert!(
                ids.len() == expected.len() && expected.iter().all(|id| ids.contains(&id.as_str().into())),
                "{row:#}"
            );
        }
    }
    let mut kept: Vec<Kept> = vips.iter().map(|&vip| Kept::open(served.client(), vip).unwrap()).collect();
    let pod = kept[0].pod().to_owned();
    while kept[1].pod() != pod {
        kept[1] = Kept::open(served.client(), vips[1]).unwrap();
    }
    kept.iter_mut().for_each(|kept| kept.ask(true));
    assert!(named(&served) > 0);

    // It takes no new connections: slots have the other one.
    let manifests = served.world.manifests(CLUSTER);
    manifests.set(&pod, Condition::Terminating).unwrap();
    wait("other slots", || {
        let told = served.gateway().ask(&["backends", "shop/web"]).unwrap();
        let ports = told["services"].as_array().unwrap().iter();
        let mut endpoints = ports.flat_map(|port| port["endpoints"].as_array().unwrap());
        endpoints.all(|endpoint| endpoint["pod"] != pod.as_str() || endpoint["slots"] == 0)
    });
    for kept in &mut kept {
        kept.ask(false);
        kept.ask(true);
        assert_ne!(
            kept.explained(&served)["backend"]["pod"],
            pod.as_str(),
            "by its flow it would go elsewhere"
        );
        assert_ne!(Kept::open(served.client(), kept.vip).unwrap().pod(), pod, "what is new goes elsewhere");
    }

    // It leaves its slices.
    manifests.remove(&pod).unwrap();
    wait("that it lingers", || {
        served.gateway().ask(&["backends", "shop/web"]).unwrap().to_string().contains("lingering")
    });
    kept.iter_mut().for_each(|kept| kept.ask(true));

    // A gateway that has never heard of it, but by what its receiver announces.
    let agent = served.gateway();
    agent.process().kill().unwrap();
    agent.remove_pins().unwrap();
    std::fs::remove_dir_all(agent.configuration().with_file_name("state")).unwrap();
    agent.process().start_again().unwrap();
    agent.wait_until_ready(PATIENCE).unwrap();
    wait("the announcement", || {
        served.gateway().ask(&["backends", "shop/web"]).unwrap().to_string().contains("lingering")
    });
    for kept in &mut kept {
        kept.ask(true);
        kept.ask(true);
    }
    assert!(named(&served) > 0);
}
