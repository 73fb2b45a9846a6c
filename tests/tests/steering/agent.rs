//! Agents that die, restart, and stand in each other's way.

use std::time::Duration;

use fairlead_tests::world::{Federation, Plan};

use crate::served::Served;

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
    let agent = served.gateway();
    let config = agent.configuration().to_str().unwrap().to_owned();
    let text = std::fs::read_to_string(&config).unwrap();
    let elsewhere = format!("{config}.elsewhere.yaml");
    std::fs::write(&elsewhere, text.replace("/state\n", "/elsewhere\n")).unwrap();
    for config in [config, elsewhere] {
        let error = agent.fairlead(&["run", "--config", &config]).unwrap_err();
        assert!(format!("{error:#}").contains("is already run by another agent"), "{error:#}");
    }
}
