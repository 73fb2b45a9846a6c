//! What is said of it, for people.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use super::Options;
use super::events::{Event, RANDOM};
use super::judge::Row;
use super::stage::Stage;

/// Says things on standard output, or on standard error where the other is for programs.
pub(super) struct Teller {
    to_error: bool,
    coloured: bool,
}

const HEAD: [&str; 7] =
    ["event", "protocol", "connections", "broken", "endpoint died", "asked", "longest stall ms"];

/// Packets of a flood, where none are left out.
const WHOLE_FLOOD: u64 = 4_000_000;

impl Teller {
    pub(super) fn new(to_error: bool) -> Self {
        let terminal =
            if to_error { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
        Self { to_error, coloured: terminal && std::env::var_os("NO_COLOR").is_none() }
    }

    pub(super) fn begin(&self, stage: &Stage, options: &Options, took: Duration) {
        let layout = &stage.world.layout;
        self.say(&self.bold("Do connections survive?"));
        self.say(&format!(
            "{} clusters with {} pods, {} gateways and {} clients are up after {:.1} s; {} connections of each protocol \
             are open before each event.",
            layout.clusters.len(),
            layout.pods.len(),
            layout.gateways.len(),
            layout.clients.len(),
            took.as_secs_f64(),
            options.connections,
        ));
        if options.flood < WHOLE_FLOOD {
            self.say(&format!(
                "left out (more packets with --full): {} of {WHOLE_FLOOD} of each flood",
                WHOLE_FLOOD - options.flood
            ));
        }
        if options.events.is_empty() || options.events.iter().any(|event| event == RANDOM) {
            self.say(&format!("seed of the random mix: {}", options.seed));
        }
        self.say("");
        self.say(&self.bold(&table_line(&HEAD.map(str::to_owned))));
    }

    /// The rows of an event, and below each how connections broke that should not have.
    pub(super) fn rows(&self, event: &Event, rows: &[Row], unopened: usize, took: Duration) {
        for row in rows {
            self.say(&table_line(&cells(row)));
            if !row.breaks.is_empty() {
                let of = row.breaks.iter().map(|((kind, why), count)| format!("{count} {kind:?}: {why}"));
                self.say(&format!("    {}", of.collect::<Vec<_>>().join(", ")));
            }
            if row.moved > 0 {
                self.say(&format!(
                    "    {} Flow: answered by another, as they may: gateways without memory",
                    row.moved
                ));
            }
        }
        let unopened = if unopened == 0 {
            String::new()
        } else {
            format!("; {unopened} short connections did not come about")
        };
        self.say(&format!("    ({}: {:.1} s{unopened})", event.told, took.as_secs_f64()));
    }

    pub(super) fn verdict(&self, rows: &[Row], took: Duration) {
        let lost: Vec<_> = rows.iter().map(Row::lost).filter(|&lost| lost > 0).collect();
        let moved: usize = rows.iter().map(|row| row.moved).sum();
        self.say("");
        let verdict = if lost.is_empty() {
            match moved {
                0 => "No connection broke that had a living endpoint".to_owned(),
                _ => format!(
                    "Of what had a living endpoint, nothing broke but {moved} flows of UDP, which other servers took over \
                     where gateways had no memory"
                ),
            }
        } else {
            let all: usize = lost.iter().sum();
            format!(
                "{all} connections broke that had a living endpoint, in {} of {} rows",
                lost.len(),
                rows.len()
            )
        };
        self.say(&self.bold(&format!("{verdict}; it took {:.0} s.", took.as_secs_f64())));
    }

    fn bold(&self, text: &str) -> String {
        if self.coloured { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn say(&self, text: &str) {
        // A reader that went away must not end the run before it has cleaned up.
        let _ = if self.to_error {
            writeln!(std::io::stderr(), "{text}")
        } else {
            writeln!(std::io::stdout(), "{text}")
        };
    }
}

fn cells(row: &Row) -> [String; 7] {
    let Row { event, protocol, connections, broken, endpoint_died, asked, longest_stall_ms, .. } = row;
    let numbers = [*connections, *broken, *endpoint_died].map(|number| number.to_string());
    let [connections, broken, died] = numbers;
    [
        event.clone(),
        (*protocol).to_owned(),
        connections,
        broken,
        died,
        asked.to_string(),
        longest_stall_ms.to_string(),
    ]
}

fn table_line(cells: &[String; 7]) -> String {
    let [event, protocol, numbers @ ..] = cells;
    let mut line = format!("{event:<22}{protocol:<9}");
    for cell in numbers {
        line.push_str(&format!("{cell:>17}"));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::survive::{Played, judge};

    #[test]
    fn columns_stand_below_each_other() {
        let head = table_line(&HEAD.map(str::to_owned));
        let played = Played { event: "receiver_agent_killed", ..Played::default() };
        let [row, ..] = &judge::rows(&played)[..] else { panic!("a row for each protocol") };
        let line = table_line(&cells(row));
        assert_eq!(head.len(), line.len());
        assert!(line.starts_with("receiver_agent_killed tcp4"));
    }
}
