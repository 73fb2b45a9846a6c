//! What the demo says, for people.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::Result;

use super::promises::counted;
use super::stage::Stage;
use super::story::Act;
use crate::load::EventReport;
use crate::world::own_program;

/// Says things on standard output, or on standard error where the other is for programs.
pub(super) struct Teller {
    to_error: bool,
    coloured: bool,
}

impl Teller {
    pub(super) fn new(to_error: bool) -> Self {
        let terminal =
            if to_error { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
        Self { to_error, coloured: terminal && std::env::var_os("NO_COLOR").is_none() }
    }

    pub(super) fn title(&self, text: &str) {
        self.say(&self.bold(text));
    }

    pub(super) fn world(&self, stage: &Stage, took: Duration) {
        let layout = &stage.world.layout;
        self.say(&format!(
            "{} clusters with {} pods, {} gateways, {} clients and a router are up after {:.1} s.",
            layout.clusters.len(),
            layout.pods.len(),
            layout.gateways.len(),
            layout.clients.len(),
            took.as_secs_f64()
        ));
    }

    /// What the command line says about the service, and who answers whom.
    pub(super) fn services(&self, stage: &Stage) -> Result<()> {
        let client = &stage.world.clients()[0];
        let gateway = stage.agents.of(&stage.entry(client.name())?);
        let configuration = gateway.configuration().display().to_string();
        self.say("");
        self.say(&gateway.fairlead(&["services", "--config", &configuration])?);
        let expected = stage.expected()?;
        for client in stage.world.clients() {
            let zones: Vec<_> = expected[client.name()].iter().map(String::as_str).collect();
            self.say(&format!("{:<28} is served from {}", client.name(), zones.join(", ")));
        }
        self.say("");
        Ok(())
    }

    pub(super) fn act(&self, act: &Act) {
        self.say(&format!("{} {}", self.bold(&format!("{:<20}", act.name)), act.told));
    }

    /// What else there is to tell of an act.
    pub(super) fn more(&self, text: Option<&str>) {
        if let Some(text) = text {
            self.say(&format!("{:<20} {text}", ""));
        }
    }

    /// Below the act's lines; the table later counts also what had not been answered by now.
    pub(super) fn outcome(&self, report: &EventReport) {
        let failures = match report.failed {
            0 => "none failed".to_owned(),
            failed => format!("{failed} failed, the last {} ms after the event", report.recovery_ms),
        };
        let moved = match report.broken_by_move {
            0 => String::new(),
            moved => format!(", {} broken by a moved slot", counted(moved, "connection")),
        };
        self.say(&format!("{:<20} so far {}, {failures}{moved}", "", counted(report.requests, "request")));
        let lines = |of: &str, by_client: &BTreeMap<String, BTreeMap<String, u64>>| {
            for (client, counts) in by_client {
                let counts: Vec<_> = counts.iter().map(|(what, count)| format!("{count} × {what}")).collect();
                let client = client.trim_start_matches("client-");
                self.say(&format!("{:<20} {client:<16} {of}{}", "", counts.join("; ")));
            }
        };
        lines("failed: ", &report.failures);
        lines("", &report.answers);
    }

    pub(super) fn table(&self, reports: &[EventReport]) {
        self.say("");
        self.say(&self.bold(&table_line(&[
            "event",
            "requests",
            "failed",
            "after recovery",
            "recovery ms",
            "broken by move",
        ])));
        for report in reports {
            let numbers = [
                report.requests,
                report.failed,
                report.failed_after_recovery,
                report.recovery_ms,
                report.broken_by_move,
            ]
            .map(|number| number.to_string());
            let [requests, failed, after, recovery, moved] = &numbers;
            self.say(&table_line(&[&report.name, requests, failed, after, recovery, moved]));
        }
    }

    pub(super) fn verdict(&self, broken: &[String], took: Duration) {
        self.say("");
        for promise in broken {
            self.say(&format!("broken promise: {promise}"));
        }
        let word = if broken.is_empty() { "All promises were kept" } else { "Not all promises were kept" };
        self.say(&self.bold(&format!("{word}; it took {:.0} s.", took.as_secs_f64())));
        if !broken.is_empty()
            && let Some(load) = load_of_machine()
        {
            self.say(&format!(
                "Some promises are of milliseconds, and hold only where nothing else keeps the machine busy: {load}."
            ));
        }
    }

    /// What can be tried in a world that stays.
    pub(super) fn commands(&self, stage: &Stage) -> Result<()> {
        let client = &stage.world.clients()[0];
        let gateway = stage.agents.of(&stage.entry(client.name())?);
        let fairlead = own_program("fairlead", "FAIRLEAD_BIN")?;
        let fairlead = fairlead.display();
        let (target, [from, _]) = (stage.target()?, client.addresses());
        let namespace = client.namespace.name();
        self.say("");
        self.say(&format!("The world runs on. Ask as the client {}:", client.name()));
        self.say(&format!("  nsenter --net=/run/netns/{namespace} curl http://{}/", target.v4));
        self.say(&format!("  nsenter --net=/run/netns/{namespace} curl 'http://[{}]/'", target.v6));
        self.say("and look at the gateway that it enters by:");
        self.say(&format!("  export FAIRLEAD_CONFIG={}", gateway.configuration().display()));
        for command in ["status", "services", "backends", "plan", "counters"] {
            self.say(&format!("  {fairlead} {command}"));
        }
        self.say(&format!("  {fairlead} explain {from} {}:{}", target.v4, target.http_port));
        self.say(&format!(
            "What its clusters say stands below {}/manifests.",
            stage.world.directory().display()
        ));
        self.say(&format!("All logs are {}/*/*.log;", stage.world.directory().display()));
        self.say(&format!(
            "that gateway's is {}.",
            gateway.configuration().with_file_name("fairlead.log").display()
        ));
        self.say("In the end: cargo xtask demo down");
        Ok(())
    }

    fn bold(&self, text: &str) -> String {
        if self.coloured { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn say(&self, text: &str) {
        // A reader that went away must not end the demo before it has cleaned up.
        let _ = if self.to_error {
            writeln!(std::io::stderr(), "{text}")
        } else {
            writeln!(std::io::stdout(), "{text}")
        };
    }
}

fn load_of_machine() -> Option<String> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    let load = text.split_whitespace().next()?;
    let processors = std::thread::available_parallelism().ok()?;
    Some(format!(
        "its load is {load} on {}, the demo's own included",
        counted(processors.get() as u64, "processor")
    ))
}

fn table_line(cells: &[&str; 6]) -> String {
    let [name, numbers @ ..] = cells;
    let mut line = format!("{name:<22}");
    for cell in numbers {
        line.push_str(&format!("{cell:>16}"));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let head =
            table_line(&["event", "requests", "failed", "after recovery", "recovery ms", "broken by move"]);
        let line = table_line(&["receiver_lost_back", "500", "0", "0", "0", "12"]);
        assert_eq!(head.len(), line.len());
        assert!(line.starts_with("receiver_lost_back  "));
        assert!(line.ends_with(" 12"));
    }
}
