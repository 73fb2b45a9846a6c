//! A table for people: aligned columns, the state coloured on a terminal.

use std::io::{self, IsTerminal};

use super::needs::{Row, State};

/// The rows as text, one line each below a heading. `done` names rows that setup has just dealt with.
pub(crate) fn render(rows: &[Row], done: &[String], colour: bool) -> String {
    let mut cells = vec![["NEEDED", "STATE", "FOUND", "WHAT FOR"].map(str::to_owned)];
    for row in rows {
        let state = if done.contains(&row.what) { "installed" } else { word(&row.state) };
        cells.push([row.what.clone(), state.to_owned(), row.found.clone(), row.why.to_owned()]);
    }
    let widths: [usize; 4] = std::array::from_fn(|column| {
        cells.iter().map(|line| line[column].chars().count()).max().unwrap_or(0)
    });
    let mut text = String::new();
    for (index, line) in cells.iter().enumerate() {
        let paint = if colour && index > 0 { paint(&rows[index - 1].state) } else { "" };
        let reset = if paint.is_empty() { "" } else { "\x1b[0m" };
        let state = format!("{paint}{:<width$}{reset}", line[1], width = widths[1]);
        let [what, _, found, why] = line;
        let [w0, _, w2, _] = widths;
        text.push_str(&format!("{what:<w0$}  {state}  {found:<w2$}  {why}"));
        text.push('\n');
    }
    text
}

/// Whether standard output is a terminal that may be coloured.
pub(crate) fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

fn word(state: &State) -> &'static str {
    match state {
        State::Met => "ok",
        State::Unknown => "unknown",
        State::Missing(_) => "missing",
        State::Lacking(_) => "lacking",
        State::AsRoot => "as root",
    }
}

fn paint(state: &State) -> &'static str {
    match state {
        State::Met => "\x1b[32m",
        State::Unknown | State::AsRoot => "\x1b[33m",
        State::Missing(_) | State::Lacking(_) => "\x1b[31m",
    }
}
