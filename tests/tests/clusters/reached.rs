//! A control plane in a world, reached from other hosts of it.

use std::fs;

use fairlead_tests::control_plane::{ControlPlane, Place, User, Wanted};
use fairlead_tests::world::{Plan, World};

#[test]
fn gateways_reach_it_by_both_families_unless_the_link_is_cut() {
    let world = World::build(&Plan::small().control_planes()).unwrap();
    let host = "api-us-central1-a";
    let place = Place::on_host(&world, host).unwrap();
    let plane = ControlPlane::start(&place, &Wanted::new("us-central1-a")).unwrap();
    let authority = world.directory().join("ca.crt");
    fs::write(&authority, plane.authority()).unwrap();
    let gateway = world.namespace("gateway-us-central1-1").unwrap();
    let ask = |server: &str| {
        let authority = authority.display().to_string();
        let url = format!("https://{server}/readyz");
        gateway.command("curl", &["--silent", "--max-time", "2", "--cacert", &authority, &url])
    };
    let servers: Vec<String> = plane.servers().iter().map(ToString::to_string).collect();
    let [v4, v6] = &servers[..] else { panic!("{servers:?}") };
    assert!(v4.starts_with("198.51.100.") && v6.starts_with("[2001:db8:1000:"), "{servers:?}");
    for server in [v4, v6] {
        assert_eq!(ask(server).unwrap(), "ok", "{server}");
    }
    // A kubeconfig for the second one is as good as that for the first.
    let second = plane.kubeconfig_at(plane.servers()[1], &User::admin()).unwrap();
    let second = plane.write_kubeconfig("second.kubeconfig", &second).unwrap();
    assert_eq!(plane.kubectl_as(&second, &["get", "--raw=/readyz"]).unwrap(), "ok");

    world.cut(host).unwrap();
    for server in [v4, v6] {
        assert!(ask(server).is_err(), "{server}");
    }
    // Where it is itself, nothing has changed.
    assert!(plane.kubectl(&["get", "namespaces", "--output=name"]).unwrap().contains("namespace/default"));
    world.restore(host).unwrap();
    for server in [v4, v6] {
        assert_eq!(ask(server).unwrap(), "ok", "{server}");
    }
}
