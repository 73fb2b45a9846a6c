//! What the steps of a test run came to.
//!
//! In: steps, one after the other. Out: their headings and times, a summary, and the verdict. A step that fails
//! without a failed test (a lint, a crate that doesn't build, a crash) counts as one failure, so that the count
//! line never looks green when the exit code isn't.

use std::process::ExitStatus;
use std::time::Instant;

use anyhow::{Result, bail};
use serde::{Serialize, Serializer};

use super::listen::{Counts, Heard};
use crate::interrupt::Interrupted;
use crate::output::Output;

/// The JSON document, and what the summary for people is made of.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    counts: Counts,
    parts: Vec<Done>,
    left_out: Vec<String>,
    #[serde(skip)]
    output: Output,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Well,
    Failed,
    /// What it needs isn't there; says so among what was left out.
    NotChecked,
}

impl Ended {
    /// As the program that did it.
    pub(super) fn by(status: ExitStatus) -> Self {
        if status.success() { Self::Well } else { Self::Failed }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Well => "ok",
            Self::Failed => "FAILED",
            Self::NotChecked => "not checked",
        }
    }
}

/// `true`, `false`, or `null` where nobody knows.
impl Serialize for Ended {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ok = match self {
            Self::Well => Some(true),
            Self::Failed => Some(false),
            Self::NotChecked => None,
        };
        ok.serialize(serializer)
    }
}

/// One step that was done.
#[derive(Debug, Serialize)]
struct Done {
    name: String,
    ok: Ended,
    seconds: f64,
    #[serde(flatten)]
    counts: Counts,
}

impl Report {
    pub(super) fn new(output: Output) -> Self {
        Self { counts: Counts::default(), parts: Vec::new(), left_out: Vec::new(), output }
    }

    /// Does a step and notes how it ended. An error is this step's alone, unless xtask was interrupted.
    pub(super) fn step(&mut self, name: &str, work: impl FnOnce(&mut Heard) -> Result<Ended>) -> Result<()> {
        self.output.say(&format!("\n== {name} =="));
        let start = Instant::now();
        let mut heard = Heard::default();
        let ok = match work(&mut heard) {
            Ok(ok) => ok,
            Err(error) if error.is::<Interrupted>() => return Err(error),
            Err(error) => {
                eprintln!("error: {error:#}");
                Ended::Failed
            }
        };
        let seconds = start.elapsed().as_secs_f64();
        self.output.say(&format!("-- {name}: {} in {seconds:.1} s", ok.word()));
        self.note(name, ok, seconds, heard);
        Ok(())
    }

    fn note(&mut self, name: &str, ok: Ended, seconds: f64, heard: Heard) {
        let mut counts = heard.counts;
        if ok == Ended::Failed && counts.failed == 0 {
            counts.failed = 1;
        }
        self.counts += counts;
        let new = heard.left_out.into_iter().filter(|what| !self.left_out.contains(what)).collect::<Vec<_>>();
        self.left_out.extend(new);
        let seconds = (seconds * 10.0).round() / 10.0;
        self.parts.push(Done { name: name.to_owned(), ok, seconds, counts });
    }

    /// Says what everything came to; an error if that isn't green.
    pub(super) fn conclude(&self, full: bool) -> Result<()> {
        self.output.say("\n== summary ==");
        let width = self.parts.iter().map(|part| part.name.chars().count()).max().unwrap_or(0);
        for Done { name, ok, seconds, counts } in &self.parts {
            let tests =
                if *counts == Counts::default() { String::new() } else { format!("  {}", line(*counts)) };
            self.output.say(&format!("{name:<width$}  {:<11}  {seconds:>6.1} s{tests}", ok.word()));
        }
        if !self.left_out.is_empty() {
            let hint = if full { "" } else { " (more runs with --full)" };
            self.output.say(&format!("\nleft out{hint}:"));
            for what in &self.left_out {
                self.output.say(&format!("  {what}"));
            }
        }
        self.output.document(self)?;
        let verdict = self.verdict();
        if let Err(error) = &verdict {
            // Before the counts, which tools expect to come last.
            self.output.say(&format!("\n{error}"));
        }
        self.output.say(&line(self.counts));
        verdict
    }

    fn verdict(&self) -> Result<()> {
        let failed: Vec<&str> = self
            .parts
            .iter()
            .filter(|part| part.ok == Ended::Failed)
            .map(|part| part.name.as_str())
            .collect();
        if !failed.is_empty() {
            bail!("failed: {}", failed.join("; "));
        }
        if self.counts.failed > 0 {
            bail!("{} tests failed", self.counts.failed);
        }
        if self.counts.passed == 0 {
            bail!("no test ran, which proves nothing");
        }
        Ok(())
    }
}

fn line(Counts { passed, failed, skipped }: Counts) -> String {
    format!("{passed} passed, {failed} failed, {skipped} skipped")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(passed: u64, failed: u64, skipped: u64) -> Heard {
        let mut heard = Heard::default();
        heard.counts = Counts { passed, failed, skipped };
        heard
    }

    #[test]
    fn green_needs_tests_that_ran() {
        let mut report = Report::new(Output::Json);
        report.note("lint", Ended::Well, 0.1, heard(0, 0, 0));
        assert!(report.verdict().unwrap_err().to_string().contains("no test ran"));
        report.note("skipped", Ended::Well, 0.1, heard(0, 0, 7));
        assert!(report.verdict().is_err(), "all were skipped");
        report.note("tests", Ended::Well, 0.1, heard(3, 0, 1));
        assert!(report.verdict().is_ok());
        assert_eq!(line(report.counts), "3 passed, 0 failed, 8 skipped");
    }

    #[test]
    fn a_step_that_fails_without_a_failed_test_is_one_failure() {
        let mut report = Report::new(Output::Json);
        report.note("tests", Ended::Well, 0.1, heard(3, 0, 0));
        report.note("clippy", Ended::Failed, 0.1, heard(0, 0, 0));
        report.note("world", Ended::Failed, 0.1, heard(1, 2, 0));
        assert_eq!(report.counts, Counts { passed: 4, failed: 3, skipped: 0 });
        assert_eq!(report.verdict().unwrap_err().to_string(), "failed: clippy; world");
    }

    #[test]
    fn the_document_has_the_promised_fields() {
        let mut report = Report::new(Output::Json);
        let mut said = heard(3, 0, 1);
        said.left_out.push("a matrix".to_owned());
        report.note("core", Ended::Well, 1.26, said);
        let mut said = heard(0, 0, 0);
        said.left_out.push("a matrix".to_owned());
        report.note("world", Ended::Well, 2.0, said);
        let document = serde_json::to_value(&report).unwrap();
        assert_eq!(
            document,
            serde_json::json!({
                "passed": 3, "failed": 0, "skipped": 1, "left_out": ["a matrix"],
                "parts": [
                    {"name": "core", "ok": true, "seconds": 1.3, "passed": 3, "failed": 0, "skipped": 1},
                    {"name": "world", "ok": true, "seconds": 2.0, "passed": 0, "failed": 0, "skipped": 0},
                ],
            })
        );
    }

    #[test]
    fn what_could_not_be_checked_is_neither_well_nor_failed() {
        let mut report = Report::new(Output::Json);
        report.step("tests", |heard| Ok(Ended::by(passes(heard)))).unwrap();
        report.step("advisories", |_| Ok(Ended::NotChecked)).unwrap();
        assert!(report.verdict().is_ok());
        assert_eq!(report.parts[1].ok.word(), "not checked");
        assert_eq!(serde_json::to_value(&report).unwrap()["parts"][1]["ok"], serde_json::Value::Null);
    }

    fn passes(heard: &mut Heard) -> ExitStatus {
        heard.counts.passed = 1;
        ExitStatus::default()
    }

    #[test]
    fn errors_end_a_step_and_interrupts_end_the_run() {
        let mut report = Report::new(Output::Json);
        report.step("broken", |_| bail!("x")).unwrap();
        assert_eq!(report.counts.failed, 1);
        report
            .step("next", |heard| Ok(if heard.line("nothing") { Ended::Well } else { Ended::Failed }))
            .unwrap();
        assert_eq!(report.parts.len(), 2);
        assert_eq!((report.parts[0].ok, report.parts[1].ok), (Ended::Failed, Ended::Well));
    }
}
