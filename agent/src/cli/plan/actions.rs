//! The actions of a plan as rows: what is written, for which service or address, and where.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use fairlead_abi::{Address, Backend, DeliveryKey, ServiceKey};
use fairlead_core::model::{Protocol, ServerId};
use fairlead_core::planner::{Action, Installed, Tables};

use super::Row;
use crate::status::Status;
use crate::text::counted;

/// Keys to names.
pub(super) type Names = BTreeMap<ServiceKey, String>;

pub(super) fn names(tables: &Tables, status: Option<&Status>) -> Names {
    let said = status.into_iter().flat_map(|status| status.services.iter());
    let planned = tables.services.values();
    said.chain(planned).map(|table| (table.key(), table.name.to_string())).collect()
}

/// `shop/web 203.0.113.10:80/tcp`.
fn subject(key: &ServiceKey, names: &Names) -> String {
    let address: IpAddr = key.vip.into();
    let place = match Protocol::of(key.protocol) {
        Some(protocol) => format!("{}/{protocol}", SocketAddr::new(address, key.port)),
        None => format!("VIP {address}"),
    };
    match names.get(key) {
        Some(name) => format!("{name} {place}"),
        None => place,
    }
}

/// In the order of `actions`.
pub(super) fn rows(actions: &[Action], installed: &Installed, names: &Names) -> Vec<Row> {
    // Entries as they stand, and as the plan's own publications put them.
    let mut entries: BTreeMap<(u32, usize), ServiceKey> =
        installed.services().map(|(key, bucket, entry, _)| ((bucket, entry), key)).collect();
    let mut rows = Vec::with_capacity(actions.len());
    for action in actions {
        if let Action::PublishEntry { bucket, entry, value, .. } = action
            && let Some(key) = value.key()
        {
            entries.insert((*bucket, *entry), key);
        }
        let at = |bucket: u32, entry: usize| {
            entries.get(&(bucket, entry)).map_or_else(String::new, |key| subject(key, names))
        };
        rows.push(row(action, at));
    }
    rows
}

fn row(action: &Action, at: impl Fn(u32, usize) -> String) -> Row {
    let (name, subject, place, detail) = match action {
        Action::WriteHop { index, hop } => (
            "write hop",
            mac(hop.destination_mac),
            format!("HOPS {index}"),
            format!("interface {}", hop.ifindex),
        ),
        Action::ClearBackendCounters { first, count } => {
            ("clear counters", String::new(), format!("BACKEND_COUNTERS {first}"), counted(*count, "backend"))
        }
        Action::WriteBackend { index, backend } => {
            ("write backend", ip(backend.outer), format!("BACKENDS {index}"), hop_text(backend))
        }
        Action::SetBackendHop { index, backend } => {
            ("set next hop", ip(backend.outer), format!("BACKENDS {index}"), hop_text(backend))
        }
        Action::WriteSlots { first, slots } => {
            ("write slots", String::new(), format!("SLOTS {first}"), counted(slots.len() as u64, "slot"))
        }
        Action::SetSlot { index, .. } => {
            ("set slot", String::new(), format!("SLOTS {index}"), "another former backend".to_owned())
        }
        Action::ClearServiceCounters { id } => {
            ("clear counters", String::new(), format!("SERVICE_COUNTERS {id}"), String::new())
        }
        Action::SetOverflowed { bucket, value } => {
            let detail = if *value == 0 { "nothing stands further on" } else { "keys may stand further on" };
            ("mark bucket", String::new(), format!("SERVICES {bucket}"), detail.to_owned())
        }
        Action::PublishEntry { bucket, entry, value, .. } => (
            "publish service",
            at(*bucket, *entry),
            format!("SERVICES {bucket}.{entry}"),
            format!("id {}, ring of {}", value.id, value.ring.size),
        ),
        Action::SwitchRing { bucket, entry, ring } => (
            "switch ring",
            at(*bucket, *entry),
            format!("SERVICES {bucket}.{entry}"),
            format!("ring of {} at {}", ring.size, ring.first_slot),
        ),
        Action::SetEntryFlags { bucket, entry, flags } => {
            ("set flags", at(*bucket, *entry), format!("SERVICES {bucket}.{entry}"), format!("{flags:#x}"))
        }
        Action::PutServerId { key, server } => (
            "put server ID",
            ServerId(key.id).to_string(),
            "SERVER_IDS".to_owned(),
            format!("BACKENDS {}", server.backend),
        ),
        Action::RemoveServerId { key } => {
            ("remove server ID", ServerId(key.id).to_string(), "SERVER_IDS".to_owned(), String::new())
        }
        Action::PutRange { service, range } => {
            ("allow clients", range.to_string(), "ALLOWED".to_owned(), format!("id {service}"))
        }
        Action::RemoveRange { service, range } => {
            ("allow no longer", range.to_string(), "ALLOWED".to_owned(), format!("id {service}"))
        }
        Action::PutDelivery { key, delivery } => {
            ("put delivery", ip(key.outer), "DELIVERIES".to_owned(), delivery_text(key, delivery.port))
        }
        Action::RemoveDelivery { key } => {
            ("remove delivery", ip(key.outer), "DELIVERIES".to_owned(), delivery_text(key, [0; 2]))
        }
        Action::PutGateway { prefix } => {
            ("put gateway", prefix.to_string(), "GATEWAYS".to_owned(), String::new())
        }
        Action::RemoveGateway { prefix } => {
            ("remove gateway", prefix.to_string(), "GATEWAYS".to_owned(), String::new())
        }
        Action::UnpublishEntry { bucket, entry } => {
            ("remove service", at(*bucket, *entry), format!("SERVICES {bucket}.{entry}"), String::new())
        }
        Action::ClearBackend { index } => {
            ("clear backend", String::new(), format!("BACKENDS {index}"), String::new())
        }
        Action::ClearHop { index } => ("clear hop", String::new(), format!("HOPS {index}"), String::new()),
    };
    Row { action: name, subject, place, detail }
}

fn ip(address: Address) -> String {
    IpAddr::from(address).to_string()
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

fn hop_text(backend: &Backend) -> String {
    match backend.hop {
        0 => "next hop not known".to_owned(),
        hop => format!("hop {hop}, MTU {}", backend.mtu),
    }
}

fn delivery_text(key: &DeliveryKey, port: [u8; 2]) -> String {
    if key.protocol == 0 {
        return "an endpoint of this node".to_owned();
    }
    let vip = SocketAddr::new(key.vip.into(), u16::from_be_bytes(key.port));
    match u16::from_be_bytes(port) {
        0 => vip.to_string(),
        port => format!("{vip} to port {port}"),
    }
}

#[cfg(test)]
mod tests {
    use fairlead_abi::{Family, Hop, Ring, ServiceEntry};

    use super::*;
    use crate::cli::sample::Sample;

    fn told(action: &Action) -> String {
        let Row { action, subject, place, detail } = row(action, |_, _| "shop/web".to_owned());
        format!("{action} | {subject} | {place} | {detail}")
    }

    #[test]
    fn actions_are_told_with_their_place() {
        let backend = Backend {
            outer: Address::v4([10, 2, 0, 1]),
            hop: 3,
            mtu: 1500,
            encap: 1,
            family: Family::V4 as u8,
        };
        let hop = Hop { destination_mac: [2, 0, 0, 0, 0, 10], ifindex: 7, ..Hop::default() };
        let ring = Ring { first_slot: 502, size: 251 };
        for (action, expected) in [
            (Action::WriteHop { index: 3, hop }, "write hop | 02:00:00:00:00:0a | HOPS 3 | interface 7"),
            (
                Action::WriteBackend { index: 9, backend },
                "write backend | 10.2.0.1 | BACKENDS 9 | hop 3, MTU 1500",
            ),
            (
                Action::SetBackendHop { index: 9, backend: Backend { hop: 0, ..backend } },
                "set next hop | 10.2.0.1 | BACKENDS 9 | next hop not known",
            ),
            (
                Action::SwitchRing { bucket: 5, entry: 1, ring },
                "switch ring | shop/web | SERVICES 5.1 | ring of 251 at 502",
            ),
            (
                Action::PutGateway { prefix: "192.0.2.0/28".parse().unwrap() },
                "put gateway | 192.0.2.0/28 | GATEWAYS | ",
            ),
        ] {
            assert_eq!(told(&action), expected);
        }
    }

    #[test]
    fn what_is_published_and_switched_is_named() {
        let sample = Sample::new();
        let installed = sample.picture().installed;
        let names: Names = sample.tables.iter().map(|table| (table.key(), table.name.to_string())).collect();
        let (key, bucket, entry, _) = installed.services().find(|(key, ..)| key.port == 80).unwrap();
        let new = ServiceKey::new(Address::v4([203, 0, 113, 99]), 443, 6, Family::V4);
        let value = ServiceEntry {
            vip: new.vip,
            port: new.port.to_be_bytes(),
            protocol: 6,
            family: 4,
            id: 9,
            ..ServiceEntry::default()
        };
        let actions = [
            Action::SwitchRing { bucket, entry, ring: Ring::default() },
            Action::PublishEntry { bucket: 60, entry: 2, value, room: 4 },
        ];
        let subjects: Vec<String> =
            rows(&actions, &installed, &names).into_iter().map(|row| row.subject).collect();
        assert_eq!(subjects, ["shop/web 203.0.113.10:80/tcp", "203.0.113.99:443/tcp"]);
        assert_eq!(subject(&ServiceKey::vip_only(key.vip, Family::V4), &Names::new()), "VIP 203.0.113.10");
    }
}
