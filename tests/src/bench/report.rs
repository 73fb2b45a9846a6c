//! The results as tables, against the targets.

use super::{Results, connections, control, live, packets};

/// What is aimed at: a description, the worst that was measured, and the most (or least) that it should be.
struct Target {
    what: &'static str,
    worst: Option<f64>,
    goal: Goal,
}

enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

/// Everything as text.
pub(super) fn text(results: &Results) -> String {
    let mut text = String::new();
    let head = ["case", "flows", "services", "busy", "ns min", "ns median", "floor ns", "ratio"];
    text += &table(&head, results.packets.iter().map(packets::Row::columns));
    text += "\n";
    let head = ["connections", "flows", "marked %", "ns min", "ns median", "floor ns", "ratio"];
    text += &table(&head, results.connections.iter().map(connections::Row::columns));
    text += "\n";
    let live = |row: &live::Row| {
        [
            row.case.to_owned(),
            format!("{:.3}", row.mpps),
            format!("{:.3}", row.floor_mpps),
            format!("{:.0} %", 100.0 * row.mpps / row.floor_mpps),
        ]
    };
    text += &table(&["live", "Mpps", "floor Mpps", "of floor"], results.live.iter().map(live));
    text += "\n";
    let control = |row: &control::Row| {
        [
            row.services.to_string(),
            format!("{:.1}", row.full_plan_ms),
            format!("{:.2}", row.one_change_ms),
            format!("{:.0}", row.rss_mib),
        ]
    };
    text += &table(
        &["services", "full plan ms", "one change ms", "RSS MiB"],
        results.control.iter().map(control),
    );
    text += "\n";
    for target in targets(results) {
        text += &target.line();
    }
    text
}

/// Columns of numbers, aligned to the right; the first one to the left.
fn table<const N: usize>(head: &[&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let mut line = format!("{:<1$}", row[0], widths[0]);
        for (cell, width) in row.iter().zip(widths).skip(1) {
            line += &format!("  {cell:>width$}");
        }
        line + "\n"
    };
    rows.iter().map(line).collect()
}

fn targets(results: &Results) -> Vec<Target> {
    let ratio = |cases: &'static [&'static str], all: bool| {
        let of_case = |row: &&packets::Row| cases.contains(&row.case()) && (row.busy() == 1) != all;
        results.packets.iter().filter(of_case).map(packets::Row::ratio).reduce(f64::max)
    };
    // `u32::MAX`: of any number of flows.
    let worst = |case: &str, flows: u32| {
        let of_case = |row: &&connections::Row| {
            row.case().starts_with(case) && (row.flows() == flows || flows == u32::MAX)
        };
        results.connections.iter().filter(of_case).map(connections::Row::ratio).reduce(f64::max)
    };
    let at = |services: u32| results.control.iter().find(|row| row.services == services);
    let most = |what, worst, most| Target { what, worst, goal: Goal::AtMost(most) };
    let share = results.live.iter().map(|row| 100.0 * row.mpps / row.floor_mpps).reduce(f64::min);
    vec![
        most("tcp4, udp4: times the floor", ratio(&["tcp4", "udp4"], false), 1.55),
        most("tcp6, udp6: times the floor", ratio(&["tcp6", "udp6"], false), 1.65),
        most("syn4, syn6: times the floor", ratio(&["syn4", "syn6"], false), 1.65),
        most("not_a_vip: times the floor", ratio(&["not_a_vip"], false), 1.0),
        most(
            "traffic to all services: times the floor",
            ratio(&["tcp4", "udp4", "tcp6", "udp6", "syn4", "syn6"], true),
            2.5,
        ),
        most("cache_hit4, cache_hit6 at 1,024: times the floor", worst("cache_hit", 1024), 2.2),
        most("cache_hit4, cache_hit6 at 1,048,576: times the floor", worst("cache_hit", 1_048_576), 4.0),
        most("cache_miss4, cache_miss6: times the floor", worst("cache_miss", u32::MAX), 2.2),
        most("quic_cid4, quic_cid6: times the floor", worst("quic_cid", u32::MAX), 1.75),
        most("receiver_known4, receiver_known6: times the floor", worst("receiver_known", u32::MAX), 5.0),
        Target { what: "live: per cent of the floor's rate", worst: share, goal: Goal::AtLeast(85.0) },
        most("one change at 1,000 services, ms", at(1000).map(|row| row.one_change_ms), 5.0),
        most("full plan of 10,000 services, ms", at(10_000).map(|row| row.full_plan_ms), 2000.0),
        most("RSS at 10,000 services, MiB", at(10_000).map(|row| row.rss_mib), 500.0),
    ]
}

impl Target {
    fn line(&self) -> String {
        let Some(worst) = self.worst else { return String::new() };
        let (met, goal) = match self.goal {
            Goal::AtMost(most) => (worst <= most, format!("≤ {most}")),
            Goal::AtLeast(least) => (worst >= least, format!("≥ {least}")),
        };
        let verdict = if met { "met   " } else { "missed" };
        format!("{verdict}  {}: {worst:.2}, target {goal}\n", self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a", "1"], ["bcd", "23"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&["x", "ns"], rows.into_iter()), "x    ns\na     1\nbcd  23\n");
    }

    #[test]
    fn a_target_says_whether_it_is_met() {
        let line = |worst, goal| Target { what: "x", worst: Some(worst), goal }.line();
        assert_eq!(line(1.5, Goal::AtMost(1.5)), "met     x: 1.50, target ≤ 1.5\n");
        assert_eq!(line(1.51, Goal::AtMost(1.5)), "missed  x: 1.51, target ≤ 1.5\n");
        assert_eq!(line(84.9, Goal::AtLeast(85.0)), "missed  x: 84.90, target ≥ 85\n");
        assert_eq!(Target { what: "x", worst: None, goal: Goal::AtMost(1.0) }.line(), "");
    }
}
