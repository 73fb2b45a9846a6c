//! An explanation for people, top down: the way, what contradicts it, the shards, every endpoint.

use std::sync::Arc;

use super::Explanation;
use crate::cli::address::Client;
use crate::cli::row::{backend_table, percent};
use crate::cli::table::{Cell, Style, Table};

impl Explanation {
    pub(super) fn text(&self, colour: bool) -> String {
        let client = Client { ip: self.client, port: self.client_port };
        let vip = Client { ip: self.vip, port: self.port };
        let name = self.service.as_deref().unwrap_or("(the agent's state doesn't know it)");
        let mut text = format!("{client} to {vip}/{} is service {name}\n", self.protocol);
        text += &self.way(colour);
        for way in &self.ways {
            text += &format!("  {}: {}\n", way.packets, way.text());
        }
        if let Some(cache) = &self.cache {
            text += &format!("  {}\n", cache.text());
        }
        for difference in &self.differences {
            text += &Style::Warning
                .paint(&format!("the maps and the agent's state differ: {difference}\n"), colour);
        }
        if !self.ports.is_empty() {
            text += &("\n".to_owned() + &self.port_table(colour));
        }
        if !self.shards.is_empty() {
            text += &("\n".to_owned() + &self.shard_table(colour));
        }
        if !self.endpoints.is_empty() {
            text += &("\n".to_owned() + &backend_table(&self.endpoints, colour));
        }
        text + "\n"
    }

    /// Slot and backend.
    fn way(&self, colour: bool) -> String {
        let mut text = match self.slot {
            Some(slot) if self.by_client => {
                let by = "by the client's address alone (sessionAffinity: ClientIP)";
                format!("slot {slot} of {} {by}", self.ring_size)
            }
            Some(slot) => format!("slot {slot} of {}", self.ring_size),
            None if self.ring_size > 0 && self.drop.is_none() => {
                format!("a ring of {} slots; the client's port decides which one\n", self.ring_size)
            }
            None => String::new(),
        };
        if let Some(row) = &self.backend {
            let of = |text: &Option<Arc<str>>| text.clone().unwrap_or_else(|| Arc::from("?"));
            let way = format!(
                " goes to {} (pod {}, cluster {}, {}), {}",
                Style::Good.paint(&row.address.map(|ip| ip.to_string()).unwrap_or_default(), colour),
                of(&row.pod),
                of(&row.cluster),
                row.distance.as_deref().unwrap_or("distance unknown"),
                row.encapsulation.unwrap_or("no encapsulation"),
            );
            text += &way;
        }
        if self.slot.is_some() {
            text += "\n";
        }
        if let Some(drop) = &self.drop {
            let line = format!("packets are dropped ({}): {}\n", drop.reason, drop.description);
            text += &Style::Bad.paint(&line, colour);
        }
        if let Some(allowed) = &self.allowed {
            let ranges: Vec<String> = allowed.iter().map(ToString::to_string).collect();
            let ranges = if ranges.is_empty() { "nobody".to_owned() } else { ranges.join(", ") };
            text += &format!("  clients that are allowed (loadBalancerSourceRanges): {ranges}\n");
        }
        text
    }

    fn port_table(&self, colour: bool) -> String {
        let mut table = Table::new(&["ADDRESS", "POD", "CLUSTER", ">CLIENT PORTS", ">SHARE"]).indent(2);
        for row in &self.ports {
            table.row(vec![
                Cell::maybe(row.address),
                Cell::maybe(row.pod.as_ref()),
                Cell::maybe(row.cluster.as_ref()),
                Cell::new(row.ports),
                Cell::new(percent(row.share)),
            ]);
        }
        table.render(colour)
    }

    fn shard_table(&self, colour: bool) -> String {
        let mut table = Table::new(&[
            "SHARD",
            "ZONE",
            "DISTANCE",
            ">ENDPOINTS",
            ">READY",
            ">USABLE",
            ">CAPACITY",
            ">SHARE",
            "STATE",
        ])
        .indent(2);
        for shard in &self.shards {
            let state = match shard.reachable {
                true => shard.state.to_string(),
                false => format!("{}, source unreachable", shard.state),
            };
            let style = if shard.share > 0.0 { Style::Good } else { Style::Dim };
            table.row(vec![
                Cell::new(&shard.cluster),
                Cell::maybe(shard.zone.as_ref()),
                Cell::new(&shard.distance),
                Cell::new(shard.endpoints),
                Cell::new(shard.ready),
                Cell::new(shard.usable),
                Cell::maybe(shard.capacity),
                Cell::new(percent(shard.share)),
                Cell::new(state).style(style),
            ]);
        }
        table.render(colour)
    }
}

#[cfg(test)]
mod tests {
    use super::super::way::explained;
    use crate::cli::sample::Sample;

    #[test]
    fn people_read_it_top_down() {
        let found = explained(&Sample::new(), "192.0.2.7:43210", "203.0.113.10").unwrap();
        let text = found.text(false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "192.0.2.7:43210 to 203.0.113.10:80/tcp is service shop/web");
        let row = found.backend.as_ref().unwrap();
        let (slot, address, pod) = (found.slot.unwrap(), row.address.unwrap(), row.pod.as_ref().unwrap());
        assert_eq!(
            lines[1],
            format!("slot {slot} of 251 goes to {address} (pod {pod}, cluster eu-b, same zone), ipip")
        );
        assert_eq!(lines[2], format!("  SYN: current {address} ({pod})"));
        assert!(lines[3].starts_with(&format!("  other packets: current {address} ({pod}); then dropped")));
        assert_eq!(lines[4], "  the flow cache has no flow of this slot");
        assert_eq!(lines[6], "  SHARD  ZONE  DISTANCE   ENDPOINTS  READY  USABLE  CAPACITY    SHARE  STATE");
        assert_eq!(
            lines[7],
            "  eu-b   b     same zone          4      4       3         -  100.0 %  serving"
        );
        assert_eq!(
            lines[8],
            "  us-a   a     100 away           1      1       1         -    0.0 %  standby"
        );
    }
}
