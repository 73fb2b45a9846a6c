//! A plan for people: a table of its actions, and what to know of it.

use super::{Report, Row};
use crate::cli::table::{Cell, Style, Table};
use crate::text::counted;

impl Report {
    pub(super) fn text(&self, colour: bool) -> String {
        let mut text = String::new();
        if self.actions.is_empty() && self.refused.is_none() {
            text += "nothing would change\n";
        }
        if !self.actions.is_empty() {
            let mut table = Table::new(&["ACTION", "FOR", "AT", "WHAT"]);
            for Row { action, subject, place, detail } in &self.actions {
                table.row(vec![Cell::new(action), Cell::new(subject), Cell::new(place), Cell::new(detail)]);
            }
            text += &format!("{}\n{}\n", table.render(colour), counted(self.actions.len() as u64, "action"));
        }
        if let Some(refused) = &self.refused {
            text += &(Style::Bad.paint(&format!("not all of it now: {refused}"), colour) + "\n");
        }
        match &self.installed_fingerprint {
            Some(installed) if *installed == self.fingerprint => {}
            Some(installed) => text += &format!("slots {installed}, planned {}\n", self.fingerprint),
            None => text += &format!("slots none, planned {}\n", self.fingerprint),
        }
        for problem in &self.problems {
            text += &(Style::Warning.paint(&format!("problem: {problem}"), colour) + "\n");
        }
        for note in &self.notes {
            text += &(Style::Dim.paint(&format!("note: {note}"), colour) + "\n");
        }
        text
    }
}
