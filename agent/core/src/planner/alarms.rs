//! What a plan decided against the signals it was given, and people should hear of.
//!
//! In come planned tables, out go problems for `status`. That endpoints are held is said where that is decided, in the
//! model.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Clash, ServiceTable, ShardReport, ShardState, Tables, Verdict};
use crate::model::{ObjectName, Problem};

impl Tables {
    /// One problem for each service whose probes are not believed, and for each of which all is drained, by name; one for each
    /// cluster that has services of which no probe passes; and one for each server ID that is nobody's.
    #[must_use]
    pub fn alarms(&self) -> Vec<Problem> {
        let mut panics: BTreeMap<&ObjectName, Problem> = BTreeMap::new();
        let mut lost: BTreeMap<&Arc<str>, BTreeSet<&ObjectName>> = BTreeMap::new();
        let mut drained: BTreeMap<&ObjectName, Problem> = BTreeMap::new();
        for table in self.services.values() {
            if is_drained(table) {
                drained.entry(&table.name).or_insert_with(|| nobody(table));
                continue;
            }
            if is_in_panic(table) {
                panics.entry(&table.name).or_insert_with(|| panic(table));
                continue;
            }
            for shard in table.shards.iter().filter(|shard| is_lost(shard)) {
                lost.entry(&shard.cluster).or_default().insert(&table.name);
            }
        }
        let losses = lost.into_iter().map(|(cluster, services)| loss(cluster, &services));
        let clashes =
            self.services.values().flat_map(|table| table.clashes.iter().map(|of| clash(table, of)));
        // Of both families it is told once.
        let clashes: BTreeSet<Problem> = clashes.collect();
        panics.into_values().chain(drained.into_values()).chain(losses).chain(clashes).collect()
    }
}

/// How many endpoints are being emptied.
fn draining(table: &ServiceTable) -> usize {
    table.backends.iter().filter(|backend| backend.verdict == Verdict::Draining).count()
}

/// Whether nobody takes new connections, for want of those that are being emptied.
fn is_drained(table: &ServiceTable) -> bool {
    draining(table) > 0 && table.backends.iter().all(|backend| backend.weight == 0)
}

fn nobody(table: &ServiceTable) -> Problem {
    Problem {
        object: Some(table.name.clone()),
        cluster: None,
        field: "endpoints".to_owned(),
        what: format!(
            "none takes new connections, {} being drained or going away: those to port {} are dropped",
            draining(table),
            table.port
        ),
        hint: Some(
            "`fairlead backends` shows which; `fairlead drain … --undo` lets one serve again".to_owned(),
        ),
    }
}

fn is_lost(shard: &ShardReport) -> bool {
    shard.ready > 0 && shard.usable == 0
}

fn loss(cluster: &Arc<str>, services: &BTreeSet<&ObjectName>) -> Problem {
    let object = services.first().map(|&name| name.clone());
    let others = match services.len() - 1 {
        0 => String::new(),
        1 => ", and those of another service".to_owned(),
        others => format!(", and those of {others} other services"),
    };
    Problem {
        object,
        cluster: Some(Arc::clone(cluster)),
        field: "endpoints".to_owned(),
        what: format!("all that are ready fail their probes{others}: other clusters serve"),
        hint: Some("`fairlead backends` shows which; are the cluster and its nodes up?".to_owned()),
    }
}

fn is_in_panic(table: &ServiceTable) -> bool {
    table.shards.iter().any(|shard| shard.state == ShardState::Panic)
}

fn panic(table: &ServiceTable) -> Problem {
    let ready: u32 = table.shards.iter().map(|shard| shard.ready).sum();
    Problem {
        object: Some(table.name.clone()),
        cluster: None,
        field: "endpoints".to_owned(),
        what: format!(
            "none of {ready} endpoints, or too few, pass their probes at port {}: probes are not believed, and all \
             that are ready serve",
            table.port
        ),
        hint: Some(
            "`fairlead backends` shows which; planner.panicPercent says how few are too few".to_owned(),
        ),
    }
}

fn clash(table: &ServiceTable, of: &Clash) -> Problem {
    let [one, other] = of.addresses;
    Problem {
        object: Some(table.name.clone()),
        cluster: None,
        field: format!("spec.ports[{}].appProtocol", table.port_name),
        what: format!(
            "endpoints {one} and {other} have the same server ID, {}: their packets go by flow",
            of.id
        ),
        hint: Some("give one of them another address".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::{ShardReport, WantedBackend};

    fn table(port: u16, state: ShardState) -> ServiceTable {
        let shard = |cluster: &str, ready, state| ShardReport {
            cluster: cluster.into(),
            distance: crate::planner::Distance::Zone,
            reachable: true,
            endpoints: ready,
            ready,
            usable: ready,
            capacity: None,
            share: crate::planner::Share::WHOLE,
            state,
        };
        ServiceTable {
            name: ObjectName::new("shop", "web"),
            port_name: "http".into(),
            app_protocol: None,
            vip: std::net::IpAddr::from([203, 0, 113, 1]),
            port,
            protocol: Some(crate::model::Protocol::Tcp),
            flags: 0,
            allowed: None,
            backends: Vec::new(),
            server_ids: Vec::new(),
            clashes: Vec::new(),
            ring: Arc::default(),
            ring_hash: 0,
            shards: vec![shard("a", 2, state), shard("b", 1, ShardState::Standby)],
            not_taken: Vec::new(),
        }
    }

    #[test]
    fn a_server_id_of_two_endpoints_is_told_once() {
        let addresses = [[10, 0, 0, 1], [10, 0, 0, 2]].map(std::net::IpAddr::from);
        let clash = Clash { id: crate::model::ServerId([0xab; 8]), addresses };
        let table = |port| ServiceTable { clashes: vec![clash], ..table(port, ShardState::Serving) };
        assert_eq!(
            alarms(&[table(443), table(444)]),
            [
                "Service shop/web: spec.ports[http].appProtocol: endpoints 10.0.0.1 and 10.0.0.2 have the same server ID, \
              abababababababab: their packets go by flow (give one of them another address)"
            ]
        );
    }

    fn alarms(tables: &[ServiceTable]) -> Vec<String> {
        let services = tables.iter().map(|table| (table.key(), Arc::new(table.clone()))).collect();
        Tables { services, ..Tables::default() }.alarms().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn that_nobody_serves_because_all_is_drained_is_told_once() {
        let backend = |last, weight, verdict| WantedBackend {
            outer: [10, 0, 0, last].into(),
            endpoint: [10, 0, 0, last].into(),
            port: 80,
            encap: fairlead_abi::Encap::Ipip,
            weight,
            shard: 0,
            pod: "p".into(),
            node: "n".into(),
            verdict,
        };
        let told = |backends: &[WantedBackend]| {
            let of = |port| ServiceTable { backends: backends.to_vec(), ..table(port, ShardState::Standby) };
            alarms(&[of(80), of(81)])
        };
        let (one, two) = (backend(1, 0, Verdict::Draining), backend(2, 0, Verdict::Draining));
        assert_eq!(
            told(&[one.clone(), two, backend(3, 0, Verdict::Lingering)]),
            [
                "Service shop/web: endpoints: none takes new connections, 2 being drained or going away: those to port 80 are \
                 dropped (`fairlead backends` shows which; `fairlead drain … --undo` lets one serve again)"
            ]
        );
        assert_eq!(told(&[one, backend(2, 1, Verdict::Taken)]), Vec::<String>::new());
        assert_eq!(told(&[backend(3, 0, Verdict::Lingering)]), Vec::<String>::new());
    }

    #[test]
    fn a_panic_is_told_once_for_each_service() {
        let told = alarms(&[table(80, ShardState::Panic), table(443, ShardState::Panic)]);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].starts_with("Service shop/web: endpoints: none of 3 endpoints, or too few, pass"),
            "{told:?}"
        );
        assert_eq!(alarms(&[table(80, ShardState::Serving)]), Vec::<String>::new());
    }

    #[test]
    fn a_cluster_that_answers_no_probes_is_told_once() {
        let lost = |service: &str, state| {
            let port = 80 + u16::try_from(service.len()).unwrap();
            let mut table = table(port, state);
            table.name = ObjectName::new("shop", service);
            table.shards[0].usable = 0;
            table
        };
        let down = ShardState::Standby;
        assert_eq!(
            alarms(&[lost("web", down), table(443, down)])[0],
            "cluster a: Service shop/web: endpoints: all that are ready fail their probes: other clusters serve \
             (`fairlead backends` shows which; are the cluster and its nodes up?)"
        );
        let told = alarms(&[lost("dns", down), lost("mail", down), lost("store", down)]);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains(
            "Service shop/dns: endpoints: all that are ready fail their probes, and those of 2 other"
        ));
        let panic = alarms(&[lost("web", ShardState::Panic)]);
        assert_eq!((panic.len(), panic[0].contains("cluster a")), (1, false), "{panic:?}");
    }
}
