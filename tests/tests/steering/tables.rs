//! The pinned tables as others on the machine see them: read by bpftool, and changed by a stranger.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use aya::maps::{Array, HashMap, Map, MapData};
use fairlead::dataplane::Instance;
use fairlead_abi::{Delivery, DeliveryKey, Slot, map};
use fairlead_tests::world::{Agent, Federation, PINS, Plan};
use serde_json::json;

use crate::served::{Served, wait};

fn table(agent: &Agent, name: &str) -> Map {
    Map::from_map_data(MapData::from_pin(Instance::new(agent.instance()).maps().join(name)).unwrap()).unwrap()
}

#[test]
fn what_a_stranger_changes_is_repaired() {
    let served = Served::build(&Plan::small(), &Federation::default());
    served.wait_until_served();
    let (gateway, node) = (served.gateway(), served.node(0));
    wait("tables at rest", || gateway.ask(&["plan"]).unwrap()["actions"] == json!([]));
    let fingerprint = || gateway.ask(&["status"]).unwrap()["fingerprint"].clone();
    let before = fingerprint();
    assert_eq!(before["wanted"], before["installed"]);

    // Probes don't notice either of these, so nothing but reading the tables tells the agents.
    let mut slots = Array::<_, Slot>::try_from(table(gateway, map::SLOTS)).unwrap();
    for index in 0..8192 {
        slots.set(index, Slot::new(4000), 0).unwrap();
    }
    let mut deliveries = HashMap::<_, DeliveryKey, Delivery>::try_from(table(node, map::DELIVERIES)).unwrap();
    let udp: Vec<_> = deliveries.iter().map(Result::unwrap).filter(|(key, _)| key.protocol == 17).collect();
    assert_eq!(udp.len(), 8, "two pods, by two addresses each, for two VIPs");
    for (key, _) in &udp {
        deliveries.remove(key).unwrap();
    }
    assert_ne!(fingerprint()["installed"], before["installed"]);
    let vip = served.service.vips[0];
    served.ask(vip).unwrap_err();

    wait("the same deliveries", || {
        udp.iter().all(|(key, value)| deliveries.get(key, 0).is_ok_and(|v| v == *value))
    });
    wait("the same slots", || fingerprint() == before);
    assert_eq!(served.answering(), served.pods());
    for &vip in &served.service.vips {
        let echo = served.client().datagram(SocketAddr::new(vip, served.service.udp_port), b"ahoy").unwrap();
        assert!(echo.ends_with(b"ahoy"));
    }
}

#[test]
fn bpftool_prints_names() {
    let served = Served::build(&Plan::small(), &Federation::default());
    served.wait_until_served();
    let agent = served.gateway();
    let bpftool = |words: &[&str], pin: &PathBuf, more: &[&str]| {
        let pin = pin.display().to_string();
        let arguments = [words, &["pinned", &pin], more].concat();
        served.world.namespace(agent.host()).unwrap().command("bpftool", &arguments).unwrap()
    };
    let maps = Instance::new(agent.instance()).maps();
    let rows: [(&str, &[&str]); 2] = [
        (map::SERVICES, &["vip", "port", "protocol", "id", "ring", "backends"]),
        (map::BACKENDS, &["outer", "hop", "mtu", "encap"]),
    ];
    for (map, names) in rows {
        let text = bpftool(&["map", "dump"], &maps.join(map), &[]);
        for name in names {
            assert!(text.contains(&format!("\"{name}\": ")), "{name} is not in {map}: {text:.2000}");
        }
    }
    let drops = bpftool(&["map", "lookup"], &maps.join(map::DROPS), &["key", "5", "0", "0", "0"]);
    assert!(drops.contains("\"packets\": ") && drops.contains("\"bytes\": "), "{drops}");

    let pins = fs::read_dir(PathBuf::from(PINS).join(agent.instance())).unwrap();
    let mut links = pins.map(|pin| pin.unwrap().path());
    let is_ingress =
        |pin: &PathBuf| pin.file_name().unwrap().to_string_lossy().starts_with("link-eth0-ingress-");
    let link = bpftool(&["link", "show"], &links.find(is_ingress).unwrap(), &[]);
    assert!(link.contains("xdp") && link.contains("prog"), "{link}");
}
