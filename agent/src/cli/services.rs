//! `fairlead services` and `fairlead backends`.

use anyhow::{Result, anyhow, bail};
use fairlead_core::model::Problem;
use ipnet::IpNet;
use serde::Serialize;

use super::address::Named;
use super::explain::fitting;
use super::node::{Freshness, Node};
use super::output::Output;
use super::picture::{Numbers, Picture, Service};
use super::row::{BackendRow, ServiceRow, backend_table, percent};
use super::table::{Cell, Style, Table};
use crate::text::nearest;

/// What `fairlead services` shows.
#[derive(Serialize)]
struct Services {
    #[serde(flatten)]
    freshness: Freshness,
    services: Vec<ServiceRow>,
    /// What services ask for that has no effect here: nothing is wrong.
    notes: Vec<Problem>,
}

const NO_SERVICE: &str = "no service is steered here\n";

/// Shows the ports of all VIPs.
pub(super) fn services(node: &Node, output: Output) -> Result<()> {
    let (view, numbers) = (node.view()?, node.counters()?);
    let picture = node.picture(&view)?;
    let notes = node.status.as_ref().map(|status| status.notes.clone()).unwrap_or_default();
    let mut document = Services { freshness: node.freshness(), services: Vec::new(), notes };
    for service in picture.services() {
        document.services.push(ServiceRow::new(&service, &numbers)?);
    }
    Ok(output.show(&document, |document, colour| {
        let footer = Style::Dim.paint(&document.freshness.line(), colour);
        if document.services.is_empty() {
            return NO_SERVICE.to_owned() + &footer;
        }
        let notes = document.notes.iter().map(|note| format!("note: {note}\n")).collect::<String>();
        service_table(&document.services, colour) + &Style::Dim.paint(&notes, colour) + &footer
    })?)
}

fn service_table(rows: &[ServiceRow], colour: bool) -> String {
    let mut table = Table::new(&[
        "SERVICE",
        "VIP",
        "PORT",
        "NAME",
        ">BACKENDS",
        ">RING",
        ">CONNECTIONS",
        ">PACKETS",
        "SERVED BY",
    ]);
    let mut notes = String::new();
    for row in rows {
        let taking = match row.backends {
            0 => "none".to_owned(),
            backends => format!("{} of {backends}", row.taking),
        };
        let style = if row.taking == 0 { Style::Bad } else { Style::Plain };
        let name = row.port_name.as_ref().filter(|name| !name.is_empty());
        table.row(vec![
            Cell::maybe(row.service.as_ref()),
            Cell::new(row.vip),
            Cell::new(format!("{}/{}", row.port, row.protocol)),
            Cell::maybe(name),
            Cell::new(taking).style(style),
            Cell::new(row.ring_size),
            Cell::new(row.connections),
            Cell::new(row.packets),
            served_by(row),
        ]);
        if let Some(allowed) = &row.allowed {
            let line =
                format!("{} port {}/{} lets in {}\n", row.vip, row.port, row.protocol, clients(allowed));
            notes += &line;
        }
        for difference in &row.differences {
            let line = format!("{} port {}/{}: {difference}\n", row.vip, row.port, row.protocol);
            notes += &Style::Warning.paint(&line, colour);
        }
    }
    table.render(colour) + &notes
}

/// Who is let in, in words.
fn clients(allowed: &[IpNet]) -> String {
    if allowed.is_empty() {
        return "nobody".to_owned();
    }
    let ranges: Vec<String> = allowed.iter().map(ToString::to_string).collect();
    format!("only {}", ranges.join(", "))
}

/// How wide a list of clusters is before it goes on below.
const LIST: usize = 64;

fn served_by(row: &ServiceRow) -> Cell {
    if row.served_by.is_empty() {
        let why = if row.backends == 0 { "nobody, it has no backend" } else { "nobody, no backend is taken" };
        return Cell::new(why).style(Style::Bad);
    }
    let part = |part: &super::row::ClusterShare| {
        format!("{} {}", part.cluster.as_deref().unwrap_or("(unknown)"), percent(part.share))
    };
    Cell::list(&row.served_by.iter().map(part).collect::<Vec<_>>(), LIST)
}

/// What `fairlead backends` shows.
#[derive(Serialize)]
struct Backends {
    #[serde(flatten)]
    freshness: Freshness,
    services: Vec<Backed>,
}

#[derive(Serialize)]
struct Backed {
    #[serde(flatten)]
    service: ServiceRow,
    #[serde(rename = "endpoints")]
    rows: Vec<BackendRow>,
}

/// Shows the endpoints of all services, or of those that `filter` means.
pub(super) fn backends(node: &Node, filter: Option<&Named>, output: Output) -> Result<()> {
    let (view, numbers) = (node.view()?, node.counters()?);
    let picture = node.picture(&view)?;
    let all = picture.services();
    let mut document = Backends { freshness: node.freshness(), services: Vec::new() };
    for service in chosen(&picture, &all, filter)? {
        document.services.push(backed(&picture, service, &numbers)?);
    }
    Ok(output.show(&document, |document, colour| {
        let footer = Style::Dim.paint(&document.freshness.line(), colour);
        if document.services.is_empty() {
            return NO_SERVICE.to_owned() + &footer;
        }
        document.services.iter().map(|backed| backed.text(colour)).collect::<String>() + &footer
    })?)
}

fn backed(picture: &Picture<'_>, service: &Service<'_>, numbers: &impl Numbers) -> Result<Backed> {
    let rows = BackendRow::all(picture, service, numbers)?;
    Ok(Backed { service: ServiceRow::new(service, numbers)?, rows })
}

impl Backed {
    fn text(&self, colour: bool) -> String {
        let row = &self.service;
        let name = row.service.as_deref().unwrap_or("(unknown)");
        let address = std::net::SocketAddr::new(row.vip, row.port);
        let title = format!("{name} {address}/{}, ring of {} slots", row.protocol, row.ring_size);
        let mut text = Style::Bold.paint(&title, colour) + "\n";
        if let Some(config) = row.quic_config {
            text += &format!("  QUIC by server IDs, in connection IDs of configuration {config}\n");
        }
        if let Some(allowed) = &row.allowed {
            text += &format!("  lets in {}\n", clients(allowed));
        }
        for difference in &row.differences {
            text += &(Style::Warning.paint(&format!("  {difference}"), colour) + "\n");
        }
        if self.rows.is_empty() {
            return text + "  no endpoint\n\n";
        }
        text + &backend_table(&self.rows, colour) + "\n"
    }
}

/// Those that are named; all where nothing is said.
pub(super) fn chosen<'s, 'a>(
    picture: &Picture<'_>,
    all: &'s [Service<'a>],
    filter: Option<&Named>,
) -> Result<Vec<&'s Service<'a>>> {
    let name = match filter {
        None => return Ok(all.iter().collect()),
        Some(Named::Vip(vip)) => return fitting(picture, all, *vip).map_err(|why| anyhow!(why)),
        Some(Named::Name(name)) => name,
    };
    let is_meant = |service: &&Service<'_>| {
        service.table.is_some_and(|table| *table.name.name == **name || table.name.to_string() == *name)
    };
    let chosen: Vec<&Service<'_>> = all.iter().filter(is_meant).collect();
    if chosen.is_empty() {
        let names: std::collections::BTreeSet<String> = all.iter().filter_map(Service::name).collect();
        match nearest(name, names.iter().map(String::as_str)) {
            Some(near) => bail!("there is no service {name:?}; did you mean {near}?"),
            None => bail!("there is no service {name:?}; see `fairlead services`"),
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use fairlead_core::model::ServerId;

    use super::super::sample::{Fixed, Sample};
    use super::*;

    #[test]
    fn services_are_a_table() {
        let sample = Sample::new();
        let picture = sample.picture();
        let rows: Result<Vec<ServiceRow>> =
            picture.services().iter().map(|service| ServiceRow::new(service, &Fixed)).collect();
        assert_eq!(
            service_table(&rows.unwrap(), false),
            "\
SERVICE   VIP           PORT    NAME  BACKENDS  RING  CONNECTIONS  PACKETS  SERVED BY
shop/dns  203.0.113.11  53/udp  -         none     0         4000    40000  nobody, it has no backend
shop/web  203.0.113.10  80/tcp  http    3 of 5   251         2000    20000  eu-b 100.0 %
"
        );
    }

    #[test]
    fn who_is_let_in_stands_below() {
        let sample = Sample::restricted(&["192.0.2.0/24", "198.51.100.7/32", "2001:db8::/32"]);
        let picture = sample.picture();
        let rows: Result<Vec<ServiceRow>> =
            picture.services().iter().map(|service| ServiceRow::new(service, &Fixed)).collect();
        let rows = rows.unwrap();
        let text = service_table(&rows, false);
        let last = text.lines().last().unwrap();
        assert_eq!(last, "203.0.113.10 port 80/tcp lets in only 192.0.2.0/24, 198.51.100.7/32");
        let json = serde_json::to_value(&rows).unwrap();
        assert_eq!(json[0]["allowed"], serde_json::Value::Null);
        assert_eq!(json[1]["allowed"], serde_json::json!(["192.0.2.0/24", "198.51.100.7/32"]));
        let all = picture.services();
        let chosen = chosen(&picture, &all, Some(&"web".parse().unwrap())).unwrap();
        let text = backed(&picture, chosen[0], &Fixed).unwrap().text(false);
        assert!(text.contains("\n  lets in only 192.0.2.0/24, 198.51.100.7/32\n"), "{text}");
    }

    #[test]
    fn backends_are_listed_with_those_not_taken() {
        let sample = Sample::new();
        let picture = sample.picture();
        let all = picture.services();
        let chosen = chosen(&picture, &all, Some(&"web".parse().unwrap())).unwrap();
        assert_eq!(chosen.len(), 1);
        let backed = backed(&picture, chosen[0], &Fixed).unwrap();
        let slots: u32 = backed.rows.iter().map(|row| row.slots).sum();
        assert_eq!(slots, 251, "every slot is some backend's");
        let text = backed.text(false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "shop/web 203.0.113.10:80/tcp, ring of 251 slots");
        let header = "  ADDRESS   POD  CLUSTER  ZONE  DISTANCE";
        assert!(lines[1].starts_with(header), "{}", lines[1]);
        assert!(lines[2].starts_with("  10.2.0.1  p1   eu-b     b     same zone   65535"), "{}", lines[2]);
        assert!(lines[2].ends_with("         20      201  taken"), "{}", lines[2]);
        assert!(lines[5].ends_with("its probes fail"), "{}", lines[5]);
        assert!(lines[6].ends_with("its node has no receiver"), "{}", lines[6]);
        assert!(lines[7].contains("us-a") && lines[7].ends_with("standby, closer shards have room"));
        assert_eq!(lines[8..], [""], "an empty line between services");
    }

    #[test]
    fn server_ids_are_those_of_the_maps() {
        let mut sample = Sample::quic();
        let text = |sample: &Sample| {
            let picture = sample.picture();
            let all = picture.services();
            backed(&picture, chosen(&picture, &all, Some(&"web".parse().unwrap())).unwrap()[0], &Fixed)
                .unwrap()
        };
        let found = text(&sample);
        let ids: Vec<Vec<String>> =
            found.rows.iter().map(|row| row.server_ids.iter().map(ToString::to_string).collect()).collect();
        let id = |address: &str| ServerId::of(address.parse().unwrap()).to_string();
        assert_eq!(ids[0], [id("10.2.0.1"), id("2001:db8:2::1")], "the one of the VIP's family first");
        assert_eq!(ids[4], [""; 0], "one that is not taken has none");
        let lines = found.text(false);
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(lines[1], "  QUIC by server IDs, in connection IDs of configuration 0");
        assert!(lines[2].starts_with("  ADDRESS   SERVER ID         POD  CLUSTER"), "{}", lines[2]);
        assert!(lines[3].starts_with(&format!("  10.2.0.1  {}  p1 ", id("10.2.0.1"))), "{}", lines[3]);
        assert_eq!(found.service.differences, [""; 0]);
        sample.server_ids.retain(|key, _| ServerId(key.id).to_string() != id("10.2.0.1"));
        let found = text(&sample);
        assert_eq!(found.rows[0].server_ids.len(), 1);
        let expected =
            format!("server ID {} leads to nobody, the agent's state says: to 10.2.0.1", id("10.2.0.1"));
        assert_eq!(found.service.differences, [expected]);
    }

    #[test]
    fn the_closest_backends_stand_first_whatever_their_clusters_are_called() {
        let mut sample = Sample::new();
        for table in &mut sample.tables {
            table
                .shards
                .iter_mut()
                .filter(|shard| &*shard.cluster == "eu-b")
                .for_each(|shard| shard.cluster = "z".into());
        }
        let picture = sample.picture();
        let all = picture.services();
        let rows =
            backed(&picture, chosen(&picture, &all, Some(&"web".parse().unwrap())).unwrap()[0], &Fixed)
                .unwrap()
                .rows;
        let told: Vec<String> = rows
            .iter()
            .map(|row| format!("{} {}", row.cluster.as_deref().unwrap(), row.pod.as_deref().unwrap()))
            .collect();
        assert_eq!(told, ["z p1", "z p2", "z p3", "z p4", "z p5", "us-a p1"]);
    }

    #[test]
    fn many_clusters_and_long_names_fit_on_a_wide_terminal() {
        let mut sample = Sample::new();
        let name = |name: &str| std::sync::Arc::from(name);
        for table in &mut sample.tables {
            table.shards.iter_mut().for_each(|shard| shard.cluster = name("europe-west1-b"));
            table.backends.iter_mut().for_each(|backend| backend.pod = name("pod-europe-west1-b-1"));
            table.not_taken.iter_mut().for_each(|of| of.pod = name("pod-europe-west1-b-1"));
        }
        let picture = sample.picture();
        let all = picture.services();
        let web = chosen(&picture, &all, Some(&"web".parse().unwrap())).unwrap()[0];
        let mut row = ServiceRow::new(web, &Fixed).unwrap();
        let share = super::super::row::ClusterShare { cluster: Some(name("europe-west1-b")), share: 0.111 };
        row.served_by = vec![share; 9];
        let mut backed = backed(&picture, web, &Fixed).unwrap();
        for row in &mut backed.rows {
            // The longest that the demo has.
            row.address = Some("2001:db8:f:21::1234".parse().unwrap());
            row.zone = Some(name("europe-west1-b"));
            row.distance = Some("same region".to_owned());
        }
        let services = service_table(&[row], false);
        assert_eq!(services.matches("europe-west1-b 11.1 %").count(), 9, "{services}");
        for text in [services, backed.text(false)] {
            let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= 160, "{widest}: {text}");
        }
    }

    #[test]
    fn a_service_is_meant_by_name_or_vip_and_a_misspelt_one_is_guessed() {
        let sample = Sample::new();
        let picture = sample.picture();
        let all = picture.services();
        let chosen = |filter: &str| chosen(&picture, &all, Some(&filter.parse().unwrap()));
        let names = |filter| chosen(filter).unwrap().iter().map(|s| s.address()).collect::<Vec<_>>();
        let refused = |filter| chosen(filter).err().unwrap().to_string();
        assert_eq!(names("shop/web"), ["203.0.113.10:80/tcp"]);
        assert_eq!(names("203.0.113.11"), ["203.0.113.11:53/udp"]);
        for vip in ["203.0.113.11:53", "203.0.113.11:53/udp", "203.0.113.11/udp"] {
            assert_eq!(names(vip), ["203.0.113.11:53/udp"]);
        }
        assert_eq!(
            refused("203.0.113.11:54"),
            "203.0.113.11 port 54 is not served: packets are dropped (port_not_served); there is 53/udp"
        );
        assert_eq!(
            refused("203.0.113.11:53/tcp"),
            "203.0.113.11 port 53 is not served over tcp: packets are dropped (port_not_served); there is 53/udp"
        );
        assert!(refused("203.0.113.1").starts_with("203.0.113.1 is no VIP: "));
        assert_eq!(refused("shop/wbe"), "there is no service \"shop/wbe\"; did you mean shop/web?");
    }
}
