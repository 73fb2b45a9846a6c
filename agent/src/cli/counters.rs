//! `fairlead counters`: what was forwarded and what was dropped, once or every second.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use fairlead_abi::DropReason;
use serde::Serialize;

use super::node::{Freshness, Node};
use super::output::Output;
use super::pause::Pause;
use super::picture::{Numbers, Picture};
use super::table::{Cell, Style, Table};

/// From one reading to the next.
const PERIOD: Duration = Duration::from_secs(1);
/// Moves a terminal's cursor to its top left corner; what is below is cleared after the new text.
const HOME: &str = "\x1b[H";
const CLEAR_REST: &str = "\x1b[J";

/// One reading.
#[derive(Clone, Debug, Serialize)]
struct Reading {
    #[serde(flatten)]
    freshness: Freshness,
    /// Since the reading before; `None` for the first.
    seconds: Option<f64>,
    drops: Vec<DropRow>,
    services: Vec<ServiceRow>,
}

#[derive(Clone, Debug, Serialize)]
struct DropRow {
    reason: &'static str,
    /// Its index in the map `DROPS`.
    number: u32,
    description: &'static str,
    packets: u64,
    bytes: u64,
    /// Packets per second since the reading before.
    rate: Option<f64>,
}

#[derive(Clone, Debug, Serialize)]
struct ServiceRow {
    service: Option<String>,
    address: String,
    #[serde(skip)]
    id: u32,
    connections: u64,
    packets: u64,
    bytes: u64,
    connection_rate: Option<f64>,
    packet_rate: Option<f64>,
    bit_rate: Option<f64>,
}

/// Shows the counters; again and again where `watch` is set, until it is interrupted.
pub(super) fn counters(node: &mut Node, all: bool, watch: bool, output: Output) -> Result<()> {
    let mut last: Option<(Instant, Reading)> = None;
    let mut due = Instant::now();
    let mut pause = watch.then(Pause::new).transpose()?;
    loop {
        // Opened anew each time: an agent may have put other maps in place.
        let (view, numbers) = (node.view()?, node.counters()?);
        let picture = node.picture(&view)?;
        let at = Instant::now();
        let mut reading = Reading::of(&picture, &numbers, node.freshness())?;
        if let Some((before, last)) = &last {
            reading.compare(last, at.duration_since(*before).as_secs_f64());
        }
        let Some(pause) = &mut pause else {
            return Ok(output.show(&reading, |reading, colour| reading.text(all, colour))?);
        };
        // On a terminal each reading takes the place of the one before; elsewhere they follow each other.
        output.show_next(&reading, |reading, colour| match colour {
            true => format!("{HOME}{}{CLEAR_REST}", reading.text(all, colour).replace('\n', "\x1b[K\n")),
            false => reading.text(all, colour) + "\n",
        })?;
        last = Some((at, reading));
        node.read_again();
        due += PERIOD;
        // That is how it is meant to end, so it is no failure.
        if pause.is_interrupted_before(due) {
            return Ok(());
        }
    }
}

impl Reading {
    fn of(picture: &Picture<'_>, numbers: &impl Numbers, freshness: Freshness) -> Result<Self> {
        let mut drops = Vec::with_capacity(DropReason::ALL.len());
        for &reason in DropReason::ALL {
            let counter = numbers.drops(reason)?;
            drops.push(DropRow {
                reason: reason.name(),
                number: reason as u32,
                description: reason.description().trim(),
                packets: counter.packets,
                bytes: counter.bytes,
                rate: None,
            });
        }
        let mut services = Vec::new();
        for service in picture.services() {
            let Some(entry) = service.entry else { continue };
            let counters = numbers.service(entry.id)?;
            services.push(ServiceRow {
                service: service.name(),
                address: service.address(),
                id: entry.id,
                connections: counters.connections,
                packets: counters.packets,
                bytes: counters.bytes,
                connection_rate: None,
                packet_rate: None,
                bit_rate: None,
            });
        }
        Ok(Self { freshness, seconds: None, drops, services })
    }

    /// Fills in rates. A counter that has become smaller started anew, and has counted what it shows since then.
    fn compare(&mut self, before: &Self, seconds: f64) {
        #[expect(clippy::cast_precision_loss, reason = "a rate to be read by people")]
        let rate = |now: u64, before: u64| Some(now.checked_sub(before).unwrap_or(now) as f64 / seconds);
        self.seconds = Some(seconds);
        for (row, before) in self.drops.iter_mut().zip(&before.drops) {
            row.rate = rate(row.packets, before.packets);
        }
        let known: HashMap<_, _> = before.services.iter().map(|row| ((row.id, &*row.address), row)).collect();
        for row in &mut self.services {
            let Some(before) = known.get(&(row.id, &*row.address)) else { continue };
            row.connection_rate = rate(row.connections, before.connections);
            row.packet_rate = rate(row.packets, before.packets);
            row.bit_rate = rate(row.bytes, before.bytes).map(|bytes| bytes * 8.0);
        }
    }

    fn text(&self, all: bool, colour: bool) -> String {
        let mut text = String::new();
        let services = self.service_table();
        if !services.is_empty() {
            text += &(services.render(colour) + "\n");
        }
        let drops = self.drop_table(all);
        text += &if drops.is_empty() { "nothing was dropped\n".to_owned() } else { drops.render(colour) };
        text + "\n" + &Style::Dim.paint(&self.freshness.line(), colour)
    }

    fn service_table(&self) -> Table {
        let rates = self.seconds.is_some();
        let mut table = Table::new(if rates {
            &["SERVICE", "ADDRESS", ">CONNECTIONS", ">PACKETS", ">BYTES", ">CONN/S", ">PACKETS/S", ">BIT/S"]
        } else {
            &["SERVICE", "ADDRESS", ">CONNECTIONS", ">PACKETS", ">BYTES"]
        });
        for row in &self.services {
            let mut cells = vec![
                Cell::maybe(row.service.as_ref()),
                Cell::new(&row.address),
                Cell::new(row.connections),
                Cell::new(row.packets),
                Cell::new(row.bytes),
            ];
            if rates {
                cells.extend([row.connection_rate, row.packet_rate, row.bit_rate].map(rate_cell));
            }
            table.row(cells);
        }
        table
    }

    fn drop_table(&self, all: bool) -> Table {
        let rates = self.seconds.is_some();
        let mut table = Table::new(if rates {
            &["DROPPED", ">PACKETS", ">BYTES", ">PACKETS/S", "BECAUSE"]
        } else {
            &["DROPPED", ">PACKETS", ">BYTES", "BECAUSE"]
        });
        for row in self.drops.iter().filter(|row| all || row.packets > 0) {
            let style = if row.rate.is_some_and(|rate| rate > 0.0) { Style::Bad } else { Style::Plain };
            let mut cells =
                vec![Cell::new(row.reason).style(style), Cell::new(row.packets), Cell::new(row.bytes)];
            if rates {
                cells.push(rate_cell(row.rate));
            }
            cells.push(Cell::new(row.description));
            table.row(cells);
        }
        table
    }
}

fn rate_cell(rate: Option<f64>) -> Cell {
    Cell::maybe(rate.map(short))
}

/// `950`, `12.3k`, `4.7M`, `9.9G`.
fn short(rate: f64) -> String {
    match rate {
        ..1e3 => format!("{rate:.0}"),
        ..1e6 => format!("{:.1}k", rate / 1e3),
        ..1e9 => format!("{:.1}M", rate / 1e6),
        _ => format!("{:.1}G", rate / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{Fixed, Sample};
    use super::*;

    fn reading() -> Reading {
        let freshness =
            Freshness { instance: "default".to_owned(), agent_running: true, state_age_seconds: Some(1) };
        Reading::of(&Sample::new().picture(), &Fixed, freshness).unwrap()
    }

    #[test]
    fn totals_are_a_table_with_what_drops_mean() {
        assert_eq!(
            reading().text(false, false),
            "\
SERVICE   ADDRESS              CONNECTIONS  PACKETS    BYTES
shop/dns  203.0.113.11:53/udp         4000    40000  4000000
shop/web  203.0.113.10:80/tcp         2000    20000  2000000

DROPPED          PACKETS  BYTES  BECAUSE
port_not_served        7    420  For a VIP, but a port or protocol that is not served.

numbers are of now, names and reasons are 1 s old
"
        );
        assert_eq!(reading().drop_table(true).render(false).lines().count(), 1 + DropReason::ALL.len());
    }

    #[test]
    fn rates_are_differences_by_time_also_where_a_counter_starts_anew() {
        let before = reading();
        let mut now = reading();
        now.drops[5].packets += 300;
        let web = now.services.iter_mut().find(|row| row.service.as_deref() == Some("shop/web")).unwrap();
        (web.packets, web.bytes, web.connections) = (40_000, 3_000_000, 50);
        now.compare(&before, 2.0);
        assert_eq!(now.drops[5].rate, Some(150.0));
        let web = now.services.iter().find(|row| row.service.as_deref() == Some("shop/web")).unwrap();
        assert_eq!((web.packet_rate, web.bit_rate), (Some(10_000.0), Some(4_000_000.0)));
        assert_eq!(web.connection_rate, Some(25.0), "it was 2000, so it started anew");
        let text = now.text(false, false);
        assert!(text.contains("CONN/S  PACKETS/S  BIT/S\n"), "{text}");
        assert!(text.contains("      25      10.0k   4.0M\n"), "{text}");
    }

    #[test]
    fn a_number_that_another_address_has_now_is_compared_with_nothing() {
        let before = reading();
        let mut now = reading();
        now.services[0].address = "203.0.113.99:53/udp".to_owned();
        now.compare(&before, 1.0);
        assert_eq!((now.services[0].packet_rate, now.services[1].packet_rate), (None, Some(0.0)));
    }

    #[test]
    fn rates_are_short() {
        let texts = [0.0, 999.0, 1500.0, 2_340_000.0, 9.9e9].map(short);
        assert_eq!(texts, ["0", "999", "1.5k", "2.3M", "9.9G"]);
    }
}
