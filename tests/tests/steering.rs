//! One VIP, served by agents on gateways and nodes: real packets through real programs, seen from the client.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use fairlead_tests::client::Client;
use fairlead_tests::world::{Agents, Federation, Plan, ServiceSpec, World, bpf_elf};

/// A world with a service and its agents. The agents go before the world that they live in.
struct Served {
    agents: Agents,
    world: World,
    service: ServiceSpec,
}

impl Served {
    fn build(plan: &Plan, federation: &Federation) -> Self {
        let world = World::build(plan).unwrap();
        let service = ServiceSpec::new("web", 1);
        world.add_service(&service).unwrap();
        let gateways: Vec<_> = world.layout.gateways.iter().map(|host| host.name.as_str()).collect();
        world.attach_pass(&bpf_elf().unwrap(), &gateways).unwrap();
        let agents = Agents::start(&world, federation).unwrap();
        Self { agents, world, service }
    }

    fn client(&self) -> &Client {
        &self.world.clients()[0]
    }

    fn url(&self, vip: IpAddr, path: &str) -> String {
        format!("http://{}{path}", SocketAddr::new(vip, self.service.http_port))
    }

    /// Who answers a new connection to the VIP.
    fn ask(&self, vip: IpAddr) -> anyhow::Result<String> {
        Ok(self.client().get(&self.url(vip, "/"))?.text())
    }

    /// Waits until `holds`, and fails after some seconds.
    fn wait(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(Instant::now() < deadline, "{what} did not come about");
        }
    }

    fn wait_until_served(&self) {
        for &vip in &self.service.vips {
            self.wait("an answer", || self.ask(vip).is_ok());
        }
    }

    /// The pods that answer 60 new connections to each VIP.
    fn answering(&self) -> BTreeSet<String> {
        let answers = self.service.vips.iter().flat_map(|&vip| (0..60).map(move |_| self.ask(vip).unwrap()));
        answers.map(|answer| answer.trim().rsplit('=').next().unwrap().to_owned()).collect()
    }
}

#[test]
fn every_pod_answers_for_the_vip_over_both_families_and_protocols() {
    let served = Served::build(&Plan::small(), &Federation::default());
    served.wait_until_served();
    let pods: BTreeSet<_> = served.world.pods().iter().map(|pod| pod.name().to_owned()).collect();
    assert_eq!(served.answering(), pods);
    for &vip in &served.service.vips {
        let echo = served.client().datagram(SocketAddr::new(vip, served.service.udp_port), b"ahoy").unwrap();
        assert!(echo.ends_with(b"ahoy"));
    }
}

#[test]
fn full_size_segments_pass_in_both_directions() {
    for encapsulation in ["ipip", "gue"] {
        let federation = Federation { encapsulation: encapsulation.to_owned(), ..Federation::default() };
        let served = Served::build(&Plan::small(), &federation);
        served.wait_until_served();
        let pattern: Vec<u8> = (0..=u8::MAX).cycle().take(1_048_576).collect();
        for &vip in &served.service.vips {
            assert_eq!(served.client().get(&served.url(vip, "/bytes/1048576")).unwrap().body, pattern);
            let answer = served.client().post(&served.url(vip, "/upload"), &pattern).unwrap();
            assert!(answer.text().ends_with("received=1048576\n"), "{encapsulation}: {}", answer.text());
        }
    }
}

#[test]
fn a_dead_pod_gets_no_new_connections_within_a_second() {
    let served = Served::build(&Plan::small(), &Federation::default());
    served.wait_until_served();
    let pod = served.world.pods()[0].name().to_owned();
    served.world.pod(&pod).kill().unwrap();
    let survivor = BTreeSet::from([served.world.pods()[1].name().to_owned()]);
    let answers_only = |vip: IpAddr| {
        (0..40).all(|_| {
            served.ask(vip).is_ok_and(|answer| survivor.contains(answer.trim().rsplit('=').next().unwrap()))
        })
    };
    for &vip in &served.service.vips {
        served.wait("the other pod alone", || answers_only(vip));
    }
    served.world.pod(&pod).start_again().unwrap();
    served.wait("both pods", || served.answering().len() == 2);
}

#[test]
fn forwarding_goes_on_while_agents_are_dead_and_come_back() {
    let mut served = Served::build(&Plan::small(), &Federation::default());
    served.wait_until_served();
    for agent in served.agents.iter() {
        agent.process().kill().unwrap();
    }
    assert_eq!(served.answering().len(), 2);
    for agent in served.agents.iter_mut() {
        agent.process().start_again().unwrap();
    }
    for agent in served.agents.iter() {
        agent.wait_until_ready(Duration::from_secs(30)).unwrap();
    }
    assert_eq!(served.answering().len(), 2);
}

#[test]
fn a_second_agent_on_an_instance_is_refused() {
    let served = Served::build(&Plan::small(), &Federation::default());
    let gateway = served.world.layout.gateways[0].name.clone();
    let agent = served.agents.of(&gateway);
    let config = agent.configuration().to_str().unwrap().to_owned();
    let text = std::fs::read_to_string(&config).unwrap();
    let elsewhere = format!("{config}.elsewhere.yaml");
    std::fs::write(&elsewhere, text.replace("/state\n", "/elsewhere\n")).unwrap();
    for config in [config, elsewhere] {
        let error = agent.fairlead(&["run", "--config", &config]).unwrap_err();
        assert!(format!("{error:#}").contains("is already run by another agent"), "{error:#}");
    }
}

#[test]
fn explain_names_the_pod_that_answers() {
    let served = Served::build(&Plan::small(), &Federation::default());
    served.wait_until_served();
    let gateway = served.world.layout.gateways[0].name.clone();
    let agent = served.agents.of(&gateway);
    for &vip in &served.service.vips {
        for _ in 0..10 {
            let stream = served
                .world
                .namespace(served.client().name())
                .unwrap()
                .run(move || Ok(TcpStream::connect((vip, 80))?))
                .unwrap();
            let from = stream.local_addr().unwrap();
            let to = SocketAddr::new(vip, 80);
            let told = agent.ask(&["explain", &from.to_string(), &to.to_string()]).unwrap();
            let answered = answered_by(stream);
            assert_eq!(told["backend"]["pod"], answered, "{told}");
        }
    }
}

/// The pod behind a connection.
fn answered_by(mut stream: TcpStream) -> String {
    use std::io::{Read, Write};
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\nHost: vip\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.trim().rsplit('=').next().unwrap().to_owned()
}
