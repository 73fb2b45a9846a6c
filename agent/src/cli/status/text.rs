//! A node's state for people: one page, top down.

use fairlead_core::model::Problem;

use super::{Agent, Cluster, Report};
use crate::cli::node::age_text;
use crate::cli::row::percent;
use crate::cli::table::{Cell, Style, Table};

impl Report {
    pub(super) fn text(&self, colour: bool) -> String {
        let mut text = self.head(colour);
        let mut section = |title: &str, body: String| {
            if !body.is_empty() {
                text += &format!("\n{}\n{body}", Style::Bold.paint(title, colour));
            }
        };
        section("interfaces", self.interface_table(colour));
        section("clusters", self.cluster_table(colour));
        section("maps", self.map_table(colour));
        let lines =
            |lines: Vec<String>| lines.into_iter().map(|line| format!("  {line}\n")).collect::<String>();
        section("problems", lines(self.problems.iter().map(ToString::to_string).collect()));
        section("no effect here", lines(noted(&self.notes)));
        section("the changed configuration is refused", lines(self.refused.clone()));
        text
    }

    fn head(&self, colour: bool) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String, style: Style| {
            text += &format!("{name:<12}{}\n", style.paint(&value, colour));
        };
        let (agent, style) = self.agent_line();
        line("agent", agent, style);
        line("instance", format!("{}, pinned under {}", self.instance, self.pins), Style::Plain);
        let group = self.group.as_ref().map(|group| format!(", group {group}")).unwrap_or_default();
        let roles =
            if self.roles.is_empty() { String::new() } else { format!(", {}", self.roles.join(" and ")) };
        line("node", format!("{}{roles}{group}", self.node), Style::Plain);
        if let Some(problem) = &self.configuration {
            line("file", problem.clone(), Style::Bad);
        }
        match (self.ready, self.agent.running) {
            (Some(true), true) => line("ready", "yes".to_owned(), Style::Good),
            (Some(false), true) => line("ready", format!("no: {}", self.unready.join("; ")), Style::Bad),
            _ => {}
        }
        if let Some(program) = &self.program {
            line("programs", format!("tag {program}"), Style::Plain);
        }
        match (&self.fingerprint.wanted, &self.fingerprint.installed) {
            (Some(wanted), Some(installed)) if wanted == installed => {
                line("slots", format!("{installed}, as planned"), Style::Good);
            }
            (Some(wanted), Some(installed)) => {
                line("slots", format!("{installed}, but {wanted} is planned"), Style::Warning);
            }
            (None, Some(installed)) => line("slots", installed.clone(), Style::Plain),
            _ => {}
        }
        for (name, problem) in [("tables", &self.tables), ("failure", &self.failure)] {
            if let Some(problem) = problem {
                line(name, problem.clone(), Style::Bad);
            }
        }
        if let Some(problem) = &self.state {
            line("state", format!("the agent's state can't be read: {problem}"), Style::Warning);
        }
        text
    }

    fn agent_line(&self) -> (String, Style) {
        let Agent { running, pid, version, state_age_seconds } = &self.agent;
        let mut text = match (running, self.forwards && self.tables.is_none()) {
            (true, _) => "running",
            (false, true) => "not running; forwarding goes on without it",
            (false, false) => "not running",
        }
        .to_owned();
        if let Some(pid) = pid {
            text += &format!(", pid {pid}");
        }
        if let Some(version) = version {
            text += &format!(", version {version}");
        }
        if let Some(age) = state_age_seconds {
            text += &format!(", its state is {} old", age_text(*age));
        }
        (text, if *running { Style::Good } else { Style::Bad })
    }

    fn interface_table(&self, colour: bool) -> String {
        let mut table = Table::new(&["INTERFACE", "MODE", "PROGRAMS"]).indent(2);
        for interface in &self.interfaces {
            let (state, style) = match (&interface.problem, interface.attached) {
                (Some(problem), _) => (problem.clone(), Style::Bad),
                (None, true) => ("attached".to_owned(), Style::Good),
                (None, false) => ("not attached".to_owned(), Style::Bad),
            };
            let mode = Cell::new(&interface.mode);
            let mode = if interface.mode == "generic" { mode.style(Style::Warning) } else { mode };
            table.row(vec![Cell::new(&interface.name), mode, Cell::new(state).style(style)]);
        }
        if table.is_empty() { String::new() } else { table.render(colour) }
    }

    fn cluster_table(&self, colour: bool) -> String {
        let mut table = Table::new(&["CLUSTER", ">SHARDS", "SOURCE"]).indent(2);
        for cluster in &self.clusters {
            let (source, style) = match (cluster.reachable, cluster.restored_age_seconds) {
                (true, _) => ("read".to_owned(), Style::Good),
                (false, Some(age)) => {
                    (format!("can't be read; what was known {} ago counts", age_text(age)), Style::Warning)
                }
                (false, None) => ("can't be read; what was known last counts".to_owned(), Style::Bad),
            };
            let style =
                if cluster.drained.is_empty() || style == Style::Bad { style } else { Style::Warning };
            table.row(vec![
                Cell::new(&cluster.name),
                Cell::new(cluster.shards),
                Cell::new(source + &cluster.drained()).style(style),
            ]);
        }
        if table.is_empty() { String::new() } else { table.render(colour) }
    }

    fn map_table(&self, colour: bool) -> String {
        let mut table = Table::new(&["MAP", ">USED", ">OF", ">"]).indent(2);
        for map in &self.maps {
            #[expect(clippy::cast_precision_loss, reason = "a part of at most 2^32 entries")]
            let part = map.used as f64 / map.capacity.max(1) as f64;
            let style = if part > 0.9 { Style::Bad } else { Style::Plain };
            table.row(vec![
                Cell::new(&map.map),
                Cell::new(map.used),
                Cell::new(map.capacity),
                Cell::new(percent(part)).style(style),
            ]);
        }
        if table.is_empty() { String::new() } else { table.render(colour) }
    }
}

/// So many notes are shown; `fairlead services` has all.
const NOTES: usize = 8;

/// The first notes.
fn noted(notes: &[Problem]) -> Vec<String> {
    let mut lines: Vec<String> = notes.iter().take(NOTES).map(ToString::to_string).collect();
    if notes.len() > NOTES {
        lines.push(format!("and {} more, see `fairlead services`", notes.len() - NOTES));
    }
    lines
}

/// So many drains are named in a line.
const NAMED: usize = 3;

impl Cluster {
    /// What is drained of it, as the end of a line.
    fn drained(&self) -> String {
        if self.drained.is_empty() {
            return String::new();
        }
        let mut named: Vec<String> = self.drained.iter().take(NAMED).cloned().collect();
        if self.drained.len() > NAMED {
            named.push(format!("{} more", self.drained.len() - NAMED));
        }
        format!("; drained: {}", named.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Fingerprint, MapUse};
    use super::*;
    use crate::status::InterfaceStatus;

    fn report() -> Report {
        let interface = |name: &str, attached, problem: Option<&str>| InterfaceStatus {
            name: name.to_owned(),
            mode: "native".to_owned(),
            attached,
            problem: problem.map(ToOwned::to_owned),
        };
        let cluster = |name: &str, reachable, restored_age_seconds| Cluster {
            name: name.to_owned(),
            reachable,
            shards: 2,
            restored_age_seconds,
            drained: Vec::new(),
        };
        Report {
            agent: Agent {
                running: true,
                pid: Some(4711),
                version: Some("0.1.0".to_owned()),
                state_age_seconds: Some(3),
            },
            configuration: None,
            instance: "default".to_owned(),
            pins: "/sys/fs/bpf/fairlead/default/v2".to_owned(),
            node: "gw-eu-1".to_owned(),
            roles: vec!["gateway".to_owned(), "receiver".to_owned()],
            group: Some("eu".to_owned()),
            ready: Some(true),
            unready: Vec::new(),
            program: Some("0011223344556677".to_owned()),
            interfaces: vec![
                interface("eth0", true, None),
                interface("eth1", false, Some("the interface is gone")),
            ],
            forwards: true,
            fingerprint: Fingerprint { wanted: Some("aa".to_owned()), installed: Some("aa".to_owned()) },
            clusters: vec![cluster("eu-b", true, None), cluster("us-a", false, Some(600))],
            notes: Vec::new(),
            problems: vec![Problem {
                object: None,
                cluster: Some("eu-b".into()),
                field: "web.yaml:3".to_owned(),
                what: "is no YAML".to_owned(),
                hint: None,
            }],
            refused: Vec::new(),
            failure: None,
            maps: vec![MapUse { map: "SERVICES".to_owned(), used: 96, capacity: 100 }],
            tables: None,
            state: None,
        }
    }

    #[test]
    fn one_page_says_how_the_node_is() {
        assert_eq!(
            report().text(false),
            "\
agent       running, pid 4711, version 0.1.0, its state is 3 s old
instance    default, pinned under /sys/fs/bpf/fairlead/default/v2
node        gw-eu-1, gateway and receiver, group eu
ready       yes
programs    tag 0011223344556677
slots       aa, as planned

interfaces
  INTERFACE  MODE    PROGRAMS
  eth0       native  attached
  eth1       native  the interface is gone

clusters
  CLUSTER  SHARDS  SOURCE
  eu-b          2  read
  us-a          2  can't be read; what was known 10 min ago counts

maps
  MAP       USED   OF
  SERVICES    96  100  96.0 %

problems
  cluster eu-b: web.yaml:3: is no YAML
"
        );
    }

    #[test]
    fn a_configuration_that_does_not_hold_is_told() {
        let mut report = report();
        report.configuration = Some("the configuration doesn't hold: f.yaml:3:1: not YAML".to_owned());
        let text = report.text(false);
        assert!(
            text.contains("\nfile        the configuration doesn't hold: f.yaml:3:1: not YAML\n"),
            "{text}"
        );
    }

    #[test]
    fn what_has_no_effect_stands_below_the_problems_and_is_none() {
        let mut report = report();
        let note = Problem { what: "has no effect".to_owned(), ..report.problems[0].clone() };
        report.notes = vec![note; 10];
        let text = report.text(false);
        let line = "  cluster eu-b: web.yaml:3: has no effect\n";
        let expected = format!("\nno effect here\n{}  and 2 more, see `fairlead services`\n", line.repeat(8));
        assert!(text.ends_with(&expected), "{text}");
        assert_eq!(text.matches("problems\n").count(), 1);
    }

    #[test]
    fn drains_stand_beside_their_cluster() {
        let mut report = report();
        report.clusters[0].drained =
            ["node a", "node b", "pod shop/c", "pod shop/d"].map(ToOwned::to_owned).into();
        let text = report.text(false);
        assert!(
            text.contains("\n  eu-b          2  read; drained: node a, node b, pod shop/c, 1 more\n"),
            "{text}"
        );
    }

    #[test]
    fn without_an_agent_the_maps_still_speak() {
        let mut report = report();
        report.agent = Agent { running: false, pid: None, version: None, state_age_seconds: None };
        report.fingerprint.wanted = None;
        report.state = Some("No such file or directory (os error 2)".to_owned());
        let text = report.text(false);
        assert!(text.starts_with("agent       not running; forwarding goes on without it\n"), "{text}");
        assert!(!text.contains("ready"), "who doesn't run isn't ready: {text}");
        assert!(text.contains("slots       aa\n"), "{text}");
        assert!(text.contains("state       the agent's state can't be read: No such file"), "{text}");
    }

    #[test]
    fn other_slots_than_planned_are_shown() {
        let mut report = report();
        report.fingerprint.wanted = Some("bb".to_owned());
        assert!(report.text(false).contains("slots       aa, but bb is planned\n"));
        assert!(report.text(true).contains("\x1b[33maa, but bb is planned\x1b[0m"));
    }
}
